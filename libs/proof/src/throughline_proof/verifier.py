"""Verifies what Throughline proves. Needs Python 3.11 or later and the package `cryptography`, and nothing else.

A pack carries this module and `figures` as one file, `verify.py`.

docs/proofs.md describes the constructions: the tree is that of RFC 6962 and RFC 9162, notes and checkpoints have the
C2SP formats `signed-note` and `tlog-checkpoint`, and the map of subjects is our own.
"""

from __future__ import annotations

import argparse
import binascii
import io
import itertools
import json
import sys
import zipfile
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from throughline_proof.figures import Fact, ScoreTold, payload_of, recompute

EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of a tree without leaves."""
FAN: Final = 256
"""Groups of the map of subjects, and buckets of each group."""
ENTRY_BYTES: Final = 64
NO_HEAD: Final = bytes(32)
_ED25519: Final = b"\x01"
_KEY_HASH: Final = 4
_SIGNATURE: Final = 64
_DASH: Final = "\u2014 "
_HASH: Final = 32


class NoteInvalidError(ValueError):
    """Not a note, not a checkpoint, or not signed by a known key; the message says which line and why."""


# The tree over a log: RFC 6962 and RFC 9162.


def leaf_of(position: int, stream_id: bytes, version: int, type_: str, envelope: bytes) -> bytes:
    """The bytes of a logged event that its log's tree is over.

    Position (u64, big endian), stream id (16 bytes), version (u64), length of the type (u16), type, envelope as stored.
    """
    name = type_.encode()
    return b"".join(
        (
            position.to_bytes(8, "big"),
            stream_id,
            version.to_bytes(8, "big"),
            len(name).to_bytes(2, "big"),
            name,
            envelope,
        )
    )


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf, from its bytes."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof leads from a leaf's hash to the root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(each, found)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            found = node_hash(found, each)
        place >>= 1
        last >>= 1
    return last == 0 and found == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows the old tree to be the beginning of the new one (RFC 9162, 2.1.4.2)."""
    if not 0 < old < new:
        nothing_to_prove = (old == new >= 0 and old_root == new_root) or (old == 0 <= new and old_root == EMPTY_ROOT)
        return nothing_to_prove and not proof
    # A tree of a power of two is a node of the new one: its root is where the path begins.
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place >>= 1
        last >>= 1
    old_found = new_found = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            old_found = node_hash(each, old_found)
            new_found = node_hash(each, new_found)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            new_found = node_hash(new_found, each)
        place >>= 1
        last >>= 1
    return last == 0 and old_found == old_root and new_found == new_root


# The map from every subject of a log to the head of its list of events.


class Head(NamedTuple):
    """How many events of a log concern a subject, and the hash over their list."""

    events: int
    head: bytes


NOTHING: Final = Head(0, NO_HEAD)
"""The head of a subject that no event concerns."""


class SubjectProof(NamedTuple):
    """What proves a subject's head against a map's root.

    `entries`: those of its bucket, 64 bytes each, in key order. `group`: the hashes of the 256 buckets of its group.
    `top`: the hashes of the 256 groups.
    """

    entries: bytes
    group: bytes
    top: bytes


def key_of(subject: bytes) -> bytes:
    """Under what a subject is found in the map, 32 bytes; the first names its group, the second its bucket there."""
    return sha256(b"\x05" + subject).digest()


def next_head(head: bytes, leaf: bytes) -> bytes:
    """The head of a list that an event joins, by the hash of its leaf."""
    return sha256(b"\x02" + head + leaf).digest()


def head_over(leaves: Iterable[bytes], head: Head = NOTHING) -> Head:
    """The head once events of these leaf hashes join a list, in log order."""
    events, found = head
    for leaf in leaves:
        events, found = events + 1, next_head(found, leaf)
    return Head(events, found)


def commitment(head: Head) -> bytes:
    """What an entry of a bucket says of a head, 32 bytes."""
    return sha256(b"\x06" + head.events.to_bytes(8, "big") + head.head).digest()


def bucket_hash(entries: bytes) -> bytes:
    """The hash of a bucket, from its entries (key, commitment) put together in key order."""
    return sha256(b"\x03" + entries).digest()


def group_hash(hashes: bytes) -> bytes:
    """The hash over 256 hashes put together: of a group's buckets, or of all groups, which is the map's root."""
    return sha256(b"\x04" + hashes).digest()


