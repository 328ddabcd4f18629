"""An export put into an empty installation, on either store."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from throughline_client.installation import Installation
from throughline_eventlog import (
    Bookkeeping,
    Codec,
    Commit,
    InboxPosition,
    LoggedRow,
    Restoration,
    Store,
    open_store,
)
from throughline_portability.form import (
    DESTROYED,
    KEYS,
    ExportError,
    Manifest,
    StoreSummary,
    check_files,
    read_lines,
    read_manifest,
)
from throughline_privacy import WrappedKey, open_key_store_at
from throughline_replay import Replayed, make_folds

PAGE: Final = 2_000

Told = Callable[[str, int], None]
"""Hears of events put back, by service."""


def restore_installation(folder: Path, installation: Installation, told: Told) -> Manifest:
    """Puts an export into stores that hold nothing; each store whole or not at all.

    Every file is held against the manifest first, and every log is folded while it is put back: its state must have the
    digest that it had where the export was made.
    Raises: ExportError for an export that is not whole or does not fold to its digest; StoreNotEmptyError;
    UnavailableError, SettingsError for a store.
    """
    manifest = read_manifest(folder)
    for _ in check_files(folder, manifest):
        pass
    if manifest.keys:
        # First: a service that finds events must find the keys of their values.
        _restore_keys(folder, installation)
    for service, summary in manifest.stores.items():
        store = open_store(installation.stores[service])
        try:
            _restore_store(service, store, summary, folder, told)
        finally:
            store.close()
    return manifest


def _restore_store(service: str, store: Store, summary: StoreSummary, folder: Path, told: Told) -> None:
    kept = _bookkeeping(folder, service)
    replayed = Replayed(make_folds([service])[service])
    with store.restoration() as restoration:
        _restore_events(service, restoration, replayed, folder, told)
        for page in read_lines(folder, f"{service}/commits.ndjson.gz", PAGE):
            restoration.add_commits([Commit(line["recorded_at"], line["position"]) for line in page])
        restoration.add_bookkeeping(kept)
        for table in kept.tables:
            for page in read_lines(folder, f"{service}/tables/{table}.ndjson.gz", PAGE):
                restoration.add_rows(table, [(bytes.fromhex(line["key"]), b64decode(line["value"])) for line in page])
        digest = replayed.digest()
        if (replayed.position, replayed.events, digest) != (summary.position, summary.events, summary.digest):
            raise ExportError(
                f"the log of {service} folds to state {digest} at position {replayed.position}, and the manifest says "
                f"{summary.digest} at {summary.position}: this program decides otherwise than the one that made the "
                "export; use that version of Throughline. Nothing of this service was put back"
            )


def _restore_events(service: str, restoration: Restoration, replayed: Replayed, folder: Path, told: Told) -> None:
    codec = Codec(service)
    for page in read_lines(folder, f"{service}/events.ndjson.gz", PAGE):
        rows = [
            LoggedRow(
                line["position"],
                bytes.fromhex(line["stream_id"]),
                line["version"],
                line["type"],
                b64decode(line["envelope"]),
            )
            for line in page
        ]
        restoration.add_events(rows)
        replayed.take(codec.decode(rows))
        told(service, len(rows))


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
    )


def _restore_keys(folder: Path, installation: Installation) -> None:
    store = open_key_store_at(installation.key_store, installation.key_store_schema)
    try:
        for page in read_lines(folder, KEYS, PAGE):
            keys = {
                bytes.fromhex(line["key_id"]): WrappedKey(line["kek_id"], b64decode(line["wrapped"])) for line in page
            }
            if store.add(keys) != keys:
                raise ExportError(
                    "the key store holds keys, or traces of the forgotten, that differ from the export's: give a key "
                    "store that holds nothing"
                )
        gone: Sequence[bytes] = [
            bytes.fromhex(line["key_id"]) for page in read_lines(folder, DESTROYED, PAGE) for line in page
        ]
        store.destroy(gone)
    finally:
        store.close()
