"""A store taken whole, and put back into an empty one of either kind."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from throughline_eventlog import (
    InboxPosition,
    LoggedRow,
    Store,
    StoreNotEmptyError,
    StoreSettings,
    open_store,
)
from throughline_testkit.logs import noted
from throughline_testkit.plugin import OpenStore
from throughline_testkit.postgres import PostgresServer, postgres_settings

TABLES = ("things", "others")
Contents = tuple[list[object], ...]


def fill(store: Store) -> None:
    """Three commits: events with a gap behind them, rows, and a position in a stream."""
    with store.transaction() as tx:
        tx.append([noted(number) for number in range(600)])
        tx.put_many("things", {number.to_bytes(2, "big"): bytes(number % 7) for number in range(500)})
    with suppress(ZeroDivisionError), store.transaction() as tx:
        tx.append([noted("lost")])
        raise ZeroDivisionError
    with store.transaction() as tx:
        tx.append([noted("last")])
        tx.put("others", b"", b"empty key")
        tx.set_inbox(InboxPosition("UPSTREAM", 17, 4, 90))
    with store.transaction() as tx:
        tx.put("others", b"\xff\x00", b"")


def contents(store: Store, page: int = 100) -> Contents:
    """All that an archive gives, read page by page."""
    with store.archive() as archive:
        events: list[LoggedRow] = []
        while rows := archive.read_logged(events[-1].position if events else 0, limit=page):
            events += rows
        commits = archive.commits(0, page)
        kept = archive.bookkeeping()
        rows_of: list[object] = []
        for table in kept.tables:
            after = b""
            while found := archive.rows(table, after, page):
                rows_of += [(table, *row) for row in found]
                after = found[-1][0]
    return [*events], [*commits], [kept], rows_of


def copy(source: Store, target: Store) -> None:
    """Puts everything of one store into another."""
    with source.archive() as archive, target.restoration() as restoration:
        restoration.add_events(archive.read_logged())
        restoration.add_commits(archive.commits(0, 1_000))
        kept = archive.bookkeeping()
        restoration.add_bookkeeping(kept)
        for table in kept.tables:
            restoration.add_rows(table, archive.rows(table, b"", 1_000))


def test_a_store_put_back_is_the_store_and_goes_on(
    open_test_store: OpenStore, tmp_path: Path, postgres: PostgresServer, postgres_schema: str
) -> None:
    """On its own kind and on the other: positions, instants, rows and the inbox; the next event comes behind."""
    source = open_test_store(tables=TABLES)
    fill(source)
    held = contents(source)
    assert (len(held[0]), len(held[1]), len(held[3])) == (601, 3, 502)
    for settings in (
        StoreSettings.sqlite("testing", tmp_path / "copy.db"),
        postgres_settings(postgres, "testing", postgres_schema),
    ):
        target = open_store(settings)
        copy(source, target)
        target.close()
        opened = open_store(settings, tables=TABLES)
        try:
            assert contents(opened) == held
            with opened.snapshot() as reader, source.snapshot() as original:
                at = original.read()[0].recorded_at
                assert reader.commit_at(at) == original.commit_at(at)
                assert reader.commit_at(at).position == 600
                assert reader.inbox("UPSTREAM") == InboxPosition("UPSTREAM", 17, 4, 90)
                last = reader.last_position()
            with opened.transaction() as tx:
                assert tx.append([noted("next")])[0] > last
                tx.set_inbox(InboxPosition("UPSTREAM", 17, 5, 95))
        finally:
            opened.close()


def test_a_store_that_holds_anything_is_not_written_over(store: Store, open_test_store: OpenStore) -> None:
    """Two histories are never mixed."""
    fill(store)
    other = open_test_store(service="other")
    with other.transaction() as tx:
        tx.append([noted("mine")])
    before = contents(other)
    with pytest.raises(StoreNotEmptyError, match="other"):
        copy(store, other)
    assert contents(other) == before


def test_a_restoration_that_fails_leaves_the_store_empty(open_test_store: OpenStore) -> None:
    """Whole or not at all."""
    source, target = open_test_store(tables=TABLES), open_test_store(service="other")
    fill(source)

    with suppress(ZeroDivisionError), source.archive() as archive, target.restoration() as restoration:
        restoration.add_events(archive.read_logged())
        raise ZeroDivisionError
    with target.snapshot() as reader:
        assert reader.count_events() == 0
    copy(source, target)
    assert contents(target)[0] == contents(source)[0]
