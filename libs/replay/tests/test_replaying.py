"""Replays and comparisons, over a log and a fold that are small enough to see through."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest

from throughline_kernel import Recorded, canonical_json, combine_digests, digest
from throughline_replay.comparing import compare_client, compare_with_live
from throughline_replay.replaying import Replayed, UnknownServiceError, make_folds, replay_log
from throughline_replay.sources import Checkpoint


class Visits:
    """Counts visits per client: a fold as services write them."""

    service = "visits"

    def __init__(self) -> None:
        self.counts: dict[str, list[str]] = {}

    def apply(self, event: Recorded) -> None:
        visit = json.loads(event.payload)
        self.counts.setdefault(visit["client"], []).append(visit["page"])

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        for client in sorted(self.counts):
            yield client, canonical_json({"pages": self.counts[client]})

    def describe(self, event: Recorded) -> str:
        return f"visited {json.loads(event.payload)['page']}"


def logged(position: int, client: str, page: str) -> Recorded:
    payload = json.dumps({"client": client, "page": page}).encode()
    return Recorded(position, b"s" * 16, position, "visits.Visited", b"e" * 16, 1, 0, 0, "", "", "", payload)


LOG = [logged(1, "ann", "home"), logged(3, "bob", "home"), logged(4, "ann", "coats"), logged(9, "ann", "till")]


class Log:
    """A log in a list."""

    def read(
        self,
        *,
        after: int = 0,
        until: int = 0,
        as_of: int = 0,
        client_id: str = "",
        interaction_ids: Sequence[str] = (),
    ) -> Iterator[Recorded]:
        return (event for event in LOG if event.position > after and (not until or event.position <= until))


class Live:
    """A running service's state: a fold of its own, changed behind the log's back where a test says so."""

    def __init__(self, position: int) -> None:
        self.fold = replay_log(Visits(), Log().read(until=position))

    def checkpoint(self, *, digest: bool = False) -> Checkpoint:
        whole = combine_digests(self._digests().items())
        return Checkpoint(self.fold.position, 0, self.fold.events, whole)

    def state_digests(self) -> tuple[int, dict[str, bytes]]:
        return self.fold.position, self._digests()

    def state(self, key: str) -> tuple[int, bytes]:
        return self.fold.position, self.fold.states().get(key, b"")

    def counts(self) -> dict[str, list[str]]:
        assert isinstance(self.fold.fold, Visits)
        return self.fold.fold.counts

    def _digests(self) -> dict[str, bytes]:
        return {key: digest(state) for key, state in self.fold.states().items()}


def test_a_replay_catches_up_with_the_live_state_before_it_compares() -> None:
    """The cut is where the live state stands, though the log was shorter when the replay began."""
    replayed = replay_log(Visits(), Log().read(until=3))
    found = compare_with_live(replayed, Log(), Live(9))
    assert found.equal
    assert (found.position, found.events) == (9, 4)


def test_the_first_difference_is_named_down_to_the_value() -> None:
    """Aggregate, path and both values, the first in key order."""
    live = Live(9)
    live.counts()["ann"][1] = "shoes"
    live.counts()["bob"].append("stray")
    found = compare_with_live(replay_log(Visits(), Log().read()), Log(), live)
    assert not found.equal
    assert found.difference is not None
    assert (found.difference.key, found.difference.path) == ("ann", "pages[1]")
    assert (found.difference.live, found.difference.replayed) == ('"shoes"', '"coats"')


def test_an_aggregate_that_only_one_side_has_is_a_difference() -> None:
    """A client that the log knows and the live state lost is named, and the other way round."""
    live = Live(9)
    del live.counts()["bob"]
    live.counts()["eve"] = ["home"]
    found = compare_with_live(replay_log(Visits(), Log().read()), Log(), live)
    assert found.difference is not None
    assert (found.difference.key, found.difference.live) == ("bob", "absent")
    one = compare_client(replay_log(Visits(), Log().read()), Log(), live, "bob")
    assert one is not None
    assert one.difference is not None
    assert one.difference.live == "absent"


def test_one_client_is_compared_alone() -> None:
    """A difference in somebody else's state does not touch the comparison, and a stranger gives none."""
    live = Live(9)
    live.counts()["bob"].append("stray")
    ann = compare_client(replay_log(Visits(), Log().read(until=3)), Log(), live, "ann")
    assert ann is not None
    assert ann.equal
    assert ann.position == 9
    assert compare_client(replay_log(Visits(), Log().read()), Log(), live, "eve") is None


def test_a_replay_that_is_ahead_of_the_live_state_is_refused() -> None:
    """Comparing different cuts would find differences that are none."""
    with pytest.raises(ValueError, match="ahead of the live state"):
        compare_with_live(replay_log(Visits(), Log().read()), Log(), Live(4))


def test_a_log_out_of_order_is_refused() -> None:
    """An event that does not come after the last one is never folded."""
    replayed = Replayed(Visits())
    with pytest.raises(ValueError, match="out of order"):
        replayed.take([LOG[1], LOG[0]])


def test_a_service_without_a_fold_is_named_with_the_remedy() -> None:
    """The message says which package offers the fold."""
    with pytest.raises(UnknownServiceError, match="install the package throughline-billing"):
        make_folds(["billing"])
