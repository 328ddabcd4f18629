"""Work in a cluster as a Job: made of the suspended CronJob that the chart keeps for it, and what it says. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from throughline_client.commands.running import CALLER

COMPONENT: Final = "replay"
RESULT_PORT: Final = 8099
OUTPUT: Final = "output"
"""The file of the result with what the command said on its standard output."""
MARK: Final = "throughline-job "
SENT_FILES: Final = "THROUGHLINE_SENT_FILES"
# A variable of an environment holds at most 128 KiB.
SENT_BYTES: Final = 90_000
JOB_NAME_LABEL: Final = "batch.kubernetes.io/job-name"
WORK: Final = ".work"
TOLD: Final = ("all", "client", "interaction")
DECIDED: Final = ("rederive", "whatif")
SEARCHED: Final = ("audit", "forgotten")
OTHERS: Final = ("audit", "checkpoint", "preflight")

Json = Mapping[str, Any]


class NotHereError(ValueError):
    """Something that does not run as a Job; the message says what does."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to run: the command as it is typed, and files that it reads by name. Times in seconds."""

    command: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    limit: int = 86_400
    keep: int = 600


def in_the_cluster(typed: Sequence[str]) -> tuple[str, ...]:
    """The command as the Job runs it: replays by their short name, and what needs the stores with their settings.

    Raises: NotHereError.
    """
    first, rest = (typed[0], tuple(typed[1:])) if typed else ("", ())
    if first in TOLD:
        return ("replay", first, *rest)
    if first in DECIDED:
        return (first, *rest, "--from-environment", "--work", WORK)
    if (first, *rest[:1]) == SEARCHED:
        return (first, *rest, "--from-environment")
    if first in OTHERS:
        return (first, *rest)
    raise NotHereError(f"{first!r} does not run as a Job; these do: {', '.join((*TOLD, *DECIDED, *OTHERS))}")


def job(template: Json, name: str, asked: Asked) -> dict[str, Any]:
    """A Job out of a CronJob's template: its image, its service account and its settings, but another command.

    It is tried once, belongs to the CronJob (so that it goes with the release), and is gone some time after its end
    where nobody takes it away. Raises: NotHereError for files that are too long.
    """
    made: dict[str, Any] = deepcopy(template["spec"]["jobTemplate"])
    made.update(apiVersion="batch/v1", kind="Job")
    own = template["metadata"]
    made["metadata"] = {
        **(made.get("metadata") or {}),
        "name": name,
        "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "CronJob", "name": own["name"], "uid": own["uid"], "controller": False}
        ],
    }
    made["spec"].update(backoffLimit=0, activeDeadlineSeconds=asked.limit, ttlSecondsAfterFinished=asked.keep)
    container = made["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["python", "-m", "throughline_k8s.inside"]
    container["args"] = ["--keep", str(asked.keep), "--port", str(RESULT_PORT), "--", *asked.command]
    # The log of reads says which Job it was, the cluster's own audit log who made it.
    own_env = {CALLER: name, **({SENT_FILES: _sent(asked.files)} if asked.files else {})}
    container["env"] = [
        *(container.get("env") or []),
        *({"name": variable, "value": value} for variable, value in own_env.items()),
    ]
    return made


def _sent(files: Mapping[str, bytes]) -> str:
    size = sum(map(len, files.values()))
    if size > SENT_BYTES:
        raise NotHereError(f"the files to send are {size:,} bytes, at most {SENT_BYTES:,} go along with a Job")
    return orjson.dumps({name: b64encode(data).decode() for name, data in files.items()}).decode()


@dataclass(frozen=True, slots=True)
class Started:
    """The Job's command runs."""

    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The Job's command ended with `code`; its result waits, `size` bytes with that SHA-256 in hex."""

    code: int
    size: int
    sha256: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """A line that the command said to people."""

    text: str


def told(state: Started | Finished) -> str:
    """The line of the Job's log that says it."""
    match state:
        case Started(command):
            return MARK + orjson.dumps({"state": "started", "command": command}).decode()
        case Finished(code, size, sha256, files):
            said = {"state": "finished", "code": code, "size": size, "sha256": sha256, "files": files}
            return MARK + orjson.dumps(said).decode()


def heard(line: str) -> Started | Finished | Said:
    """What a line of a Job's log means."""
    if not line.startswith(MARK):
        return Said(line)
    try:
        said = orjson.loads(line.removeprefix(MARK))
        if said["state"] == "started":
            return Started(tuple(said["command"]))
        return Finished(said["code"], said["size"], said["sha256"], tuple(said["files"]))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Said(line)
