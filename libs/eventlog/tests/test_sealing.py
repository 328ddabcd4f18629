"""A log that others follow is kept as it is: whoever writes is refused, whoever reads is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from throughline_eventlog import (
    Bookkeeping,
    Commit,
    InboxPosition,
    LogGrewError,
    SealedLogError,
    Store,
    StoreSettings,
    Writer,
    discard_store,
    open_store,
)
from throughline_testkit.logs import noted

TABLES = ("things",)


@pytest.fixture
def kept(store: Store) -> Store:
    """A log of two events and a row."""
    with store.transaction() as tx:
        tx.append([noted("a"), noted("b")])
        tx.put("things", b"k", b"v")
    return store


def last_of(store: Store) -> Commit:
    with store.snapshot() as reader:
        return reader.commit_at()


def test_a_sealed_log_refuses_every_writer_with_its_successors(kept: Store) -> None:
    """Through a transaction, with an inbox alone, through the Writer, as an export put back."""
    kept.seal("100, 101", last_of(kept))
    with pytest.raises(SealedLogError, match="partitions 100, 101 follow it"), kept.transaction() as tx:
        tx.append([noted("c")])
    with pytest.raises(SealedLogError), kept.transaction() as tx:
        tx.set_inbox(InboxPosition("TL_OTHER_0", 1, 1, 1))
    with pytest.raises(SealedLogError):
        Writer(kept)
    with pytest.raises(SealedLogError), kept.restoration():
        pass
    with kept.snapshot() as reader:
        assert reader.count_events() == 2


def test_a_sealed_log_is_read_and_taken_out_as_before(
    kept: Store, store_settings: Callable[[str], StoreSettings]
) -> None:
    """Also where it is opened again, and what is taken out says that it is sealed."""
    before = last_of(kept)
    kept.seal("100, 101", before)
    kept.seal("200", before)
    again = open_store(store_settings("testing"), tables=TABLES)
    with again.snapshot() as reader:
        assert [event.position for event in reader.read()] == [1, 2]
        assert reader.get("things", b"k") == b"v"
        assert reader.commit_at() == before
    with again.archive() as archive:
        assert archive.bookkeeping().sealed == "100, 101"
    assert again.sealed() == "100, 101"
    again.close()


def test_a_log_that_grew_meanwhile_is_not_sealed(kept: Store) -> None:
    """What came after the look would be in no successor."""
    before = last_of(kept)
    with kept.transaction() as tx:
        tx.put("things", b"late", b"v")
    with pytest.raises(LogGrewError, match="still runs"):
        kept.seal("100", before)
    assert not kept.sealed()
    with kept.transaction() as tx:
        tx.append([noted("c")])


def test_an_empty_log_is_sealed_too(store: Store) -> None:
    """It has no commit, and takes none from here on."""
    store.seal("100", Commit(0, 0))
    with pytest.raises(SealedLogError), store.transaction() as tx:
        tx.append([noted("a")])
    with pytest.raises(SealedLogError), store.restoration():
        pass


def test_a_seal_is_put_back_with_what_it_was_taken_out_with(store: Store) -> None:
    """A sealed log that comes out of an export is as sealed as it was."""
    with store.restoration() as restoration:
        restoration.add_bookkeeping(Bookkeeping((), (), (), ("things",), "100, 101"))
    assert store.sealed() == "100, 101"
    with pytest.raises(SealedLogError), store.transaction() as tx:
        tx.put("things", b"k", b"v")


def test_a_store_that_is_discarded_is_empty_when_it_is_made_again(
    kept: Store, store_settings: Callable[[str], StoreSettings]
) -> None:
    """Whatever it held; one that never was is no trouble."""
    kept.seal("100", last_of(kept))
    kept.close()
    discard_store(store_settings("testing"))
    discard_store(store_settings("testing"))
    again = open_store(store_settings("testing"), tables=TABLES)
    assert last_of(again) == Commit(0, 0)
    assert not again.sealed()
    with again.transaction() as tx:
        assert tx.append([noted("c")]) == [1]
    again.close()
