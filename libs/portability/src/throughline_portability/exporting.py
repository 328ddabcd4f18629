"""Everything an installation holds, written as an export."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

from throughline.accesslog.v1 import events_pb2 as access_events
from throughline.feedback.v1 import events_pb2 as feedback_events
from throughline.identity.v1 import events_pb2 as identity_events
from throughline.ingestion.v1 import events_pb2 as ingestion_events
from throughline.journey.v1 import events_pb2 as journey_events
from throughline.proof.v1 import proof_pb2
from throughline.proof.v1.proof_pb2 import CheckpointSigned
from throughline.scoring.v1 import events_pb2 as scoring_events
from throughline_client.installation import Installation
from throughline_eventlog import (
    ArchiveReader,
    Codec,
    LoggedRow,
    StoreSettings,
    file_descriptor_set,
    open_store,
    wall_clock,
)
from throughline_eventlog.partitions import service_of
from throughline_portability.form import (
    CONTRACTS,
    DESTROYED,
    KEYS,
    AccessSummary,
    ExportError,
    FileSummary,
    LineWriter,
    Manifest,
    ProofSummary,
    StoreSummary,
    folder_of,
)
from throughline_privacy import open_key_store_at
from throughline_proof import LogSummary, proofs_of
from throughline_replay import Replayed, make_folds
from throughline_rpc import access_log_of

PAGE: Final = 2_000
# Who consumes comes before whom it consumes: nobody in an export has taken what its upstream does not hold there.
ORDER: Final = ("scoring", "journey", "feedback", "identity", "ingestion")

# Every message that an envelope can hold: with them anybody can decode the logs.
CONTRACTS_OF_EVENTS: Final = tuple(
    module.DESCRIPTOR
    for module in (
        proof_pb2,
        access_events,
        ingestion_events,
        identity_events,
        journey_events,
        feedback_events,
        scoring_events,
    )
)

Told = Callable[[str, int], None]
"""Hears of events written, by log."""


def export_installation(installation: Installation, folder: Path, *, keys: bool, told: Told) -> Manifest:
    """Writes all logs, with everything kept beside them, and where asked the wrapped keys; each store in one view.

    The services may run. The installation's own keys (hash key, key-encryption key, signing keys) are never in it.
    Raises: ExportError where the folder is not empty; UnavailableError, SettingsError for a store.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ExportError(f"{folder}: is not empty, and an export must not be mixed with anything: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(wall_clock(), version("throughline-portability"), keys)
    manifest.partitions = installation.partitioning.write()
    (folder / CONTRACTS).write_bytes(file_descriptor_set(CONTRACTS_OF_EVENTS))
    for log, settings in sorted(installation.logs.items(), key=lambda each: ORDER.index(service_of(each[0]))):
        place = partial(_Place, folder, manifest.files, log)
        # Before its log: nothing is proved there that the log does not hold here.
        manifest.proofs[log] = _export_proofs(place(proofs_of(settings)))
        manifest.stores[log] = _export_store(place(settings), told)
        access = access_log_of(settings)
        manifest.proofs[folder_of(log, access)] = _export_proofs(place(proofs_of(access)))
        manifest.access[log] = _export_access(place(access))
    if keys:
        _export_keys(installation, folder, manifest.files)
    manifest.files[CONTRACTS] = FileSummary.of(folder / CONTRACTS)
    manifest.write(folder)
    return manifest


@dataclass(frozen=True, slots=True)
class _Place:
    """A store of a log, or beside it, and where in the export it is written."""

    folder: Path
    files: dict[str, FileSummary]
    log: str
    settings: StoreSettings

    @property
    def name(self) -> str:
        return folder_of(self.log, self.settings)


def _export_store(place: _Place, told: Told) -> StoreSummary:
    service = place.settings.service
    replayed, proved = Replayed(make_folds([service])[service]), LogSummary()
    codec = Codec(service)
    recorded_at = 0

    def take(rows: list[LoggedRow]) -> None:
        nonlocal recorded_at
        events = codec.decode(rows)
        recorded_at = events[-1].recorded_at
        replayed.take(events)
        proved.take(rows)
        told(place.log, len(rows))

    _export_archive(place, take)
    return StoreSummary(
        replayed.position,
        recorded_at,
        replayed.events,
        replayed.digest(),
        proved.root.hex(),
        proved.map_root.hex(),
    )


def _export_access(place: _Place) -> AccessSummary:
    proved, codec = LogSummary(), Codec(place.settings.service)
    position = recorded_at = 0

    def take(rows: list[LoggedRow]) -> None:
        nonlocal position, recorded_at
        last = codec.decode(rows[-1:])[0]
        position, recorded_at = last.position, last.recorded_at
        proved.take(rows)

    _export_archive(place, take)
    return AccessSummary(position, recorded_at, proved.size, proved.root.hex(), proved.map_root.hex())


def _export_proofs(place: _Place) -> ProofSummary:
    codec, last = Codec(place.settings.service), CheckpointSigned()
    checkpoints = 0

    def take(rows: list[LoggedRow]) -> None:
        nonlocal checkpoints, last
        checkpoints += len(rows)
        last = CheckpointSigned.FromString(codec.decode(rows[-1:])[0].payload)

    _export_archive(place, take)
    return ProofSummary(checkpoints, last.note)


def _export_archive(place: _Place, take: Callable[[list[LoggedRow]], None]) -> None:
    """Everything that a store holds, in one view, in a folder of its own; `take` gets the events page by page."""
    store, name, folder, files = open_store(place.settings), place.name, place.folder, place.files
    try:
        with store.archive() as archive:
            with LineWriter(folder, f"{name}/events.ndjson.gz", files).writing() as lines:
                for rows in _pages(archive):
                    lines.write(map(_event, rows))
                    take(rows)
            with LineWriter(folder, f"{name}/commits.ndjson.gz", files).writing() as lines:
                after = 0
                while commits := archive.commits(after, PAGE):
                    lines.write({"recorded_at": at, "position": position} for at, position in commits)
                    after = commits[-1].recorded_at
            kept = archive.bookkeeping()
            with LineWriter(folder, f"{name}/bookkeeping.ndjson.gz", files).writing() as lines:
                lines.write({"kind": "type", "type": type_, "schema_version": number} for type_, number in kept.types)
                lines.write(
                    {"kind": "tracking", "stream": stream, "sequence": sequence} for stream, sequence in kept.trackings
                )
                lines.write(
                    {
                        "kind": "inbox",
                        "stream": each.stream,
                        "created": each.created,
                        "sequence": each.sequence,
                        "position": each.position,
                    }
                    for each in kept.inboxes
                )
                lines.write({"kind": "table", "table": table} for table in kept.tables)
                lines.write({"kind": "sealed", "successors": each} for each in filter(None, [kept.sealed]))
            for table in kept.tables:
                with LineWriter(folder, f"{name}/tables/{table}.ndjson.gz", files).writing() as lines:
                    after_key = b""
                    while page := archive.rows(table, after_key, PAGE):
                        lines.write({"key": key.hex(), "value": b64encode(value).decode()} for key, value in page)
                        after_key = page[-1][0]
    finally:
        store.close()


def _pages(archive: ArchiveReader) -> Iterator[list[LoggedRow]]:
    after = 0
    while rows := archive.read_logged(after, limit=PAGE):
        yield rows
        after = rows[-1].position


def _event(row: LoggedRow) -> dict[str, object]:
    return {
        "position": row.position,
        "stream_id": row.stream_id.hex(),
        "version": row.version,
        "type": row.type,
        "envelope": b64encode(row.envelope).decode(),
    }


def _export_keys(installation: Installation, folder: Path, files: dict[str, FileSummary]) -> None:
    store = open_key_store_at(installation.key_store, installation.key_store_schema)
    try:
        with LineWriter(folder, KEYS, files).writing() as lines:
            after = b""
            while page := store.page(after, PAGE):
                lines.write(
                    {"key_id": key_id.hex(), "kek_id": key.kek_id, "wrapped": b64encode(key.wrapped).decode()}
                    for key_id, key in page.items()
                )
                after = max(page)
        # After the keys: whoever was forgotten meanwhile is forgotten in the export too.
        with LineWriter(folder, DESTROYED, files).writing() as lines:
            lines.write({"key_id": key_id.hex()} for _, key_id in store.destroyed_after(0))
    finally:
        store.close()
