"""A Kubernetes API server for Helm: it keeps objects, refuses the changes that Kubernetes refuses, and runs nothing.

Objects are applied by one manager alone, Helm, so that what it no longer names is gone. Controllers are what a test
makes of them: `settle` is called with each object as it comes and after each change, and may say that it is ready.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from typing import Any, ClassVar, Final, Self
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import yaml

Document = dict[str, Any]
Key = tuple[str, str, str]
"""Resource, namespace, name."""

KINDS: Final[Mapping[str, Mapping[str, str]]] = {
    "v1": {
        "configmaps": "ConfigMap",
        "namespaces": "Namespace",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "pods": "Pod",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "apps/v1": {"deployments": "Deployment", "replicasets": "ReplicaSet", "statefulsets": "StatefulSet"},
    "batch/v1": {"cronjobs": "CronJob", "jobs": "Job"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {"rolebindings": "RoleBinding", "roles": "Role"},
}
_PATH: Final = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?$"
)
_VERSION: Final = {"major": "1", "minor": "34", "gitVersion": "v1.34.2"}
_FIXED: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("spec.selector",),
    "Job": ("spec.template", "spec.selector", "spec.completions", "spec.completionMode"),
    "PersistentVolumeClaim": ("spec",),
    "Pod": ("spec",),
    "RoleBinding": ("roleRef",),
    "Secret": ("type",),
    "Service": ("spec.clusterIP",),
}
"""What of a kind cannot be changed once it is there."""
_OF_SETS: Final = {
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "replicas",
    "revisionHistoryLimit",
    "template",
    "updateStrategy",
}
"""All of a StatefulSet's spec that can."""


def refused_change(old: Document, new: Document) -> str | None:
    """Why Kubernetes does not change the one into the other; None where it does."""
    for path in _FIXED.get(new["kind"], ()):
        if _at(old, path) != _at(new, path):
            return f"{path}: field is immutable"
    if old.get("immutable") and (not new.get("immutable") or old.get("data") != new.get("data")):
        return "field is immutable when `immutable` is set"
    if new["kind"] == "StatefulSet":
        before, after = old["spec"], new["spec"]
        if any(before.get(key) != after.get(key) for key in {*before, *after} - _OF_SETS):
            return f"updates to statefulset spec for fields other than {', '.join(sorted(_OF_SETS))} are forbidden"
    return None


def _at(document: Document, path: str) -> Any:
    found: Any = document
    for step in path.split("."):
        found = (found or {}).get(step)
    return found


class ApiServer:
    """The API of a cluster, over HTTP on the loopback."""

    def __init__(self, settle: Callable[[Document], None]) -> None:
        self.objects: dict[Key, Document] = {}
        self.version = 1
        self.changed = threading.Condition(threading.RLock())
        self._settle = settle
        self._events: list[tuple[int, str, Key, Document]] = []
        self._closed = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    @property
    def kubeconfig(self) -> str:
        """What leads here, as YAML."""
        server = f"http://127.0.0.1:{self._server.server_port}"
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": {"server": server}}],
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "somebody"}}],
                "users": [{"name": "somebody", "user": {}}],
                "current-context": "here",
            }
        )

    def named(self, plural: str) -> dict[str, Document]:
        """A resource's objects by name, each a copy."""
        with self.changed:
            return {name: deepcopy(each) for (of, _, name), each in self.objects.items() if of == plural}

    def keep(self, key: Key, document: Document) -> Document:
        """Keeps an object, and tells whoever watches."""
        with self.changed:
            what = "MODIFIED" if key in self.objects else "ADDED"
            self.version += 1
            document["metadata"]["resourceVersion"] = str(self.version)
            self._settle(document)
            self.objects[key] = document
            self._tell(what, key, document)
            return document

    def drop(self, key: Key) -> None:
        """Forgets an object."""
        with self.changed:
            self.version += 1
            self._tell("DELETED", key, self.objects.pop(key))

    def _tell(self, what: str, key: Key, document: Document) -> None:
        self._events.append((self.version, what, key, deepcopy(document)))
        self.changed.notify_all()

    def events(self, since: int, plural: str) -> Iterator[tuple[str, Document]]:
        """What happens to objects of a resource after a version, without an end."""
        seen = 0
        while True:
            with self.changed:
                while seen >= len(self._events) and not self._closed:
                    self.changed.wait()
                if self._closed:
                    return
                fresh, seen = self._events[seen:], len(self._events)
            for version, what, (of, _, _), document in fresh:
                if version > since and of == plural:
                    yield what, document