def verify_subject(subject: bytes, head: Head, proof: SubjectProof, root: bytes) -> bool:
    """Whether the map of this root says exactly this head of the subject; none at all is proved by absence."""
    key, (entries, group, top) = key_of(subject), proof
    if len(entries) % ENTRY_BYTES or len(group) != FAN * _HASH or len(top) != FAN * _HASH:
        return False
    said = {entries[at : at + 32]: entries[at + 32 : at + ENTRY_BYTES] for at in range(0, len(entries), ENTRY_BYTES)}
    if list(said) != sorted(said) or len(said) * ENTRY_BYTES != len(entries):
        return False
    if said.get(key) != (commitment(head) if head.events else None):
        return False
    if any(each[:2] != key[:2] for each in said):
        return False
    in_top, in_group = key[0] * _HASH, key[1] * _HASH
    return (
        bucket_hash(entries) == group[in_group : in_group + _HASH]
        and group_hash(group) == top[in_top : in_top + _HASH]
        and group_hash(top) == root
    )


# Signed notes and checkpoints.


@dataclass(frozen=True)
class PublicKey:
    """A key that verifies notes. `key` has 32 bytes."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        if not self.name or any(char.isspace() or char == "+" for char in self.name):
            raise NoteInvalidError(f"a key's name has no white space and no `+`: {self.name!r}")
        if len(self.key) != _HASH:
            raise NoteInvalidError(f"the Ed25519 key {self.name} has {len(self.key)} bytes, not 32")

    @property
    def hash(self) -> bytes:
        """What a signature says of the key that made it: 4 bytes."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:_KEY_HASH]

    @property
    def vkey(self) -> str:
        """`name+hash+key`, as verifiers take it."""
        return f"{self.name}+{self.hash.hex()}+{b64encode(_ED25519 + self.key).decode()}"

    @classmethod
    def of_vkey(cls, vkey: str) -> PublicKey:
        """Reads a vkey. Raises: NoteInvalidError."""
        name, _, rest = vkey.strip().partition("+")
        encoded = rest.partition("+")[2]
        try:
            raw = b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise NoteInvalidError(f"{vkey!r} is no verifier key: it is not base64 behind its second `+`") from error
        if raw[:1] != _ED25519:
            raise NoteInvalidError(f"{vkey!r} is no Ed25519 verifier key (name+hash+key)")
        key = cls(name, raw[1:])
        if key.vkey != vkey.strip():
            raise NoteInvalidError(f"{vkey!r}: the verifier key of these bytes is {key.vkey}")
        return key

    def verifies(self, text: str, signature: bytes) -> bool:
        """Whether the signature of a note's text (with the newline at its end) is by this key."""
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


def open_note(note: str, keys: Iterable[PublicKey]) -> tuple[str, list[PublicKey]]:
    """The text of a note and the known keys that signed it, at least one.

    Signatures by keys that are not known are passed over, as the format asks for.
    Raises: NoteInvalidError where a known key's signature is wrong, or none is there.
    """
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise NoteInvalidError("not a signed note: no empty line, or no newline at its end")
    text += "\n"
    known = {(key.name, key.hash): key for key in keys}
    signers: list[PublicKey] = []
    for number, line in enumerate(signatures[:-1].split("\n"), 1):
        name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        try:
            raw = b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        # Its bytes in one form alone: else a bit could be changed unseen.
        if not line.startswith(_DASH) or not name or len(raw) <= _KEY_HASH or b64encode(raw).decode() != encoded:
            raise NoteInvalidError(f"signature line {number} is none: {line[:80]!r}")
        key = known.get((name, raw[:_KEY_HASH]))
        if key is None:
            continue
        if len(raw) != _KEY_HASH + _SIGNATURE or not key.verifies(text, raw[_KEY_HASH:]):
            raise NoteInvalidError(
                f"the signature by {name} is not over this text: it was changed, or made by another key"
            )
        signers.append(key)
    if not signers:
        raise NoteInvalidError("no known key signed it: give the key of the installation that made it")
    return text, signers


