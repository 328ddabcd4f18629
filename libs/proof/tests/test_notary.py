"""What a notary keeps beside a log is what the log alone says, however it came to be; on both kinds of store."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise

import pytest

from throughline.journey.v1 import events_pb2 as journey
from throughline_eventlog import LoggedRow, NewEvent, Store, StoreSettings, open_store
from throughline_kernel import NotFoundError
from throughline_proof import (
    LogSummary,
    Notary,
    SigningKey,
    SigningKeys,
    open_checkpoint,
    open_proofs,
    proofs_of,
    verify_consistency,
    verify_inclusion,
    verify_subject,
)
from throughline_proof.verifier import NOTHING, head_over, leaf_hash, leaf_of

KEYS = SigningKeys((SigningKey.new("test"),))
ORIGIN = "test/journey/0"
CLIENTS = [bytes((number,)) * 16 for number in range(1, 6)]


class Kept:
    """A log, the store of its proofs, and as many notaries as are asked for."""

    def __init__(self, log: Store, proofs: Store) -> None:
        self.log = log
        self.proofs = proofs
        self._versions: dict[bytes, int] = {}

    def append(self, clients: Sequence[bytes]) -> None:
        """An event of each client, in one commit."""
        events: list[NewEvent] = []
        for client in clients:
            version = self._versions[client] = self._versions.get(client, 0) + 1
            reached = journey.StageReached(client_id=client.hex(), stage=f"stage {version}")
            events.append(NewEvent(client, version, reached.DESCRIPTOR.full_name, reached.SerializeToString(), version))
        with self.log.transaction() as tx:
            tx.append(events)

    def rows(self) -> list[LoggedRow]:
        """The log."""
        with self.log.snapshot() as reader:
            return reader.read_logged()

    def notary(self, keys: SigningKeys = KEYS, step: int = 300) -> Notary:
        """A notary that knows nothing yet."""
        return Notary(self.log, self.proofs, keys, ORIGIN, step=step)


@pytest.fixture
def kept(store_settings: Callable[[str], StoreSettings]) -> Iterator[Kept]:
    """An empty log of journey and its proofs."""
    settings = store_settings("journey")
    with ExitStack() as stack:
        log = open_store(settings)
        stack.callback(log.close)
        proofs = open_proofs(settings, log.clock)
        stack.callback(proofs.close)
        yield Kept(log, proofs)


def summed_up(rows: Sequence[LoggedRow]) -> LogSummary:
    """What the events alone say."""
    summary = LogSummary()
    summary.take(rows)
    return summary


def test_a_log_grown_in_any_steps_is_proved_event_by_event(kept: Kept) -> None:
    """Two notaries take turns, one is made anew on the way: roots, inclusion, consistency and lists are the log's."""
    chance = random.Random(5)
    two = [kept.notary(), kept.notary()]
    sizes = [0]
    two[0].checkpoint()
    for turn in range(12):
        kept.append(chance.choices(CLIENTS[:4], k=chance.choice((1, 3, 90, 260))))
        if turn == 7:
            two[1] = kept.notary()
        signed = chance.choice(two).checkpoint()
        rows = kept.rows()
        said, summary = open_checkpoint(signed.note, KEYS.public), summed_up(rows)
        assert (said.origin, said.size, said.position) == (ORIGIN, len(rows), rows[-1].position)
        assert (said.root, said.map_root) == (signed.root, signed.map_root) == (summary.root, summary.map_root)
        sizes.append(said.size)
    leaves = [leaf_hash(leaf_of(*row)) for row in rows]
    roots = [summed_up(rows[:size]).root for size in sizes]
    for notary in (*two, kept.notary()):
        for size, root in zip(sizes[1:], roots[1:], strict=True):
            some = chance.sample(range(size), min(size, 20))
            found, placed = notary.inclusion(size, [rows[index].position for index in some])
            assert found == size
            for index, each in zip(some, placed, strict=True):
                assert (each.index, each.position) == (index, rows[index].position)
                assert verify_inclusion(leaves[index], index, size, each.hashes, root)
        for (old, old_root), (new, new_root) in pairwise(zip(sizes, roots, strict=True)):
            assert verify_consistency(old, new, old_root, new_root, notary.consistency(old, new))
        for client in CLIENTS:
            complete = notary.complete(client)
            own = [row.position for row in rows if row.stream_id == client]
            assert complete.positions == own
            assert complete.head == head_over(leaves[row.position - 1] for row in rows if row.stream_id == client)
            assert verify_subject(client, complete.head, complete.proof, complete.checkpoint.map_root)
    assert notary.complete(CLIENTS[4]).head == NOTHING