class _RefusedError(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": status}
        self.body |= {"message": message, "reason": reason}


class _Handler(BaseHTTPRequestHandler):
    api: ClassVar[ApiServer]
    protocol_version = "HTTP/1.1"
    # Or every answer waits 40 ms for the acknowledgement of its own header.
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- named so there
        """Tests look at objects."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        try:
            found = _discovered(url.path.strip("/").split("/"))
            if found is None:
                version, key = self._meant(url.path)
                if self.command == "GET" and not key[2] and query.get("watch") in {"1", "true"}:
                    self._watch(version, key, query)
                    return
                found = self._served(version, key, query, yaml.safe_load(text) if text else {})
        except _RefusedError as refused:
            self._send(refused.body, refused.status)
        else:
            self._send(found, 201 if self.command == "POST" else 200)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _answer  # noqa: N815 -- named so there

    def _meant(self, path: str) -> tuple[str, Key]:
        """The version and the key that a path names; the key's name is empty for all."""
        at = _PATH.match(path)
        version = "" if at is None else at["core"] or at["group"]
        if at is None or at["plural"] not in KINDS.get(version, {}):
            raise _RefusedError(404, "NotFound", "the server could not find the requested resource")
        return version, (at["plural"], at["namespace"] or "", at["name"] or "")

    def _served(self, version: str, key: Key, query: Mapping[str, str], body: Document) -> Document:
        plural, namespace, name = key
        with self.api.changed:
            if self.command == "POST":
                name = body["metadata"]["name"]
                if (plural, namespace, name) in self.api.objects:
                    raise _RefusedError(409, "AlreadyExists", f'{plural} "{name}" already exists')
                return self._made((plural, namespace, name), body)
            if not name:
                return {
                    "kind": f"{KINDS[version][plural]}List",
                    "apiVersion": version,
                    "metadata": {"resourceVersion": str(self.api.version)},
                    "items": self._chosen(plural, namespace, query),
                }
            there = self.api.objects.get(key)
            if there is None and self.headers.get("Content-Type") == "application/apply-patch+yaml":
                return self._made(key, body)
            if there is None:
                raise _RefusedError(404, "NotFound", f'{plural} "{name}" not found')
            if self.command == "DELETE":
                self.api.drop(key)
                return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
            return there if self.command == "GET" else self._replaced(key, there, body)

    def _chosen(self, plural: str, namespace: str, query: Mapping[str, str]) -> list[Document]:
        return [
            each
            for (of, within, _), each in sorted(self.api.objects.items())
            if of == plural and namespace in {"", within} and _matches(each, query)
        ]

    def _made(self, key: Key, body: Document) -> Document:
        document = deepcopy(body)
        document["metadata"] |= {"uid": str(uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
        document["metadata"]["namespace"] = key[1]
        return self.api.keep(key, document)

    def _replaced(self, key: Key, there: Document, body: Document) -> Document:
        if "merge-patch" in self.headers.get("Content-Type", ""):
            raise _RefusedError(415, "UnsupportedMediaType", "this server knows applied objects only")
        why = refused_change(there, body)
        if why is not None:
            raise _RefusedError(422, "Invalid", f'{body["kind"]} "{key[2]}" is invalid: {why}')
        document = {**deepcopy(body), "status": there.get("status", {})}
        kept = {each: there["metadata"][each] for each in ("uid", "creationTimestamp", "namespace")}
        changed = any(document.get(part) != there.get(part) for part in {*document, *there} - {"metadata", "status"})
        document["metadata"] |= {**kept, "generation": there["metadata"]["generation"] + changed}
        return self.api.keep(key, document)

    def _watch(self, version: str, key: Key, query: Mapping[str, str]) -> None:
        plural, namespace, _ = key
        since = int(query.get("resourceVersion") or 0)
        first: list[tuple[str, Document]] = []
        if query.get("sendInitialEvents") == "true":
            with self.api.changed:
                since = self.api.version
                first = [("ADDED", deepcopy(each)) for each in self._chosen(plural, namespace, query)]
            ended = {"resourceVersion": str(since), "annotations": {"k8s.io/initial-events-end": "true"}}
            first.append(("BOOKMARK", {"kind": KINDS[version][plural], "apiVersion": version, "metadata": ended}))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        try:
            for what, document in chain(first, self.api.events(since, plural)):
                within = namespace in {"", document["metadata"].get("namespace", "")}
                if what == "BOOKMARK" or (within and _matches(document, query)):
                    line = json.dumps({"type": what, "object": document}).encode() + b"\n"
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                    self.wfile.flush()
        except OSError:
            # Whoever watched has seen enough.
            return

    def _send(self, body: Document, status: int) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _matches(document: Document, query: Mapping[str, str]) -> bool:
    field, _, value = query.get("fieldSelector", "").partition("=")
    if field == "metadata.name" and document["metadata"]["name"] != value:
        return False
    labels = document["metadata"].get("labels", {})
    wanted = [each.partition("=") for each in query.get("labelSelector", "").split(",") if each]
    return all(labels.get(name) == value for name, _, value in wanted)


def _discovered(path: list[str]) -> Document | None:
    """What a client asks to learn which resources there are; None for everything else."""
    grouped = [version for version in KINDS if "/" in version]
    found: Document | None = None
    match path:
        case ["version"]:
            found = dict(_VERSION)
        case ["api"]:
            found = {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            groups: list[Document] = []
            for version in grouped:
                preferred = {"groupVersion": version, "version": version.partition("/")[2]}
                name = version.partition("/")[0]
                groups.append({"name": name, "versions": [preferred], "preferredVersion": preferred})
            found = {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["openapi", "v3"]:
            places = [f"{'apis' if version in grouped else 'api'}/{version}" for version in KINDS]
            found = {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in places}}
        case ["openapi", "v3", "api" | "apis", *version]:
            found = _validating("/".join(version))
        case ["api" | "apis", *version] if "/".join(version) in KINDS:
            found = _resources("/".join(version))
        case _:
            pass
    return found


def _resources(version: str) -> Document:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {
        "kind": "APIResourceList",
        "groupVersion": version,
        "resources": [
            {
                "name": plural,
                "singularName": kind.lower(),
                "namespaced": kind != "Namespace",
                "kind": kind,
                "verbs": verbs,
            }
            for plural, kind in KINDS[version].items()
        ],
    }


def _validating(version: str) -> Document:
    """Says that the server itself looks at fields, so that Helm does not ask for schemas."""
    group, _, short = version.rpartition("/")
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": _VERSION["gitVersion"]},
        "paths": {
            f"/{'apis' if group else 'api'}/{version}/namespaces/{{namespace}}/{plural}/{{name}}": {
                "patch": {
                    "parameters": [parameter],
                    "responses": {},
                    "x-kubernetes-group-version-kind": {"group": group, "kind": kind, "version": short},
                }
            }
            for plural, kind in KINDS[version].items()
        },
    }
