"""An export put into an empty installation, on either store."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from throughline_client.installation import Installation
from throughline_eventlog import (
    PARTITIONS,
    Bookkeeping,
    Codec,
    Commit,
    InboxPosition,
    LoggedRow,
    StoreSettings,
    open_store,
)
from throughline_portability.form import (
    DESTROYED,
    KEYS,
    AccessSummary,
    ExportError,
    Manifest,
    StoreSummary,
    check_files,
    folder_of,
    read_lines,
    read_manifest,
)
from throughline_privacy import WrappedKey, open_forgotten_list, open_key_store_at
from throughline_proof import LogSummary, proofs_of
from throughline_replay import Replayed, make_folds
from throughline_rpc import access_log_of

PAGE: Final = 2_000

Told = Callable[[str, int], None]
"""Hears of events put back, by log."""


def restore_installation(folder: Path, installation: Installation, told: Told) -> Manifest:
    """Puts an export into stores that hold nothing; each store whole or not at all.

    Every file is held against the manifest first, and every log is folded while it is put back: its state must have the
    digest that it had where the export was made. Nobody on the installation's list of the forgotten gets a key; the
    logs learn of them when the services start.
    Raises: ExportError for an export that is not whole or does not fold to its digest; StoreNotEmptyError;
    UnavailableError, SettingsError for a store.
    """
    manifest = read_manifest(folder)
    if installation.partitioning.write() != manifest.partitions:
        raise ExportError(
            f"{folder}: is of an installation whose partitions are {manifest.partitions or 'one of each service'}, and "
            f"this one's are {installation.partitioning.write() or 'one of each'}: set {PARTITIONS}="
            f"{manifest.partitions}, and change it when everything is put back (`throughline partitions set`)"
        )
    for _ in check_files(folder, manifest):
        pass
    listed = open_forgotten_list(installation.forgotten_list).keys() if installation.forgotten_list else set[bytes]()
    if manifest.keys:
        # First: a service that finds events must find the keys of their values.
        _restore_keys(folder, installation, listed)
    logs = installation.logs
    for log, summary in manifest.stores.items():
        settings = logs[log]
        # Before its log: a log whose proofs were not put back would be signed anew.
        _restore_archive(log, proofs_of(settings), folder, _nothing, _nothing)
        _restore_store(log, settings, summary, folder, told)
    for log, summary in manifest.access.items():
        access = access_log_of(logs[log])
        _restore_archive(log, proofs_of(access), folder, _nothing, _nothing)
        _restore_access(log, access, summary, folder)
    return manifest


def _nothing(*_: object) -> None:
    """What is to be done with the checkpoints: they are verified with their log, by whoever trusts their key."""


def _restore_store(log: str, settings: StoreSettings, summary: StoreSummary, folder: Path, told: Told) -> None:
    service = settings.service
    replayed, proved = Replayed(make_folds([service])[service]), LogSummary()
    codec = Codec(service)

    def take(rows: list[LoggedRow]) -> None:
        replayed.take(codec.decode(rows))
        proved.take(rows)
        told(log, len(rows))

    def check() -> None:
        digest = replayed.digest()
        if (replayed.position, replayed.events, digest) != (summary.position, summary.events, summary.digest):
            raise ExportError(
                f"the log of {log} folds to state {digest} at position {replayed.position}, and the manifest says "
                f"{summary.digest} at {summary.position}: this program decides otherwise than the one that made the "
                "export; use that version of Throughline. Nothing of this service was put back"
            )
        if (proved.root.hex(), proved.map_root.hex()) != (summary.root, summary.map_root):
            raise ExportError(
                f"the log of {log} has the root {proved.root.hex()}, and the manifest says {summary.root}: its "
                "events are not those that were exported. Nothing of this service was put back"
            )

    _restore_archive(log, settings, folder, take, check)


def _restore_access(log: str, settings: StoreSettings, summary: AccessSummary, folder: Path) -> None:
    proved = LogSummary()

    def check() -> None:
        if (proved.size, proved.root.hex(), proved.map_root.hex()) != (
            summary.events,
            summary.root,
            summary.map_root,
        ):
            raise ExportError(
                f"the log {folder_of(log, settings)} has the root {proved.root.hex()}, and the manifest says "
                f"{summary.root}: its events are not those that were exported. It was not put back"
            )

    _restore_archive(log, settings, folder, proved.take, check)


def _restore_archive(
    log: str,
    settings: StoreSettings,
    folder: Path,
    take: Callable[[list[LoggedRow]], None],
    check: Callable[[], None],
) -> None:
    """Fills a store from the folder of its own, and checks before it is kept; `take` gets the events page by page."""
    name = folder_of(log, settings)
    store = open_store(settings)
    try:
        kept = _bookkeeping(folder, name)
        with store.restoration() as restoration:
            for rows in _events(folder, name):
                restoration.add_events(rows)
                take(rows)
            for page in read_lines(folder, f"{name}/commits.ndjson.gz", PAGE):
                restoration.add_commits([Commit(line["recorded_at"], line["position"]) for line in page])
            restoration.add_bookkeeping(kept)
            for table in kept.tables:
                for page in read_lines(folder, f"{name}/tables/{table}.ndjson.gz", PAGE):
                    rows_of_table = [(bytes.fromhex(line["key"]), b64decode(line["value"])) for line in page]
                    restoration.add_rows(table, rows_of_table)
            check()
    finally:
        store.close()


def _events(folder: Path, name: str) -> Iterator[list[LoggedRow]]:
    for page in read_lines(folder, f"{name}/events.ndjson.gz", PAGE):
        yield [
            LoggedRow(
                line["position"],
                bytes.fromhex(line["stream_id"]),
                line["version"],
                line["type"],
                b64decode(line["envelope"]),
            )
            for line in page
        ]


def _bookkeeping(folder: Path, service: str) -> Bookkeeping:
    lines = [line for page in read_lines(folder, f"{service}/bookkeeping.ndjson.gz", PAGE) for line in page]

    def of(kind: str) -> Iterator[dict[str, Any]]:
        return (line for line in lines if line["kind"] == kind)

    return Bookkeeping(
        types=tuple((line["type"], line["schema_version"]) for line in of("type")),
        trackings=tuple((line["stream"], line["sequence"]) for line in of("tracking")),
        inboxes=tuple(
            InboxPosition(line["stream"], line["created"], line["sequence"], line["position"]) for line in of("inbox")
        ),
        tables=tuple(line["table"] for line in of("table")),
        sealed="".join(line["successors"] for line in of("sealed")),
    )


def _restore_keys(folder: Path, installation: Installation, listed: Collection[bytes]) -> None:
    store = open_key_store_at(installation.key_store, installation.key_store_schema)
    try:
        for page in read_lines(folder, KEYS, PAGE):
            keys = {
                key_id: WrappedKey(line["kek_id"], b64decode(line["wrapped"]))
                for line in page
                if (key_id := bytes.fromhex(line["key_id"])) not in listed
            }
            if store.add(keys) != keys:
                raise ExportError(
                    "the key store holds keys, or traces of the forgotten, that differ from the export's: give a key "
                    "store that holds nothing"
                )
        gone: Sequence[bytes] = [
            bytes.fromhex(line["key_id"]) for page in read_lines(folder, DESTROYED, PAGE) for line in page
        ]
        store.destroy({*gone, *listed})
    finally:
        store.close()
