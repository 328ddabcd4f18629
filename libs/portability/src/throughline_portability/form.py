"""The open form of an export: a folder of gzipped NDJSON, described by its manifest and its contracts.

docs/portability.md says what each line holds.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import orjson

from throughline_eventlog import StoreSettings
from throughline_eventlog.partitions import service_of

FORMAT: Final = "throughline-export/1"
MANIFEST: Final = "manifest.json"
CONTRACTS: Final = "contracts.binpb"
KEYS: Final = "keys/wrapped.ndjson.gz"
DESTROYED: Final = "keys/destroyed.ndjson.gz"
_LEVEL: Final = 6


class ExportError(Exception):
    """An export is not what it should be, or does not fit where it is to go; the message says what to do."""


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """What an export holds of one service. `digest`: of the state that its log folds to, as `throughline status` tells
    it of the live state. `root`, `map_root` (hex): what a checkpoint of all of its events says (docs/proofs.md)."""

    position: int
    recorded_at: int
    events: int
    digest: str
    root: str
    map_root: str


@dataclass(frozen=True, slots=True)
class AccessSummary:
    """What an export holds of one service's access log: as `StoreSummary`, but that nothing is folded from it."""

    position: int
    recorded_at: int
    events: int
    root: str
    map_root: str


@dataclass(frozen=True, slots=True)
class ProofSummary:
    """What an export holds of a log's proofs: how many checkpoints, and the last one's note (empty: none)."""

    checkpoints: int
    last: str


@dataclass(frozen=True, slots=True)
class FileSummary:
    """One file: its size, its SHA-256 (hex) and its number of lines (0 for what has none)."""

    bytes: int
    sha256: str
    lines: int

    @classmethod
    def of(cls, file: Path, lines: int = 0) -> FileSummary:
        """Sums up a file as it is."""
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return cls(file.stat().st_size, digest, lines)


@dataclass(slots=True)
class Manifest:
    """What an export holds, by log, those that others followed too; of `proofs` by `<log>` and `<log>_access`.

    `made_at` in microseconds since epoch; `partitions` says how the services are parted, empty where they are not.
    """

    made_at: int
    program: str
    keys: bool
    stores: dict[str, StoreSummary] = field(default_factory=dict[str, StoreSummary])
    access: dict[str, AccessSummary] = field(default_factory=dict[str, AccessSummary])
    proofs: dict[str, ProofSummary] = field(default_factory=dict[str, ProofSummary])
    files: dict[str, FileSummary] = field(default_factory=dict[str, FileSummary])
    partitions: str = ""

    def write(self, folder: Path) -> None:
        """Writes it, last of all: a folder without one is no export."""
        (folder / MANIFEST).write_bytes(
            orjson.dumps(
                {"format": FORMAT, **asdict(self)},
                option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE,
            )
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export. Raises: ExportError where there is none, or one of another format."""
    file = folder / MANIFEST
    try:
        found = cast("dict[str, Any]", orjson.loads(file.read_bytes()))
        if found["format"] != FORMAT:
            raise ExportError(
                f"{file}: the format is {found['format']!r}, and this program reads {FORMAT!r}: use the version of "
                "Throughline that wrote it, or a later one"
            )
        return Manifest(
            int(found["made_at"]),
            str(found["program"]),
            bool(found["keys"]),
            {str(name): StoreSummary(**store) for name, store in found["stores"].items()},
            # Of an export that was made before there were access logs: none.
            {str(name): AccessSummary(**access) for name, access in found.get("access", {}).items()},
            {str(name): ProofSummary(**proofs) for name, proofs in found["proofs"].items()},
            {str(name): FileSummary(**each) for name, each in found["files"].items()},
            str(found.get("partitions", "")),
        )
    except OSError as error:
        raise ExportError(
            f"{file}: cannot be read ({error.strerror}): name a folder made by `throughline export`"
        ) from error
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(f"{file}: is no manifest of an export ({error}): take the export again") from error


def check_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Holds every file against the manifest, naming each as it is done. Raises: ExportError at the first difference."""
    for name, expected in manifest.files.items():
        file = folder / name
        try:
            found = FileSummary.of(file).sha256
        except OSError as error:
            raise ExportError(f"{file}: cannot be read ({error.strerror}): copy the export again, whole") from error
        if found != expected.sha256:
            raise ExportError(
                f"{file}: its SHA-256 is {found}, the manifest says {expected.sha256}: it was changed or cut off on "
                "its way; copy it again"
            )
        yield name


def folder_of(log: str, settings: StoreSettings) -> str:
    """The folder in an export of a store beside a log, or of the log itself: `ingestion`, `ingestion-101_proofs`."""
    return log + settings.service.removeprefix(service_of(log))


class LineWriter:
    """Writes a gzipped file of JSON lines, the same bytes for the same lines, and sums it up."""

    def __init__(self, folder: Path, name: str, files: dict[str, FileSummary]) -> None:
        self._file = folder / name
        self._name = name
        self._files = files
        self.lines = 0

    @contextmanager
    def writing(self) -> Generator[LineWriter]:
        """Opens it for the block; the summary is there after it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("wb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed:
            self._packed = packed
            yield self
        self._files[self._name] = FileSummary.of(self._file, self.lines)

    def write(self, lines: Iterable[Mapping[str, object]]) -> None:
        """Adds objects, one a line."""
        packed = [orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines]
        self.lines += len(packed)
        self._packed.write(b"".join(packed))


def read_lines(folder: Path, name: str, size: int) -> Iterator[list[dict[str, Any]]]:
    """The objects of a file, `size` at a time."""
    with gzip.open(folder / name, "rb") as packed:
        page: list[dict[str, Any]] = []
        for line in packed:
            page.append(orjson.loads(line))
            if len(page) == size:
                yield page
                page = []
        if page:
            yield page
