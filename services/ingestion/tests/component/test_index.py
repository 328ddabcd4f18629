"""Law 2 at scale: every id ever recorded is found, whatever was merged, rolled back or written by another process."""

from __future__ import annotations

import random
from contextlib import suppress
from hashlib import blake2b

import pytest

from ingestion.adapters.index import INDEX_TABLES, RUNS, SETTLED, RunIndex
from ingestion.application.ports import IndexEntry
from throughline_eventlog import Store
from throughline_testkit.plugin import OpenStore


@pytest.fixture
def store(open_test_store: OpenStore) -> Store:
    """A store with the index's tables, of each kind in turn."""
    return open_test_store(tables=INDEX_TABLES, service="ingestion")


def key(number: int) -> bytes:
    """An id, as scattered as ids are."""
    return blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def entry(number: int) -> IndexEntry:
    """Where the interaction of that number stands."""
    return IndexEntry(number, blake2b(key(number), digest_size=16).digest())


def add_in_vain(store: Store, index: RunIndex, numbers: range) -> None:
    """Adds them in a transaction that is rolled back."""
    with suppress(ConnectionError), store.transaction() as tx:
        index.add(tx, {key(each): entry(each) for each in numbers})
        raise ConnectionError("the database is away")
    index.rolled_back()


def found_by_all(store: Store, index: RunIndex, numbers: range, absent: range) -> None:
    """Everything is found in every way, and nothing else is."""
    with store.transaction() as tx:
        assert index.find(tx, {key(each) for each in [*numbers, *absent]}) == {
            key(each): entry(each) for each in numbers
        }
    with store.snapshot() as reader:
        for each in numbers[:: max(1, len(numbers) // 40)]:
            assert index.locate(reader, key(each)) == entry(each)
            # A process that has read nothing yet finds it too.
            assert RunIndex().locate(reader, key(each)) == entry(each)
        assert index.locate(reader, key(absent[0])) is None


def test_what_was_added_is_found_through_merges_restarts_and_rollbacks(store: Store) -> None:
    """A model of five hundred commits of random size, with a small merge threshold so that every path is taken."""
    randomness = random.Random(7)
    index = RunIndex(merge_at=40)
    count = 0
    for commit in range(150):
        size = randomness.choice([1, 1, 2, 30, 120])
        added = range(count + 1, count + 1 + size)
        if randomness.random() < 0.15:
            add_in_vain(store, index, added)
            continue
        with store.transaction() as tx:
            index.add(tx, {key(each): entry(each) for each in added})
        count += size
        if randomness.random() < 0.1:
            index = RunIndex(merge_at=40)
        if commit % 25 == 0:
            found_by_all(store, index, range(1, count + 1), range(count + 1, count + 50))
    found_by_all(store, index, range(1, count + 1), range(count + 1, count + 50))
    with store.snapshot() as reader:
        settled, waiting = reader.count(SETTLED), sum(len(run) for _, run in reader.scan(RUNS)) // 40
    assert settled + waiting == count
    assert settled > count / 2
    assert waiting < 16 * 160


def test_a_merge_that_was_rolled_back_loses_nothing(store: Store) -> None:
    """What was moved in vain is still where it was."""
    index = RunIndex(merge_at=4)
    with store.transaction() as tx:
        index.add(tx, {key(each): entry(each) for each in range(1, 40)})
    add_in_vain(store, index, range(40, 80))
    found_by_all(store, index, range(1, 40), range(40, 80))


def test_a_reader_with_an_older_view_finds_what_its_view_has(store: Store) -> None:
    """A merge moves rows; whoever began to read before it still sees them where they were."""
    index = RunIndex(merge_at=3)
    with store.transaction() as tx:
        index.add(tx, {key(each): entry(each) for each in range(1, 40)})
    with store.snapshot() as reader:
        for commit in range(30):
            with store.transaction() as tx:
                index.add(tx, {key(1_000 + commit): entry(1_000 + commit)})
        assert all(index.locate(reader, key(each)) == entry(each) for each in range(1, 40))
