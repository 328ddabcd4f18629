"""An import from end to end: registers, offers, remembers how far it is, and tells what became of every row."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Final, Protocol

import grpc
import orjson

from throughline.ingestion.v1 import events_pb2, ingestion_pb2, interaction_pb2
from throughline_client.importer.mapping import Mapping as MappingFile
from throughline_client.importer.problems import Reject
from throughline_client.importer.producing import Counts, Production, produce
from throughline_client.sdk.ingestion import IngestionClient
from throughline_client.sdk.recording import (
    BATCH,
    BATCH_BYTES,
    IN_FLIGHT,
    VERDICTS,
    Answered,
    Interactions,
    Verdicts,
)
from throughline_rpc import RemoteRefusal

_KNOWN: Final = (events_pb2.VERDICT_RECORDED, events_pb2.VERDICT_DUPLICATE)


class Progress(Protocol):
    """Hears how far an import is."""

    def began(self, name: str, size: int, resumed: int) -> None:
        """An import begins on a file of `size` (bytes or rows), after `resumed` interactions that are known."""
        ...

    def moved(self, name: str, done: int, verdicts: Verdicts) -> None:
        """`done` of the size is read, and so many interactions are answered."""
        ...

    def interrupted(self, name: str, refusal: RemoteRefusal) -> None:
        """Ingestion is away or overloaded; the import waits and goes on."""
        ...

    def ended(self, name: str) -> None:
        """The import is through."""
        ...


@dataclass(slots=True)
class ImportResult:
    """What became of one import of a mapping. `resumed` interactions were answered in an earlier, stopped run."""

    name: str
    file: str
    counts: Counts
    verdicts: Verdicts
    resumed: int = 0

    def as_dict(self) -> dict[str, object]:
        return {
            "import": self.name,
            "file": self.file,
            "resumed": self.resumed,
            **asdict(self.counts),
            **self.verdicts.as_dict(),
        }


@dataclass(slots=True)
class ImportReport:
    """What became of a whole mapping's imports."""

    mapping: str
    imports: list[ImportResult] = field(default_factory=list[ImportResult])
    problems: int = 0
    rejects_file: str = ""

    @property
    def rejected(self) -> bool:
        """Whether rows of the data could not be offered."""
        return self.problems > 0

    @property
    def troubled(self) -> bool:
        """Whether ingestion refused, quarantined or found in conflict any interaction."""
        return any(each.verdicts.refused + each.verdicts.quarantined + each.verdicts.conflict for each in self.imports)

    def as_dict(self) -> dict[str, object]:
        return {
            "mapping": self.mapping,
            "imports": [each.as_dict() for each in self.imports],
            "problems": self.problems,
            "rejects_file": self.rejects_file,
        }


