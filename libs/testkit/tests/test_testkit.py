"""The tools of the tests, tested."""

from __future__ import annotations

import asyncio
import os
import pwd
import stat
from pathlib import Path

import psycopg
import pytest

from throughline_eventlog import Connection, NatsServer
from throughline_kernel import ConflictError, NotFoundError
from throughline_testkit import PostgresServer, eventually, eventually_sync, given
from throughline_testkit.plugin import OpenStore


async def test_eventually_gives_what_came_true() -> None:
    """The first true answer is returned, from a plain or an awaitable condition."""
    answers = iter([None, 0, "", "now"])
    assert await eventually(lambda: next(answers)) == "now"
    later = iter([False, 7])

    async def ask() -> int:
        await asyncio.sleep(0)
        return next(later)

    assert await eventually(ask) == 7


async def test_eventually_ends_at_its_deadline() -> None:
    """The last answer and the reason are in the error; an assertion that fails counts as not yet."""
    with pytest.raises(AssertionError, match=r"not within 0.05 s: the light is green; at last: ''"):
        await eventually(lambda: "", 0.05, why="the light is green")
    tries: list[int] = []

    def settled() -> bool:
        tries.append(1)
        assert len(tries) > 2, "not settled"
        return True

    assert await eventually(settled)
    with pytest.raises(AssertionError, match="not within"):
        eventually_sync(lambda: False, 0.02)


def total(state: int, amount: int) -> int:
    return state + amount


def withdraw(amount: int, balance: int) -> list[int]:
    if amount > balance:
        raise ConflictError("BALANCE_TOO_LOW", "not enough", {"balance": str(balance)})
    return [-amount] if amount else []


def test_a_decision_reads_as_given_when_then() -> None:
    """Events, nothing, or a refusal with its reason and values."""
    account = given(total, 0, [5, 5])
    account.when(withdraw, 3).then(-3)
    account.when(withdraw, 0).then_nothing()
    refusal = account.when(withdraw, 11).then_refused(ConflictError, reason="BALANCE_TOO_LOW", balance="10")
    assert refusal.message == "not enough"


def test_a_wrong_expectation_fails() -> None:
    """Each way to be wrong is noticed."""
    account = given(total, 0, [5])
    for wrong in (
        lambda: account.when(withdraw, 3).then(-4),
        lambda: account.when(withdraw, 3).then_nothing(),
        lambda: account.when(withdraw, 9).then(-9),
        lambda: account.when(withdraw, 3).then_refused(ConflictError),
        lambda: account.when(withdraw, 9).then_refused(NotFoundError),
        lambda: account.when(withdraw, 9).then_refused(ConflictError, reason="OTHER"),
        lambda: account.when(withdraw, 9).then_refused(ConflictError, balance="6"),
    ):
        with pytest.raises(AssertionError):
            wrong()


def test_postgres_runs_as_somebody_who_may(postgres: PostgresServer) -> None:
    """As root it drops to another user by itself, in a folder that is that user's alone."""
    if not postgres.own:
        with postgres.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        return
    mode = postgres.folder.stat()
    expected = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.getuid()
    pid = int((postgres.folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
    assert Path(f"/proc/{pid}").stat().st_uid == expected
    assert (mode.st_uid, stat.S_IMODE(mode.st_mode)) == (expected, 0o700)


def test_postgres_keeps_what_it_acknowledged(postgres: PostgresServer) -> None:
    """Tests run on the durability that production has."""
    with postgres.connect() as connection:
        found = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')"
        ).fetchall()
    assert {setting for _, setting in found} == {"on"}


def test_a_url_names_a_server() -> None:
    """DATABASE_URL, with a password that has to be quoted."""
    server = PostgresServer.at("postgresql://me:p%40ss@db.internal:6432/tests")
    assert (server.host, server.port, server.user, server.password, server.dbname) == (
        "db.internal",
        6432,
        "me",
        "p@ss",
        "tests",
    )
    assert not server.own
    assert server.environment("s")["POSTGRES_SCHEMA"] == "s"


def test_each_test_has_a_store_of_its_own(open_test_store: OpenStore, store_kind: str) -> None:
    """What one test writes another does not find, on either kind; the same service's store can be opened twice."""
    one, two = open_test_store(tables=("things",)), open_test_store(tables=("things",))
    with one.transaction() as tx:
        assert tx.count("things") == 0
        tx.put("things", b"k", store_kind.encode())
    with two.snapshot() as reader:
        assert reader.get("things", b"k") == store_kind.encode()
    with open_test_store(service="another", tables=("things",)).snapshot() as reader:
        assert reader.count("things") == 0


async def test_the_bus_is_up_for_each_test(nats_server: NatsServer, nats: Connection, stream_prefix: str) -> None:
    """Also behind a test that killed it, with data kept."""
    await nats.make_stream({"name": stream_prefix, "subjects": [stream_prefix], "storage": "file"})
    before = nats.generation
    nats_server.kill()
    nats_server.restart()
    await eventually(lambda: nats.connected and nats.generation > before)
    assert (await nats.stream(stream_prefix)).last_sequence == 0


def test_dropped_schemas_are_gone(postgres: PostgresServer, postgres_schema: str) -> None:
    """A test leaves nothing in a server that others use."""
    with postgres.connect() as connection:
        connection.execute(f'CREATE SCHEMA "{postgres_schema}"'.encode())
        connection.execute(f'CREATE TABLE "{postgres_schema}".t ()'.encode())
        postgres.drop_schema(postgres_schema)
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute(f'TABLE "{postgres_schema}".t'.encode())
