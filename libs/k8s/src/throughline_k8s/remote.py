"""Runs a command as a Job from its making to its end: its log as it comes, its result, and nothing left behind."""

from __future__ import annotations

import hashlib
import http.client
import secrets
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from throughline_client.commands.running import BAD_INPUT, UNAVAILABLE, Failure
from throughline_k8s import jobs, reading
from throughline_k8s.cluster import CRON_JOBS, JOBS, PODS, Cluster, ClusterError
from throughline_k8s.forwarding import HOST, Forward
from throughline_k8s.jobs import Asked, Finished, Said
from throughline_k8s.release import Pod, selector

LOOK_SECONDS: Final = 1.0
FETCH_SECONDS: Final = 60.0
TRIES: Final = 5
_PIECE: Final = 1 << 20
Tell = Callable[[str], None]


@dataclass(slots=True)
class Remote:
    """One command in the cluster. `tell` is given what goes on and what the command says; `start_seconds` is how long
    it may take until it runs.
    """

    cluster: Cluster
    release: str
    tell: Tell
    start_seconds: float = 300.0
    name: str = ""
    _last: str = field(default="", repr=False)

    def run(self, asked: Asked, into: Path, *, keep: bool = False) -> int:
        """Runs it and unpacks its result into a folder; answers the command's exit code.

        The Job is deleted in any case, an interruption among them, unless it is to be kept. Raises: Failure.
        """
        found = self.cluster.listed(CRON_JOBS, selector(self.release, jobs.COMPONENT))
        if not found:
            raise Failure(
                f"release {self.release} has nothing to make a Job from: switch k8sClient.enabled on in its values",
                UNAVAILABLE,
            )
        template = found[0]
        self.name = f"{template['metadata']['name'][:50]}-{secrets.token_hex(4)}"
        body = jobs.job(template, self.name, asked)
        try:
            self.cluster.create(JOBS, body)
            self.tell(f"job {self.name} in {self.cluster.namespace}")
            finished = self._follow(self._started())
            self._fetch(finished, into)
        finally:
            if not keep:
                self.cluster.delete(JOBS, self.name)
        return finished.code

    def _pod(self) -> Pod | None:
        pods = self.cluster.listed(PODS, f"{jobs.JOB_NAME_LABEL}={self.name}")
        return reading.pod(pods[0]) if pods else None

    def _started(self) -> Pod:
        """Waits until the container runs or has run, and says what it waits for."""
        deadline = time.monotonic() + self.start_seconds
        said = ""
        while True:
            pod = self._pod()
            if pod is not None and pod.phase in {"Running", "Succeeded", "Failed"}:
                return pod
            waiting = "its pod is not made yet" if pod is None else pod.waiting or pod.phase
            if waiting != said:
                self.tell(f"waiting: {waiting}")
                said = waiting
            if time.monotonic() > deadline:
                raise Failure(f"job {self.name} did not start in {self.start_seconds:g} s: {waiting}", UNAVAILABLE)
            time.sleep(LOOK_SECONDS)

    def _follow(self, pod: Pod) -> Finished:
        """Tells the log as it comes; where it breaks off it is taken up again where it was."""
        container = pod.containers[0].name
        broken = 0
        while True:
            try:
                for line in self.cluster.log(pod.name, container, self._last):
                    finished = self._hear(line)
                    if finished is not None:
                        return finished
                broken = 0
            except ClusterError as error:
                broken += 1
                if broken > TRIES:
                    raise Failure(f"the log of {pod.name} cannot be followed: {error}", UNAVAILABLE) from error
            now = self._pod()
            if now is None or now.phase in {"Succeeded", "Failed"}:
                why = "its pod was deleted" if now is None else now.waiting or _last_words(now)
                raise Failure(f"job {self.name} ended before its result was there: {why}", UNAVAILABLE)
            time.sleep(LOOK_SECONDS)

    def _hear(self, line: str) -> Finished | None:
        at, _, text = line.partition(" ")
        # A log taken up again begins with the whole second that it broke off in.
        if at <= self._last:
            return None
        self._last = at
        match jobs.heard(text):
            case Finished() as finished:
                return finished
            case Said(said):
                self.tell(said)
            case started:
                self.tell(f"running: throughline {' '.join(started.command)}")
        return None

    def _fetch(self, finished: Finished, into: Path) -> None:
        """Fetches the result, holds it against its digest, and unpacks it."""
        pod = self._pod()
        if pod is None:
            raise Failure(f"job {self.name} is gone, and its result with it", UNAVAILABLE)
        into.mkdir(parents=True, exist_ok=True)
        part = into / f".{self.name}.tar"
        try:
            self._download(pod, finished, part)
            unpack(part, into)
        finally:
            part.unlink(missing_ok=True)

    def _download(self, pod: Pod, finished: Finished, part: Path) -> None:
        failures: list[str] = []
        with Forward(lambda: self.cluster.tunnel(pod.name, jobs.RESULT_PORT), failed=failures.append) as forward:
            for tried in range(1, TRIES + 1):
                try:
                    digest = _get(forward, part)
                except (OSError, http.client.HTTPException) as error:
                    if tried == TRIES:
                        why = next(iter(failures), str(error))
                        raise Failure(f"the result of job {self.name} cannot be fetched: {why}", UNAVAILABLE) from error
                    continue
                if digest == finished.sha256:
                    _thank(forward)
                    return
        raise Failure(f"the result of job {self.name} arrives damaged", UNAVAILABLE)


def _last_words(pod: Pod) -> str:
    return pod.last_end or f"it {pod.phase.lower()}"


def unpack(archive: Path, into: Path) -> None:
    """Unpacks files and folders. Raises: Failure for anything else in it, or for a place that is not in the folder:
    what a pod sends is not believed.
    """
    root = into.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            target = (root / member.name).resolve()
            content = tar.extractfile(member) if member.isreg() else None
            if not target.is_relative_to(root) or (content is None and not member.isdir()):
                raise Failure(f"the result has {member.name}, which may not be put into {into}", BAD_INPUT)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)


def _get(forward: Forward, part: Path) -> str:
    digest = hashlib.sha256()
    connection = http.client.HTTPConnection(HOST, forward.port, timeout=FETCH_SECONDS)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        with part.open("wb") as file:
            while piece := answer.read(_PIECE):
                digest.update(piece)
                file.write(piece)
    finally:
        connection.close()
    return digest.hexdigest()


def _thank(forward: Forward) -> None:
    """Lets the container end. Where that is not heard it ends by itself, and the Job is deleted anyway."""
    connection = http.client.HTTPConnection(HOST, forward.port, timeout=FETCH_SECONDS)
    try:
        connection.request("DELETE", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        click.echo("the result arrived, but its Job did not hear of it", err=True)
    finally:
        connection.close()