@dataclass(frozen=True)
class Checkpoint:
    """What a log was, as one line each of a note.

    RFC 6962 root over its first `size` events, the root of its map of subjects, the position of the last event, and
    when this was said (microseconds since epoch).
    """

    origin: str
    size: int
    root: bytes
    map_root: bytes
    position: int
    time: int

    def text(self) -> str:
        """The note's text."""
        return (
            f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"
            f"time {self.time}\nposition {self.position}\nmap {b64encode(self.map_root).decode()}\n"
        )

    @classmethod
    def of_text(cls, text: str) -> Checkpoint:
        """Reads the text of a note. Raises: NoteInvalidError, naming the line."""
        lines = text.split("\n")
        if len(lines) != 7 or lines[6] or not lines[0]:
            raise NoteInvalidError("not a checkpoint of ours: it has six lines")
        said: dict[str, str] = {}
        for line, expected in zip(lines[3:6], ("time", "position", "map"), strict=True):
            name, _, value = line.partition(" ")
            if name != expected:
                raise NoteInvalidError(f"not a checkpoint of ours: {line[:40]!r} stands where `{expected}` should")
            said[name] = value
        return cls(
            lines[0],
            _number("size", lines[1]),
            _hash("root", lines[2]),
            _hash("map", said["map"]),
            _number("position", said["position"]),
            _number("time", said["time"]),
        )


def open_checkpoint(note: str, keys: Iterable[PublicKey]) -> Checkpoint:
    """The checkpoint of a note that a known key signed. Raises: NoteInvalidError."""
    return Checkpoint.of_text(open_note(note, keys)[0])


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or (len(text) > 1 and text[0] == "0") or len(text) > 19:
        raise NoteInvalidError(f"the {name} is {text[:40]!r}, which is no decimal number")
    return int(text)


def _hash(name: str, text: str) -> bytes:
    try:
        raw = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteInvalidError(f"the {name} is {text[:60]!r}, which is no base64") from error
    if len(raw) != _HASH or b64encode(raw).decode() != text:
        raise NoteInvalidError(f"the {name} is {text[:60]!r}, which is no hash of 32 bytes")
    return raw


# Evidence packs.

FORMAT: Final = "throughline-evidence/1"
PACK_HEADER: Final = "throughline evidence pack v1"
CERTIFICATE_HEADER: Final = "throughline forgetting certificate v1"
MANIFEST: Final = "manifest.json"
MANIFEST_NOTE: Final = "manifest.note"
_MOST_BYTES: Final = 4 << 30


class PackInvalidError(ValueError):
    """Not an evidence pack at all; the message says why."""


