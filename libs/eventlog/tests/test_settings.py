"""The environment chooses the store, and cannot weaken it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest

from throughline_eventlog import SettingsError, StoreSettings, open_store
from throughline_eventlog.sqlite import DurableConnection
from throughline_kernel import UnavailableError
from throughline_testkit import PostgresServer

SQLITE = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": "x.db"}
POSTGRES = {
    "PERSISTENCE_MODULE": "eventsourcing.postgres",
    "POSTGRES_HOST": "h",
    "POSTGRES_DBNAME": "d",
    "POSTGRES_USER": "u",
    "POSTGRES_SCHEMA": "s",
}


def test_the_store_is_chosen_by_the_environment() -> None:
    """SQLite or PostgreSQL, with settings of one service before those of all."""
    both = {**SQLITE, **POSTGRES, "IDENTITY_PERSISTENCE_MODULE": "eventsourcing.sqlite", "HOME": "/"}
    assert StoreSettings.from_env("journey", both).module == "eventsourcing.postgres"
    identity = StoreSettings.from_env("identity", both | {"IDENTITY_SQLITE_DBNAME": "identity.db"})
    assert (identity.module, identity.environment["SQLITE_DBNAME"]) == ("eventsourcing.sqlite", "identity.db")
    assert "HOME" not in identity.environment


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "PERSISTENCE_MODULE is ''"),
        ({"PERSISTENCE_MODULE": "eventsourcing.popo"}, "PERSISTENCE_MODULE is 'eventsourcing.popo'"),
        ({"PERSISTENCE_MODULE": "eventsourcing.sqlite"}, "SQLITE_DBNAME is not set"),
        (SQLITE | {"SQLITE_DBNAME": ":memory:"}, "gone with its process"),
        (SQLITE | {"SQLITE_DBNAME": "file:x?mode=memory"}, "gone with its process"),
        (SQLITE | {"SQLITE_DBNAME": "file:x.db?nolock=1"}, "give a plain path"),
        (POSTGRES | {"POSTGRES_SCHEMA": ""}, "POSTGRES_SCHEMA is not set"),
        (POSTGRES | {"POSTGRES_ENABLE_DB_FUNCTIONS": "yes"}, "readers of the log miss events"),
        (POSTGRES | {"POSTGRES_ENABLE_DB_FUNCTIONS": "perhaps"}, "say yes or no"),
        (SQLITE | {"SINGLE_ROW_TRACKING": "n"}, "one row per stream"),
        (SQLITE | {"CREATE_TABLE": "no"}, "makes its own tables"),
        (SQLITE | {"ORIGINATOR_ID_TYPE": "text"}, "16 bytes"),
        (SQLITE | {"IS_SNAPSHOTTING_ENABLED": "y"}, "keeps no snapshots"),
        (SQLITE | {"PROCESS_RECORDER_TOPIC": "somebody:Recorder"}, "its own recorder"),
        (SQLITE | {"CIPHER_KEY": "k"}, "encrypted under their own keys"),
        (SQLITE | {"COMPRESSOR_TOPIC": "zlib"}, "protobuf envelopes"),
    ],
)
def test_a_setting_that_weakens_the_log_is_refused(environment: dict[str, str], said: str) -> None:
    """The sentence names the setting and says what to do."""
    with pytest.raises(SettingsError, match=said):
        StoreSettings.from_env("identity", environment)


def test_a_password_may_stand_in_a_file_and_is_never_shown(tmp_path: Path) -> None:
    """As secrets are mounted; what is logged of the settings does not have it."""
    secret = tmp_path / "password"
    secret.write_text("s3cret\n", encoding="utf-8")
    settings = StoreSettings.from_env("a", POSTGRES | {"POSTGRES_PASSWORD_FILE": str(secret)})
    assert settings.environment["POSTGRES_PASSWORD"] == "s3cret"
    assert "s3cret" not in repr(settings)
    with pytest.raises(SettingsError, match="which cannot be read: No such file"):
        StoreSettings.from_env("a", POSTGRES | {"POSTGRES_PASSWORD_FILE": str(tmp_path / "absent")})


@pytest.mark.parametrize("name", ["Not A Name", "", "1st", "a" * 40])
def test_a_service_needs_a_name_that_a_table_can_have(name: str) -> None:
    """Names go into tables, streams and subjects."""
    with pytest.raises(SettingsError, match="in lower case"):
        StoreSettings.from_env(name, SQLITE)


def test_a_table_needs_a_name_that_a_table_can_have(tmp_path: Path) -> None:
    """No name is put into a statement unchecked."""
    with pytest.raises(SettingsError, match="lower-case"):
        open_store(StoreSettings.sqlite("a", tmp_path / "a.db"), tables=("x; DROP TABLE tl_meta",))


def test_sqlite_writes_ahead_and_syncs_at_every_commit(tmp_path: Path) -> None:
    """The file itself says so."""
    store = open_store(StoreSettings.sqlite("a", tmp_path / "deep" / "a.db"))
    connection = DurableConnection(str(tmp_path / "deep" / "a.db"), lock_timeout=1, cache_kib=100)
    assert connection.raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.raw.execute("PRAGMA synchronous").fetchone()[0] == 2
    connection.raw.close()
    store.close()


def test_sqlite_that_cannot_write_ahead_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system where the write-ahead log cannot be had keeps no promises."""

    class Elsewhere(sqlite3.Connection):
        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:  # type: ignore[override]
            return super().execute(statement.replace("journal_mode=WAL", "journal_mode=DELETE"), *values)  # type: ignore[arg-type]

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Elsewhere))
    with pytest.raises(SettingsError, match="journal_mode=delete"):
        open_store(StoreSettings.sqlite("a", tmp_path / "a.db"))


