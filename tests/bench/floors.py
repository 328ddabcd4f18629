"""What the disk and the database give when nothing but appending is done: the floors that ingestion is held against."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

from bench.measuring import Figure
from eventsourcing.persistence import InfrastructureFactory, StoredEvent, TrackingRecorder
from eventsourcing.utils import Environment

from throughline_eventlog import NewEvent, Store, StoreSettings, open_store
from throughline_testkit.postgres import PostgresServer, postgres_settings

COMMIT: Final = 1_000
# About what an interaction takes in ingestion's log.
STATE: Final = os.urandom(420)
TYPE: Final = "throughline.ingestion.v1.InteractionRecorded"
SECTION: Final = "raw append, 1,000 per commit"
STOCK: Final = "eventsourcing's own recorder"
COPY: Final = "COPY"
OURS: Final = "throughline_eventlog"


def sqlite_floors(folder: Path, events: int) -> list[Figure]:
    """The library's own recorder, and our store, on the disk of the folder."""
    store = open_store(StoreSettings.sqlite("floor", folder / "floor.db"))
    return [_stock(folder / "stock.db", events), _ours(store, events, "SQLite")]


def postgres_floors(server: PostgresServer, events: int) -> list[Figure]:
    """COPY into a bare table, and our store, on the server."""
    store = open_store(postgres_settings(server, "floor", "floor"))
    try:
        return [_copy(server, events), _ours(store, events, "PostgreSQL")]
    finally:
        server.drop_schema("floor")


def _stock(path: Path, events: int) -> Figure:
    environment = Environment("floor", {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)})
    factory = InfrastructureFactory[TrackingRecorder].construct(environment)
    recorder = factory.application_recorder()

    def append() -> None:
        recorder.insert_events([StoredEvent(UUID(bytes=os.urandom(16)), 1, TYPE, STATE) for _ in range(COMMIT)])

    figure = _measured(append, events, STOCK, "SQLite")
    factory.close()
    return figure


def _ours(store: Store, events: int, kind: str) -> Figure:
    def append() -> None:
        with store.transaction() as tx:
            tx.append([NewEvent(os.urandom(16), 1, TYPE, STATE, 0) for _ in range(COMMIT)])

    figure = _measured(append, events, OURS, kind)
    store.close()
    return figure


def _copy(server: PostgresServer, events: int) -> Figure:
    with server.connect() as connection:
        connection.execute(
            "CREATE TABLE floor_copy (position bigserial PRIMARY KEY, stream uuid NOT NULL, version bigint NOT NULL, "
            "topic text NOT NULL, state bytea NOT NULL, UNIQUE (stream, version))"
        )
        into = "COPY floor_copy (stream, version, topic, state) FROM STDIN (FORMAT BINARY)"

        def append() -> None:
            with connection.transaction(), connection.cursor() as cursor, cursor.copy(into) as copy:
                copy.set_types(["uuid", "int8", "text", "bytea"])
                for _ in range(COMMIT):
                    copy.write_row((UUID(bytes=os.urandom(16)), 1, TYPE, STATE))

        figure = _measured(append, events, COPY, "PostgreSQL")
        connection.execute("DROP TABLE floor_copy")
    return figure


def _measured(append: Callable[[], None], events: int, what: str, store: str) -> Figure:
    append()
    commits = max(1, events // COMMIT)
    cpu, began = time.process_time(), time.perf_counter()
    for _ in range(commits):
        append()
    seconds = time.perf_counter() - began
    done = commits * COMMIT
    return Figure(SECTION, what, done / seconds, "events/s", store, cpu_micros=(time.process_time() - cpu) * 1e6 / done)