@dataclass
class Report:
    """What was found: `proved` says what holds, `broken` names everything that does not."""

    proved: list[str]
    broken: list[str]

    @property
    def holds(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken


def pack_bytes(files: Mapping[str, bytes]) -> bytes:
    """The one zip of these files: stored in order of their names, all of one date."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return packed.getvalue()


def unpack(raw: bytes) -> dict[str, bytes]:
    """The files of a pack. Raises: PackInvalidError for anything but the one zip of its files."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                raise PackInvalidError("says that it holds more than 4 GiB")
            files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise PackInvalidError(f"is no readable zip ({error}): a file in it was changed, or it was cut off") from error
    if pack_bytes(files) != raw:
        raise PackInvalidError("is not as it was written: bytes of the zip around its files were changed")
    return files


def verify(raw: bytes, keys: Sequence[PublicKey], earlier: Sequence[str] = ()) -> Report:
    """Verifies an evidence pack, or a certificate. Raises: PackInvalidError, UnicodeDecodeError for what is neither."""
    return verify_pack(raw, keys, earlier) if _is_zip(raw) else verify_certificate(raw.decode(), keys)


def _is_zip(raw: bytes) -> bool:
    return raw.startswith(b"PK")


def verify_pack(raw: bytes, keys: Sequence[PublicKey], earlier: Sequence[str] = ()) -> Report:
    """Verifies an evidence pack against keys that are trusted, and against checkpoints (notes) that are at hand.

    Raises: PackInvalidError where it cannot be read at all.
    """
    files = unpack(raw)
    report = Report([], [])
    manifest = _verify_manifest(files, keys, report)
    shown = {service: _LogVerifier(service, manifest, files, keys, report).verify(earlier) for service in manifest.logs}
    if manifest.kind == "score":
        _verify_score(files, shown.get("scoring", []), report)
    return report


def verify_certificate(note: str, keys: Sequence[PublicKey]) -> Report:
    """Verifies the certificate that somebody was forgotten, against keys that are trusted.

    Raises: PackInvalidError where it is none.
    """
    try:
        text, signers = open_note(note, keys)
    except NoteInvalidError as error:
        return Report([], [f"certificate: {error}"])
    header, _, said_text = text.partition("\n")
    if header != CERTIFICATE_HEADER:
        raise PackInvalidError(f"is a note that begins with {header[:60]!r}: neither a pack nor a certificate")
    said: Any = json.loads(said_text)
    report = Report([], [])
    if said["origin"].partition("/")[0] != signers[0].name:
        report.broken.append(f"certificate: is of {said['origin']}, and signed by {signers[0].name}")
        return report
    for each in said["forgettings"]:
        report.proved.append(
            f"client {each['client_id']} was forgotten at {_when(each['at'])}, decided by {each['decided_by']}: "
            f"event {each['event_id']} at position {each['position']} of {said['origin']}"
        )
    report.proved.append(
        f"{said['keys_destroyed']} sealing keys are destroyed, none is left; signed by {signers[0].name}"
    )
    return report


@dataclass
class Manifest:
    """What a pack says that it holds. `logs` names the services whose logs it shows, and how (`mode`)."""

    kind: str
    about: Mapping[str, Any]
    installation: str
    logs: Mapping[str, str]
    files: Mapping[str, str]

    @classmethod
    def of(cls, raw: bytes) -> Manifest:
        """Reads one. Raises: PackInvalidError."""
        try:
            said: Any = json.loads(raw)
            if said["format"] != FORMAT:
                raise PackInvalidError(f"has the format {said['format']!r}, this verifier reads {FORMAT!r}")
            return cls(
                str(said["kind"]),
                dict(said["about"]),
                str(said["installation"]),
                {str(name): str(mode) for name, mode in said["logs"].items()},
                {str(name): str(digest) for name, digest in said["files"].items()},
            )
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise PackInvalidError(f"has no readable {MANIFEST} ({error})") from error


def _verify_manifest(files: Mapping[str, bytes], keys: Sequence[PublicKey], report: Report) -> Manifest:
    raw = files.get(MANIFEST, b"")
    manifest = Manifest.of(raw)
    try:
        text, signers = open_note(files.get(MANIFEST_NOTE, b"").decode(), keys)
        if text != f"{PACK_HEADER}\n{sha256(raw).hexdigest()}\n":
            report.broken.append(f"{MANIFEST}: is not the one that was signed")
        else:
            report.proved.append(f"made by {signers[0].name}, every file as its manifest says")
    except (NoteInvalidError, UnicodeDecodeError) as error:
        report.broken.append(f"{MANIFEST_NOTE}: {error}")
    listed = {*manifest.files, MANIFEST, MANIFEST_NOTE}
    report.broken += [f"{name}: is in the pack, and not in its manifest" for name in sorted(files.keys() - listed)]
    report.broken += [f"{name}: is in the manifest, and not in the pack" for name in sorted(listed - files.keys())]
    report.broken += [
        f"{name}: was changed"
        for name, digest in sorted(manifest.files.items())
        if name in files and sha256(files[name]).hexdigest() != digest
    ]
    return manifest


@dataclass(frozen=True)
class Shown:
    """An event of a log as a pack shows it. Of one behind the cut only the leaf's hash is shown: `type` is empty."""

    index: int
    position: int
    leaf: bytes
    proof: Sequence[bytes]
    stream_id: bytes = b""
    version: int = 0
    type: str = ""
    envelope: bytes = b""

    @classmethod
    def of(cls, line: str) -> Shown:
        """Reads a line. Raises: ValueError, KeyError or TypeError."""
        said: Any = json.loads(line)
        proof = [bytes.fromhex(each) for each in said.get("proof", ())]
        index, position = int(said["index"]), int(said["position"])
        if "envelope" not in said:
            return cls(index, position, bytes.fromhex(said["leaf"]), proof)
        stream_id, version, type_ = bytes.fromhex(said["stream_id"]), int(said["version"]), str(said["type"])
        envelope = b64decode(said["envelope"], validate=True)
        leaf = leaf_hash(leaf_of(position, stream_id, version, type_, envelope))
        return cls(index, position, leaf, proof, stream_id, version, type_, envelope)


def root_of(leaves: Iterable[bytes]) -> tuple[int, bytes]:
    """The number and the RFC 6962 root of these leaf hashes."""
    whole: list[tuple[int, bytes]] = []
    size = 0
    for leaf in leaves:
        size += 1
        level, found = 0, leaf
        while whole and whole[-1][0] == level:
            found = node_hash(whole.pop()[1], found)
            level += 1
        whole.append((level, found))
    root = b""
    for _, each in reversed(whole):
        root = node_hash(each, root) if root else each
    return size, root or EMPTY_ROOT


def _is_of(origin: str, installation: str, log: str) -> bool:
    """Whether a checkpoint's origin is that of a log: `<installation>/ingestion/101` of `ingestion-101`, and
    `<installation>/ingestion_access/101` of `ingestion-101_access`. A name without a number is of whatever partition.
    """
    name, _, part = log.partition("-")
    number, _, kind = part.partition("_")
    begun, _, ends = origin.rpartition("/")
    return begun == f"{installation}/{name}{f'_{kind}' if kind else ''}" and ends == (number or ends)


@dataclass
class _LogVerifier:
    """Verifies what a pack shows of one log."""

    service: str
    manifest: Manifest
    files: Mapping[str, bytes]
    keys: Sequence[PublicKey]
    report: Report

    def _broken(self, what: str) -> None:
        self.report.broken.append(f"{self.service}: {what}")

    def _file(self, name: str) -> str:
        return self.files[f"logs/{self.service}/{name}"].decode()

    def verify(self, earlier: Sequence[str]) -> Sequence[Shown]:
        """The events shown, whatever was found; none where they cannot be read."""
        shown: list[Shown] = []
        try:
            shown += [Shown.of(line) for line in self._file("events.ndjson").splitlines()]
            self._verify(shown, earlier)
        except NoteInvalidError as error:
            self._broken(f"its checkpoint does not hold: {error}")
        except KeyError as error:
            self._broken(f"{error} is missing")
        except (ValueError, TypeError, AttributeError) as error:
            self._broken(f"what the pack shows of this log cannot be read: {error}")
        return shown

    def _verify(self, shown: Sequence[Shown], earlier: Sequence[str]) -> None:
        checkpoint = open_checkpoint(self._file("checkpoint.note"), self.keys)
        if not _is_of(checkpoint.origin, self.manifest.installation, self.service):
            self._broken(f"its checkpoint is of {checkpoint.origin}")
            return
        for before, after in itertools.pairwise(shown):
            if after.position <= before.position or after.index <= before.index:
                self._broken(f"the event at position {after.position} stands behind that at {before.position}")
        self._verify_events(shown, checkpoint)
        self._verify_subjects(shown, checkpoint)
        self._verify_earlier(checkpoint, earlier)

    def _verify_events(self, shown: Sequence[Shown], checkpoint: Checkpoint) -> None:
        mode = self.manifest.logs[self.service]
        signed = f"the log of {checkpoint.size:,} events signed at {_when(checkpoint.time)}"
        if mode == "beginning":
            said: Any = json.loads(self._file("beginning.json"))
            size, root = root_of(each.leaf for each in shown)
            hashes = [bytes.fromhex(each) for each in said["hashes"]]
            if size != said["size"] or not verify_consistency(size, checkpoint.size, root, checkpoint.root, hashes):
                self._broken(f"the {size:,} events shown are not the first {said['size']:,} of {signed}")
            else:
                self.report.proved.append(f"{self.service}: the first {size:,} events, all of them, begin {signed}")
            return
        for each in shown:
            if not verify_inclusion(each.leaf, each.index, checkpoint.size, each.proof, checkpoint.root):
                self._broken(f"the event at position {each.position} is not in {signed} as it is shown")
        if mode == "range":
            for before, after in itertools.pairwise(shown):
                if after.index != before.index + 1:
                    self._broken(f"events are missing between position {before.position} and {after.position}")
        self.report.proved.append(f"{self.service}: {len(shown):,} events are in {signed}, unchanged")

    def _verify_subjects(self, shown: Sequence[Shown], checkpoint: Checkpoint) -> None:
        leaves = {each.position: each.leaf for each in shown}
        wanted = {str(each) for each in self.manifest.about.get("subjects", {}).get(self.service, ())}
        for line in self._file("subjects.ndjson").splitlines():
            said: Any = json.loads(line)
            name, positions = str(said["subject"]), [int(each) for each in said["positions"]]
            wanted.discard(name)
            if missing := [each for each in positions if each not in leaves]:
                self._broken(f"of {name} the events at positions {', '.join(map(str, missing))} are left out")
                continue
            head = head_over(leaves[each] for each in positions)
            parts = (b64decode(said[part], validate=True) for part in ("entries", "group", "top"))
            if not verify_subject(bytes.fromhex(name), head, SubjectProof(*parts), checkpoint.map_root):
                self._broken(f"the {len(positions)} events shown of {name} are not all that the log has of it")
            else:
                self.report.proved.append(f"{self.service}: of {name} every event is shown ({len(positions)})")
        for name in sorted(wanted):
            self._broken(f"nothing proves that the events shown of {name} are all")

    def _verify_earlier(self, checkpoint: Checkpoint, at_hand: Sequence[str]) -> None:
        continued: set[Checkpoint] = set()
        for line in self._file("earlier.ndjson").splitlines():
            said: Any = json.loads(line)
            before = open_checkpoint(str(said["note"]), self.keys)
            hashes = [bytes.fromhex(each) for each in said["hashes"]]
            same_log = before.origin == checkpoint.origin
            if not same_log or not verify_consistency(
                before.size, checkpoint.size, before.root, checkpoint.root, hashes
            ):
                self._broken(f"the log does not continue its checkpoint of {before.size:,} events: it was rewritten")
                continue
            continued.add(before)
            self.report.proved.append(
                f"{self.service}: continues its checkpoint of {before.size:,} events signed at {_when(before.time)}"
            )
        for note in at_hand:
            held = open_checkpoint(note, self.keys)
            if held.origin == checkpoint.origin and held not in {*continued, checkpoint}:
                self._broken(
                    f"the pack does not prove that the log continues the checkpoint of {held.size:,} events that is at "
                    "hand: have it made with --since"
                )


def _verify_score(files: Mapping[str, bytes], shown: Iterable[Shown], report: Report) -> None:
    """Recomputes the score from the events shown of scoring's log."""
    try:
        said: Any = json.loads(files["score.json"])
        told = ScoreTold(**said["score"])
        facts = (Fact(each.position, each.type, payload_of(each.envelope)) for each in shown if each.type)
        differences = recompute(told, [str(each) for each in said["evidence"]], facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        report.broken.append(f"score.json: cannot be recomputed: {error}")
        return
    report.broken += [f"score.json: {each}" for each in differences]
    if not differences:
        value = "too little to tell" if told.value is None else f"{told.value!r} {told.unit}"
        figure = f"{told.metric} of {told.whose}, {value} (n {told.n:,})"
        report.proved.append(f"score: {figure}, recomputed to the last digit")


def _when(micros: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat(" ", "seconds")


def read_keys(text: str) -> list[PublicKey]:
    """The verifier keys of a file, one a line. Raises: NoteInvalidError where there is none, or a line is none."""
    keys = [PublicKey.of_vkey(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise NoteInvalidError("holds no verifier key (name+hash+key, one a line)")
    return keys


def notes_in(raw: bytes) -> list[str]:
    """The checkpoints in a file: a note, or an earlier pack. Raises: PackInvalidError, UnicodeDecodeError."""
    if not _is_zip(raw):
        return [raw.decode()]
    return [each.decode() for name, each in sorted(unpack(raw).items()) if name.endswith("/checkpoint.note")]


def main(arguments: Sequence[str] | None = None) -> int:
    """`verify.py PACK --key FILE`, or a certificate for a pack. Exit code 0: all holds; 4: not all; 2: bad input."""
    parser = argparse.ArgumentParser(description="Verifies an evidence pack of Throughline, offline.")
    parser.add_argument("pack", type=Path)
    parser.add_argument("--key", type=Path, required=True, help="verifier keys that you trust, one a line")
    parser.add_argument("--earlier", type=Path, action="append", default=[], help="a checkpoint or pack that you hold")
    given = parser.parse_args(arguments)
    try:
        keys = read_keys(given.key.read_text(encoding="utf-8"))
        earlier = [note for file in given.earlier for note in notes_in(file.read_bytes())]
        report = verify(given.pack.read_bytes(), keys, earlier)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{given.pack}: {error}\n")
        return 2
    sys.stdout.writelines(f"holds   {line}\n" for line in report.proved)
    sys.stdout.writelines(f"BROKEN  {line}\n" for line in report.broken)
    return 0 if report.holds else 4


if __name__ == "__main__":
    sys.exit(main())