def test_a_file_that_is_no_log_is_left_alone(tmp_path: Path) -> None:
    """Somebody's file is not overwritten."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear log, " * 200, encoding="utf-8")
    with pytest.raises(UnavailableError, match="file is not a database"):
        open_store(StoreSettings.sqlite("a", path))
    assert path.read_text(encoding="utf-8").startswith("Dear log")


def test_a_server_that_forgets_is_refused(postgres: PostgresServer, postgres_schema: str) -> None:
    """synchronous_commit=off is found even where only this user has it; only a test may say that it does not mind."""
    role = f"forgetful_{postgres_schema}"
    with postgres.connect() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'x'".encode())
        connection.execute(f"ALTER ROLE {role} SET synchronous_commit = off".encode())
    environment = postgres.environment(postgres_schema) | {"POSTGRES_USER": role, "POSTGRES_PASSWORD": "x"}
    try:
        with pytest.raises(SettingsError, match="synchronous_commit=off"):
            open_store(StoreSettings.from_env("a", environment))
        allowed = environment | {"THROUGHLINE_TEST_ONLY_UNSAFE_DURABILITY": "yes"}
        store = open_store(StoreSettings.from_env("a", allowed))
        assert {switch: store.switched_on(switch) for switch in store.switches if switch != "fsync"} == {
            "synchronous_commit": False,
            "full_page_writes": True,
        }
        with pytest.raises(KeyError):
            store.switched_on("work_mem")
        store.close()
    finally:
        postgres.drop_schema(postgres_schema)
        with postgres.connect() as connection:
            connection.execute(f"DROP OWNED BY {role}".encode())
            connection.execute(f"DROP ROLE {role}".encode())


def test_a_server_that_is_away_is_said_to_be_away(tmp_path: Path) -> None:
    """Opening fails with what a caller may retry."""
    environment = POSTGRES | {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"}
    with pytest.raises(UnavailableError, match="opening schema s") as refused:
        open_store(StoreSettings.from_env("a", environment))
    assert refused.value.reason == "LOG_UNAVAILABLE"
    assert isinstance(refused.value.__cause__, psycopg.OperationalError)