class RejectsFile:
    """Every row that was not recorded, as NDJSON; the file is made with its first entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected = 0
        self.written = 0
        self._file: IO[bytes] | None = None
        path.unlink(missing_ok=True)

    def reject(self, reject: Reject) -> None:
        """A row that could not be offered."""
        self.rejected += 1
        self._write({"verdict": "rejected", **asdict(reject)})

    def result(
        self, file: str, row: int, offered: interaction_pb2.Interaction, given: ingestion_pb2.InteractionResult
    ) -> None:
        """An interaction that was offered and neither recorded nor known."""
        self._write(
            {
                "verdict": VERDICTS.get(given.verdict, "refused"),
                "file": file,
                "row": row,
                "source": offered.source,
                "source_interaction_id": offered.source_interaction_id,
                "violations": [
                    {"field": each.field, "rule": each.rule, "remedy": each.remedy, "reason": each.reason}
                    for each in given.violations
                ],
            }
        )

    def _write(self, entry: dict[str, object]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")
        self.written += 1
        self._file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@dataclass(slots=True)
class Checkpoint:
    """How far an import is, kept beside the suite's data. It belongs to these bytes of mapping and files only.

    `source` and `source_interaction_id` name an interaction that was answered as recorded or known: where ingestion
    does not know it, its log is another one and the import starts from the beginning.
    """

    path: Path
    acknowledged: int = 0
    verdicts: dict[str, int] = field(default_factory=dict[str, int])
    source: str = ""
    source_interaction_id: str = ""

    @classmethod
    def of(cls, folder: Path, mapping: MappingFile, name: str, files: Mapping[str, Path]) -> Checkpoint:
        """Reads the checkpoint of an import, or begins one."""
        hashed = sha256(f"{mapping.digest}\0{name}\0".encode())
        for file in sorted(files):
            hashed.update(file.encode() + b"\0" + _digest(files[file]))
        checkpoint = cls(folder / f"{mapping.name}-{name}-{hashed.hexdigest()[:24]}.json")
        try:
            found = orjson.loads(checkpoint.path.read_bytes())
            checkpoint.acknowledged = int(found["acknowledged"])
            checkpoint.verdicts = {str(key): int(count) for key, count in found["verdicts"].items()}
            checkpoint.source = str(found["source"])
            checkpoint.source_interaction_id = str(found["source_interaction_id"])
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            return cls(checkpoint.path)
        return checkpoint

    async def holds(self, ingestion: IngestionClient) -> bool:
        """Whether ingestion knows what this checkpoint says it knows. Raises: RemoteRefusal."""
        if not self.acknowledged or not self.source:
            return False
        try:
            await ingestion.interaction(source=self.source, source_interaction_id=self.source_interaction_id)
        except RemoteRefusal as refusal:
            if refusal.code is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    def advance(self, answered: Answered, verdicts: Verdicts) -> None:
        """Remembers a batch that was answered."""
        self.acknowledged += len(answered.interactions)
        self.verdicts = {name: getattr(verdicts, name) for name in VERDICTS.values()}
        for offered, given in zip(answered.interactions, answered.results, strict=True):
            if given.verdict in _KNOWN:
                self.source, self.source_interaction_id = offered.source, offered.source_interaction_id
                break
        self._save()

    def forget(self) -> None:
        """The import is through: the next one starts from the beginning and finds duplicates."""
        self.path.unlink(missing_ok=True)

    def restart(self) -> None:
        self.acknowledged, self.verdicts, self.source, self.source_interaction_id = 0, {}, "", ""

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        draft.write_bytes(
            orjson.dumps(
                {
                    "acknowledged": self.acknowledged,
                    "verdicts": self.verdicts,
                    "source": self.source,
                    "source_interaction_id": self.source_interaction_id,
                }
            )
        )
        draft.replace(self.path)


def _digest(path: Path) -> bytes:
    hashed = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            hashed.update(chunk)
    return hashed.digest()


async def register(ingestion: IngestionClient, mapping: MappingFile, *, replace: bool = False) -> None:
    """Registers the mapping's channels and sources. Raises: RemoteRefusal, e.g. CHANNEL_CONFLICT unless `replace`."""
    for channel in mapping.channels:
        await ingestion.register_channel(channel.channel, channel.traits, replace=replace)
    for source in mapping.sources:
        await ingestion.register_source(source.source, source.name, list(source.channels), replace=replace)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How an import is run. `folder` keeps checkpoints; `patience` is how long it waits for ingestion, in seconds."""

    folder: Path
    rejects: Path
    only: Sequence[str] = ()
    replace: bool = False
    restart: bool = False
    patience: float | None = 60.0
    in_flight: int = IN_FLIGHT


async def run_import(
    ingestion: IngestionClient,
    mapping: MappingFile,
    files: Mapping[str, Path],
    options: ImportOptions,
    progress: Progress,
) -> ImportReport:
    """Imports a mapping's files. Running it again, or after a stop, counts nothing twice.

    Raises: MappingError, DataFileError, RemoteRefusal; what was acknowledged until then stays, and the next run goes on
    from there.
    """
    rejects = RejectsFile(options.rejects)
    report = ImportReport(mapping.name)
    try:
        registered = False
        for production in produce(mapping, files, rejects.reject, options.only):
            if not registered:
                # After the first file was bound: a mapping that does not fit registers nothing.
                await register(ingestion, mapping, replace=options.replace)
                registered = True
            report.imports.append(
                await _import(ingestion, mapping, production, options=options, progress=progress, rejects=rejects)
            )
    finally:
        rejects.close()
        report.problems = rejects.rejected
        report.rejects_file = str(rejects.path) if rejects.written else ""
    return report


async def _import(
    ingestion: IngestionClient,
    mapping: MappingFile,
    production: Production,
    *,
    options: ImportOptions,
    progress: Progress,
    rejects: RejectsFile,
) -> ImportResult:
    name = production.spec.name
    checkpoint = Checkpoint.of(options.folder, mapping, name, production.files)
    if options.restart or not await checkpoint.holds(ingestion):
        checkpoint.restart()
    verdicts = Verdicts(**checkpoint.verdicts)
    result = ImportResult(name, production.table.file, production.counts, verdicts, checkpoint.acknowledged)
    progress.began(name, production.table.size, checkpoint.acknowledged)
    rows: deque[list[int]] = deque()
    answers = ingestion.record_batches(
        _batches(
            production, checkpoint.acknowledged, rows, lambda: progress.moved(name, production.table.done, verdicts)
        ),
        in_flight=options.in_flight,
        patience=options.patience,
        interrupted=lambda refusal: progress.interrupted(name, refusal),
    )
    async for answered in answers:
        numbers = rows.popleft()
        verdicts.add(answered.results)
        for row, offered, given in zip(numbers, answered.interactions, answered.results, strict=True):
            if given.verdict not in _KNOWN:
                rejects.result(production.table.file, row, offered, given)
        checkpoint.advance(answered, verdicts)
        progress.moved(name, production.table.done, verdicts)
    checkpoint.forget()
    progress.ended(name)
    return result


def _batches(
    production: Production, known: int, rows: deque[list[int]], moved: Callable[[], None]
) -> Iterator[Interactions]:
    """Batches of what is not acknowledged yet; the row numbers of each go to `rows`."""
    batch: Interactions = []
    numbers: list[int] = []
    weight = 0
    for index, produced in enumerate(production):
        if index < known:
            if not index % BATCH:
                moved()
            continue
        batch.append(produced.interaction)
        numbers.append(produced.row)
        weight += produced.interaction.ByteSize()
        if len(batch) >= BATCH or weight >= BATCH_BYTES:
            rows.append(numbers)
            yield batch
            batch, numbers, weight = [], [], 0
    if batch:
        rows.append(numbers)
        yield batch


def count_only(
    mapping: MappingFile, files: Mapping[str, Path], rejects_path: Path, only: Sequence[str], progress: Progress
) -> tuple[ImportReport, list[interaction_pb2.Interaction]]:
    """Maps everything and sends nothing; answers the counts and the first interaction of each import.

    Raises: MappingError, DataFileError.
    """
    rejects = RejectsFile(rejects_path)
    report = ImportReport(mapping.name)
    examples: list[interaction_pb2.Interaction] = []
    try:
        for production in produce(mapping, files, rejects.reject, only):
            name = production.spec.name
            nothing = Verdicts()
            progress.began(name, production.table.size, 0)
            for index, produced in enumerate(production):
                if index == 0:
                    examples.append(produced.interaction)
                if not index % BATCH:
                    progress.moved(name, production.table.done, nothing)
            progress.ended(name)
            report.imports.append(ImportResult(name, production.table.file, production.counts, nothing))
    finally:
        rejects.close()
        report.problems = rejects.rejected
        report.rejects_file = str(rejects.path) if rejects.written else ""
    return report, examples
