"""An evidence pack: the files in it, as docs/evidence.md describes them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from typing import Any

import orjson

from throughline.eventlog.v1 import eventlog_pb2
from throughline.proof.v1 import proof_pb2
from throughline.scoring.v1 import events_pb2
from throughline_audit.gathering import BEGINNING, LogPart
from throughline_eventlog import file_descriptor_set
from throughline_proof.figures import ScoreTold
from throughline_proof.standalone import standalone
from throughline_proof.verifier import FORMAT, MANIFEST, MANIFEST_NOTE, leaf_hash, leaf_of, pack_bytes

_README = """\
This is evidence from an installation of Throughline: events of its logs, and what proves them.

Open index.html to read it. To verify it, offline, with Python 3.11 or later and the package `cryptography`:

    python verify.py PACK.zip --key FILE

FILE holds the verifier keys that you trust, as the installation gave them to you (`throughline signing public`); the
keys in keys.txt are only what the pack itself says. Better than the verify.py in here is one that you had before.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pack is about.

    `kind`: client, interaction, range, score or access. `about`: what was asked, as JSON has it. `cut`: instant
    (microseconds) after whose commits events are only counted, 0 for none.
    """

    kind: str
    about: Mapping[str, Any]
    made_at: int
    cut: int = 0


class Pack:
    """A pack before it is signed."""

    def __init__(
        self, asked: Asked, parts: Mapping[str, LogPart], vkeys: Iterable[str], more: Mapping[str, bytes]
    ) -> None:
        keys = sorted(vkeys)
        self._files: dict[str, bytes] = {
            "README.txt": _README.encode(),
            "keys.txt": "".join(f"{vkey}\n" for vkey in keys).encode(),
            "verify.py": standalone(),
            "contracts.binpb": file_descriptor_set(
                import_module(f"{package}.events_pb2").DESCRIPTOR
                for package in sorted(
                    {
                        proof.event.type.rpartition(".")[0]
                        for part in parts.values()
                        for proof in part.proofs
                        if shown(proof, asked.cut)
                    }
                )
            ),
            **more,
        }
        for part in parts.values():
            self._files.update(_log_files(part, asked.cut))
        about = {
            **asked.about,
            "subjects": {name: sorted(part.subjects) for name, part in parts.items() if part.subjects},
            **({"cut": asked.cut} if asked.cut else {}),
        }
        self._manifest = orjson.dumps(
            {
                "format": FORMAT,
                "kind": asked.kind,
                "about": about,
                "made_at": asked.made_at,
                "program": version("throughline-audit"),
                "installation": keys[0].partition("+")[0],
                "logs": {name: part.mode for name, part in parts.items()},
                "files": {name: sha256(content).hexdigest() for name, content in sorted(self._files.items())},
            },
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
        )

    @property
    def digest(self) -> bytes:
        """What is signed: the SHA-256 of the manifest."""
        return sha256(self._manifest).digest()

    def signed(self, note: str) -> bytes:
        """The pack's bytes, with the note that signs its manifest."""
        return pack_bytes({**self._files, MANIFEST: self._manifest, MANIFEST_NOTE: note.encode()})


def score_told(score: events_pb2.Score) -> dict[str, Any]:
    """A score as the verifier takes it."""
    interval = {"begins": score.between.start, "ends": score.between.end}
    told: dict[str, Any] = {name: getattr(score, name) for name in ScoreTold._fields if name not in interval}
    told["parts"] = dict(score.parts)
    return told | interval | {name: None for name in ("value", "low", "high") if not score.HasField(name)}


def shown(proof: proof_pb2.InclusionProof, cut: int) -> bool:
    """Whether an event is shown, or behind the cut and only counted."""
    return not cut or eventlog_pb2.Envelope.FromString(proof.event.envelope).recorded_at <= cut


def _log_files(part: LogPart, cut: int) -> dict[str, bytes]:
    folder = f"logs/{part.service}"
    found = {
        f"{folder}/checkpoint.note": part.checkpoint.note.encode(),
        f"{folder}/events.ndjson": _lines(_event_line(proof, cut) for proof in part.proofs),
        f"{folder}/subjects.ndjson": _lines(
            {
                "subject": subject,
                "positions": list(response.positions),
                **{name: b64encode(getattr(response, name)).decode() for name in ("entries", "group", "top")},
            }
            for subject, response in sorted(part.subjects.items())
        ),
        f"{folder}/earlier.ndjson": _lines(
            {"note": note, "hashes": [each.hex() for each in hashes]} for note, hashes in part.earlier
        ),
    }
    if part.mode == BEGINNING:
        said = {"size": len(part.proofs), "hashes": [each.hex() for each in part.beginning]}
        found[f"{folder}/beginning.json"] = _lines([said])
    return found


def _event_line(proof: proof_pb2.InclusionProof, cut: int) -> dict[str, Any]:
    event = proof.event
    line: dict[str, Any] = {"index": proof.index, "position": event.position}
    if proof.hashes:
        line["proof"] = [each.hex() for each in proof.hashes]
    if not shown(proof, cut):
        leaf = leaf_of(event.position, event.stream_id, event.version, event.type, event.envelope)
        return {**line, "leaf": leaf_hash(leaf).hex()}
    return {
        **line,
        "stream_id": event.stream_id.hex(),
        "version": event.version,
        "type": event.type,
        "envelope": b64encode(event.envelope).decode(),
    }


def _lines(objects: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in objects)
