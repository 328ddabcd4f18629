"""A small Kubernetes API server, for tests where no cluster is: HTTP on the loopback, as `kubernetes` calls it.

It keeps what it is given after holding it against the schemas of Kubernetes, lists by labels in pages, answers only
what a role allows, follows logs, and forwards ports by Kubernetes' WebSocket protocol. Its kubelet runs a Job's command
as a process of this machine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import kubernetes_validate
import yaml

VERSION = "1.34"
TOKEN = "test-token"
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PATH = re.compile(
    r"^(?:/api/(?P<core>v1)|/apis/(?P<group>[^/]+)/(?P<version>[^/]+))/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>[^/]+))?$"
)
_KINDS = {
    "pods": "Pod",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "statefulsets": "StatefulSet",
    "deployments": "Deployment",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "cronjobs": "CronJob",
    "jobs": "Job",
    "certificates": "Certificate",
}

Json = dict[str, Any]
# What was found to be valid before: every test puts the same release.
_valid: set[str] = set()


@dataclass
class Kubelet:
    """Runs the container of a Job's pod here: its command, its environment, a folder of its own."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, pod: str, spec: Json, log: Path) -> subprocess.Popen[bytes]:
        """Starts the first container of a pod; its standard output and error are its log."""
        container = spec["containers"][0]
        home = self.folder / pod
        home.mkdir(parents=True)
        command = [*container["command"], *container["args"]]
        # A Job has the image's interpreter, which here is this one.
        command[0] = sys.executable if command[0] == "python" else command[0]
        own = {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=home,
                stdout=out,
                stderr=out,
                # Names of Services are not known here: the addresses of the suite stand for them.
                env={**os.environ, **own, **self.environment, "HOME": str(home)},
                start_new_session=True,
            )
        self.processes[pod] = process
        return process

    def stop(self) -> None:
        """Ends what still runs."""
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class KubeApi:
    """One API server with one namespace, `shop`. `ports` says where a pod's port is on this machine."""

    namespace = "shop"

    def __init__(self, folder: Path, *, rules: list[Json] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.objects: dict[tuple[str, str], Json] = {}
        self.ports: dict[tuple[str, int], int] = {}
        self.rules = rules
        self.kubelet = Kubelet(folder / "pods")
        self.asked: list[tuple[str, str]] = []
        self.needed: set[tuple[str, str, str]] = set()
        self.clock_ahead = 0.0
        self.break_log_after: int | None = None
        self.hold_pods = False
        # Without cert-manager.
        self.unknown = {"certificates"}
        self.lock = threading.RLock()
        self._version = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kubelet.stop()
        self._server.shutdown()
        self._server.server_close()

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig that leads here, with a token."""
        file = self.folder / "kubeconfig"
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [
                        {"name": "here", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}
                    ],
                    "users": [{"name": "somebody", "user": {"token": TOKEN}}],
                    "contexts": [
                        {
                            "name": "test",
                            "context": {"cluster": "here", "user": "somebody", "namespace": self.namespace},
                        }
                    ],
                }
            ),
            encoding="utf-8",
        )
        return file

    # What it keeps.

    def put(self, plural: str, body: Json) -> Json:
        """Keeps an object that Kubernetes would take. Raises: kubernetes_validate.ValidationError."""
        text = json.dumps(body, sort_keys=True)
        if plural != "certificates" and text not in _valid:
            kubernetes_validate.validate(body, VERSION, strict=True)
            _valid.add(text)
        with self.lock:
            self._version += 1
            kept = deepcopy(body)
            kept["metadata"] = {
                "namespace": self.namespace,
                "uid": str(uuid4()),
                "creationTimestamp": _now(),
                "resourceVersion": str(self._version),
                **kept["metadata"],
            }
            self.objects[plural, kept["metadata"]["name"]] = kept
        return kept

    def run_job(self, job: Json) -> None:
        """What the Job controller, the scheduler and the kubelet do: a pod with the Job's labels, and its command."""
        name = f"{job['metadata']['name']}-x7k2p"
        template = job["spec"]["template"]
        labels = {**template["metadata"].get("labels", {}), "batch.kubernetes.io/job-name": job["metadata"]["name"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": deepcopy(template["spec"]),
            "status": {"phase": "Pending", "containerStatuses": [_status("waiting", {"reason": "ContainerCreating"})]},
        }
        self.put("pods", pod)
        if not self.hold_pods:
            threading.Thread(target=self._run, args=(name,), daemon=True).start()

    def _run(self, name: str) -> None:
        pod = self.objects["pods", name]
        process = self.kubelet.start(name, pod["spec"], self.log_file(name))
        pod["status"] = {"phase": "Running", "containerStatuses": [_status("running", {"startedAt": _now()})]}
        code = process.wait()
        ended = {"exitCode": code if code >= 0 else 128 - code, "reason": "Completed" if code == 0 else "Error"}
        pod["status"] = {
            "phase": "Succeeded" if code == 0 else "Failed",
            "containerStatuses": [{**_status("terminated", ended), "lastState": {"terminated": ended}}],
        }

    def log_file(self, pod: str) -> Path:
        """Where a pod's log is."""
        return self.folder / f"{pod}.log"

    def allowed(self, verb: str, group: str, resource: str) -> bool:
        """Whether the role allows it; where there is none everything is."""
        self.needed.add((verb, group, resource))
        return self.rules is None or (verb, group, resource) in permissions(self.rules)


def permissions(rules: list[Json]) -> set[tuple[str, str, str]]:
    """(verb, group, resource) of everything that rules allow."""
    return {
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def _status(state: str, detail: Json) -> Json:
    return {
        "name": "replay",
        "image": "throughline-cli:0.1.0",
        "imageID": "",
        "ready": state == "running",
        "restartCount": 0,
        "state": {state: detail},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "000Z")


def _matches(found: Json, selector: str) -> bool:
    labels = found["metadata"].get("labels", {})
    return not selector or all(
        labels.get(name) == value for name, _, value in (each.partition("=") for each in selector.split(","))
    )


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": status,
        }


class _Handler(BaseHTTPRequestHandler):
    api: KubeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- named so there
        """Tests look at `asked`."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate((timestamp or time.time()) + self.api.clock_ahead, usegmt=True)

    def _answer(self, method: str) -> None:
        url = urlsplit(self.path)
        self.api.asked.append((method, url.path))
        try:
            self._known(method, url.path, dict(parse_qsl(url.query)))
        except _RefusedError as refused:
            self._send(refused.body, refused.status)

    def _known(self, method: str, path: str, query: dict[str, str]) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _RefusedError(401, "Unauthorized", "Unauthorized")
        if path == "/version":
            self._send({"major": "1", "minor": "34", "gitVersion": "v1.34.2"})
            return
        found = _PATH.match(path)
        if found is None or found["plural"] not in _KINDS or found["plural"] in self.api.unknown:
            raise _RefusedError(404, "NotFound", "the server could not find the requested resource")
        self._serve(method, found, query)

    def _serve(self, method: str, at: re.Match[str], query: dict[str, str]) -> None:
        plural, name, part = at["plural"], at["name"], at["part"]
        verb = {"POST": "create", "DELETE": "delete"}.get(method) or ("get" if name else "list")
        resource = f"{plural}/{part}" if part else plural
        if not self.api.allowed(verb, at["group"] or "", resource):
            message = f'{resource}.{at["group"] or ""} is forbidden: User "somebody" cannot {verb} resource'
            raise _RefusedError(403, "Forbidden", message)
        if method == "POST":
            self._create(plural)
            return
        if name is None:
            self._list(at, query)
            return
        if (plural, name) not in self.api.objects:
            raise _RefusedError(404, "NotFound", f'{plural} "{name}" not found')
        if method == "DELETE":
            with self.api.lock:
                self._delete(plural, name)
        elif part == "log":
            self._log(name, query)
        elif part == "portforward":
            self._forward(name, int(query["ports"]))
        else:
            self._send(self.api.objects[plural, name])

    def _create(self, plural: str) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # A Job has its pod before anybody can delete it: there is nobody here to collect what an owner leaves.
        with self.api.lock:
            try:
                kept = self.api.put(plural, body)
            except kubernetes_validate.ValidationError as error:
                raise _RefusedError(422, "Invalid", str(error)) from error
            if plural == "jobs":
                self.api.run_job(kept)
        self._send(kept, 201)

    def _delete(self, plural: str, name: str) -> None:
        self.api.objects.pop((plural, name))
        if plural == "jobs":
            for pod in [key for key, each in self.api.objects.items() if key[0] == "pods" and _of_job(each, name)]:
                process = self.api.kubelet.processes.get(pod[1])
                if process is not None and process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                self.api.objects.pop(pod)
        self._send({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _list(self, at: re.Match[str], query: dict[str, str]) -> None:
        plural = at["plural"]
        # Items of a list do not say their kind.
        chosen = [
            {key: value for key, value in each.items() if key not in {"kind", "apiVersion"}}
            for (of, _), each in sorted(self.api.objects.items(), key=lambda item: item[0])
            if of == plural and _matches(each, query.get("labelSelector", ""))
        ]
        # Two at a time, however many are asked for: whoever forgets to go on misses the rest.
        start = int(query.get("continue", "0"))
        rest = start + 2 < len(chosen)
        self._send(
            {
                "kind": f"{_KINDS[plural]}List",
                "apiVersion": "v1" if at["core"] else f"{at['group']}/{at['version']}",
                "metadata": {"resourceVersion": "1", **({"continue": str(start + 2)} if rest else {})},
                "items": chosen[start : start + 2],
            }
        )

    def _log(self, pod: str, query: dict[str, str]) -> None:
        if self.api.objects["pods", pod]["status"]["phase"] == "Pending":
            message = f'container "replay" in pod "{pod}" is waiting to start: ContainerCreating'
            raise _RefusedError(400, "BadRequest", message)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        since = query.get("sinceTime", "")[:19]
        sent = 0
        for at, line in self._lines(pod):
            # Kubernetes counts `sinceTime` in whole seconds.
            if at[:19] < since:
                continue
            if self.api.break_log_after is not None and sent >= self.api.break_log_after:
                self.api.break_log_after = None
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._chunk(f"{at} {line}\n".encode())
            sent += 1
        self._chunk(b"")

    def _lines(self, pod: str) -> Any:
        """The lines of a log as they come, each with one time for ever, until the pod has ended."""
        stamps = self.api.folder / f"{pod}.stamps.json"
        known: list[str] = json.loads(stamps.read_text()) if stamps.exists() else []
        file = self.api.log_file(pod)
        number = 0
        while True:
            running = self.api.kubelet.processes[pod].poll() is None
            lines = file.read_text().splitlines() if file.exists() else []
            for line in lines[number:]:
                if number >= len(known):
                    known.append(_stamp())
                    stamps.write_text(json.dumps(known))
                yield known[number], line
                number += 1
            if not running:
                return
            time.sleep(0.02)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _forward(self, pod: str, port: int) -> None:
        key = base64.b64encode(_sha1(f"{self.headers['Sec-WebSocket-Key']}{_GUID}"))
        offered = self.headers.get("Sec-WebSocket-Protocol", "")
        assert "v4.channel.k8s.io" in offered
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", key.decode())
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        self.close_connection = True
        # As the kubelet: a pod's port here may be another on this machine, else it is the same.
        _Forwarding(self.connection, self.api.ports.get((pod, port), port), port).run()

    def _send(self, body: Json, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _sha1(text: str) -> bytes:
    return hashlib.sha1(text.encode(), usedforsecurity=False).digest()


def _of_job(pod: Json, job: str) -> bool:
    return pod["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name") == job


@dataclass
class _Forwarding:
    """v4.channel.k8s.io for one port: channel 0 has the data, 1 the errors; each begins with the port's number."""

    websocket: socket.socket
    local: int
    port: int
    _rest: bytes = b""

    def run(self) -> None:
        number = struct.pack("<H", self.port)
        self._frame(b"\x00" + number)
        self._frame(b"\x01" + number)
        try:
            far = socket.create_connection(("127.0.0.1", self.local), timeout=5)
        except OSError as error:
            self._frame(f"\x01an error occurred forwarding {self.port}: {error}".encode())
            self._close()
            return
        with far:
            while True:
                ready, _, _ = select.select([self.websocket, far], [], [], 30)
                if not ready:
                    break
                if far in ready:
                    data = far.recv(65_536)
                    if not data:
                        break
                    self._frame(b"\x00" + data)
                if self.websocket in ready and not self._take(far):
                    return
        self._close()

    def _take(self, far: socket.socket) -> bool:
        data = self.websocket.recv(65_536)
        if not data:
            return False
        self._rest += data
        while (frame := self._next()) is not None:
            opcode, payload = frame
            if opcode == 8:
                return False
            if opcode == 2 and payload[:1] == b"\x00":
                far.sendall(payload[1:])
        return True

    def _next(self) -> tuple[int, bytes] | None:
        rest = self._rest
        if len(rest) < 2:
            return None
        opcode, length, at = rest[0] & 15, rest[1] & 127, 2
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(rest) < at + size:
                return None
            length = int.from_bytes(rest[at : at + size], "big")
            at += size
        if len(rest) < at + 4 + length:
            return None
        mask, body = rest[at : at + 4], rest[at + 4 : at + 4 + length]
        self._rest = rest[at + 4 + length :]
        return opcode, bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))

    def _frame(self, payload: bytes, opcode: int = 2) -> None:
        size = len(payload)
        head = bytes([128 | opcode])
        if size < 126:
            head += bytes([size])
        elif size < 65_536:
            head += b"\x7e" + struct.pack(">H", size)
        else:
            head += b"\x7f" + struct.pack(">Q", size)
        self.websocket.sendall(head + payload)

    def _close(self) -> None:
        self._frame(struct.pack(">H", 1000), 8)
