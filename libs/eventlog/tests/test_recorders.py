"""The library's own test cases for recorders, run on ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import eventsourcing.cryptography
import pytest
from eventsourcing.persistence import Tracking

from throughline_eventlog.postgres import DEFAULTS, PostgresLogFactory, PostgresLogRecorder
from throughline_eventlog.sqlite import SQLiteLogFactory, SQLiteLogRecorder
from throughline_testkit import PostgresServer

# The cases stand beside tests of the library's default cipher, which needs a package that nothing here uses; the
# library's other cipher has the same name and does for importing them.
sys.modules.setdefault("eventsourcing.cipher", eventsourcing.cryptography)

from eventsourcing.tests import persistence as library  # noqa: E402 -- after what it needs set


class SQLiteCase:
    """Recorders in a file of the test's own."""

    folder: Path
    opened: list[SQLiteLogFactory]

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> Any:
        self.folder = tmp_path
        self.opened = []
        yield
        for factory in self.opened:
            factory.close()

    def create_recorder(self) -> Any:
        factory = SQLiteLogFactory({"SQLITE_DBNAME": str(self.folder / "library.db"), "SQLITE_LOCK_TIMEOUT": "20"})
        self.opened.append(factory)
        recorder = factory.process_recorder()
        assert isinstance(recorder, SQLiteLogRecorder)
        return recorder


class PostgresCase:
    """Recorders in a schema of the test's own."""

    server: PostgresServer
    schema: str
    opened: list[PostgresLogFactory]

    @pytest.fixture(autouse=True)
    def _place(self, postgres: PostgresServer, postgres_schema: str) -> Any:
        self.server, self.schema = postgres, postgres_schema
        self.opened = []
        with postgres.connect() as connection:
            connection.execute(f'CREATE SCHEMA "{postgres_schema}"'.encode())
        yield
        for factory in self.opened:
            factory.close()

    def create_recorder(self) -> Any:
        factory = PostgresLogFactory({**DEFAULTS, **self.server.environment(self.schema)})
        self.opened.append(factory)
        recorder = factory.process_recorder()
        assert isinstance(recorder, PostgresLogRecorder)
        return recorder

    def close_db_connection(self, *_: Any) -> None:
        for factory in self.opened:
            factory.close()


class TestSQLiteApplicationRecorder(SQLiteCase, library.ApplicationRecorderTestCase[Any]):
    """Events, notifications and concurrent appends."""


class TestSQLiteProcessRecorder(SQLiteCase, library.ProcessRecorderTestCase):
    """Events with tracking."""


class TestSQLiteTrackingRecorder(SQLiteCase, library.TrackingRecorderTestCase):
    """Tracking alone."""


class TestSQLiteOrder(SQLiteCase, library.NonInterleavingNotificationIDsBaseCase):
    """Batches do not interleave."""


class TestPostgresApplicationRecorder(PostgresCase, library.ApplicationRecorderTestCase[Any]):
    """Events, notifications and concurrent appends."""

    def test_subscribe(self) -> None:
        """What is appended is announced to those who listen."""
        self.optional_test_insert_subscribe()


class TestPostgresProcessRecorder(PostgresCase, library.ProcessRecorderTestCase):
    """Events with tracking."""


class TestPostgresTrackingRecorder(PostgresCase, library.TrackingRecorderTestCase):
    """Tracking alone."""


class TestPostgresOrder(PostgresCase, library.NonInterleavingNotificationIDsBaseCase):
    """Batches do not interleave."""


def test_the_sqlite_recorder_keeps_its_row_ids_through_a_vacuum(tmp_path: Path) -> None:
    """Positions are for ever, also where rows before them are gone."""
    factory = SQLiteLogFactory({"SQLITE_DBNAME": str(tmp_path / "vacuum.db")})
    recorder = factory.process_recorder()
    assert isinstance(recorder, SQLiteLogRecorder)
    recorder.insert_tracking(Tracking("up", 3))
    with recorder.datastore.transaction(commit=True) as cursor:
        recorder.insert_rows(cursor.sqlite_cursor, [(bytes([n]) * 16, 1, "t", b"") for n in range(5)])
        cursor.execute("DELETE FROM stored_events WHERE rowid IN (1, 3)")
    with recorder.datastore.get_connection(commit=True) as connection:
        connection.cursor().execute("VACUUM")
    assert [n.id for n in recorder.select_notifications(1, 10)] == [2, 4, 5]
    factory.close()