def test_a_long_way_is_gone_in_steps_and_each_is_signed(kept: Kept) -> None:
    """So that whoever takes it over may rest between them."""
    kept.append(CLIENTS * 130)
    notary = kept.notary()
    assert [notary.follow() for _ in range(4)] == [True, True, False, False]
    assert [signed.size for _, signed in notary.checkpoints(limit=9)] == [300, 600, 650]


def test_nothing_is_signed_twice_and_everything_signed_is_kept(kept: Kept) -> None:
    """A log that did not grow has its checkpoint; they are listed in order, from either end, in pages."""
    notary = kept.notary()
    made = [notary.checkpoint()]
    assert notary.checkpoint() == made[0]
    for _ in range(3):
        kept.append(CLIENTS)
        made.append(notary.checkpoint())
    assert kept.notary().checkpoint() == made[-1]
    assert [signed for _, signed in notary.checkpoints(limit=10)] == made
    assert [signed for _, signed in notary.checkpoints(limit=10, newest_first=True)] == made[::-1]
    assert [signed for _, signed in notary.checkpoints(after=2, limit=1)] == made[2:3]
    assert [signed for _, signed in notary.checkpoints(after=3, limit=1, newest_first=True)] == made[1:2]
    assert [signed.size for signed in made] == [0, 5, 10, 15]


def test_a_new_key_signs_at_once_beside_the_old_one(kept: Kept) -> None:
    """Though the log did not grow; what the old one signed stays as it was."""
    kept.append(CLIENTS)
    before = kept.notary().checkpoint()
    rotating = SigningKeys((*KEYS.active, SigningKey.new("test")))
    between = kept.notary(rotating).checkpoint()
    assert (between.size, list(between.vkeys)) == (5, [key.vkey for key in rotating.public])
    alone = SigningKeys(rotating.active[1:], KEYS.public)
    kept.append(CLIENTS)
    after = kept.notary(alone).checkpoint()
    for signed in (before, between, after):
        assert open_checkpoint(signed.note, alone.public).size == signed.size


def test_a_step_that_fails_leaves_no_trace(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is not ahead of the store: the next step says what the log says."""
    notary = kept.notary()
    kept.append(CLIENTS)
    notary.checkpoint()
    kept.append(CLIENTS * 80)

    def fail(self: SigningKeys, text: str) -> str:
        raise RuntimeError(text)

    with monkeypatch.context() as patch:
        patch.setattr(SigningKeys, "sign", fail)
        with pytest.raises(RuntimeError):
            notary.checkpoint()
    signed = notary.checkpoint()
    assert (signed.root, signed.map_root) == (
        summed_up(kept.rows()).root,
        summed_up(kept.rows()).map_root,
    )


def test_what_no_checkpoint_says_is_refused(kept: Kept) -> None:
    """A position beyond it, one that no event has, sizes that are none."""
    notary = kept.notary()
    with pytest.raises(NotFoundError, match="no checkpoint was made yet"):
        notary.inclusion(0, [1])
    kept.append(CLIENTS)
    notary.checkpoint()
    kept.append(CLIENTS)
    for position in (0, -3, 6, 1_000_000):
        with pytest.raises(NotFoundError, match=f"none at position {position}"):
            notary.inclusion(5, [position])
    for size in (6, 1_000):
        with pytest.raises(NotFoundError, match=f"no checkpoint has the size {size}"):
            notary.inclusion(size, [size])
    for old, new in ((6, 5), (0, 6), (-1, 3)):
        with pytest.raises(NotFoundError, match="the last one has 5"):
            notary.consistency(old, new)


def test_the_proofs_of_a_log_are_another_store_of_its_service(store_settings: Callable[[str], StoreSettings]) -> None:
    """Beside it, under a name of its own."""
    settings = store_settings("journey")
    proofs = proofs_of(settings)
    assert proofs.service == "journey_proofs"
    place = ("SQLITE_DBNAME", "POSTGRES_SCHEMA")
    named = [(settings.environment[each], proofs.environment[each]) for each in place if each in settings.environment]
    assert all(log != beside and "journey" in beside and "proofs" in beside for log, beside in named)
