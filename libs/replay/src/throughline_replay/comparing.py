"""A replayed state held against the live one at the same cut, and the first place where they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, cast

from throughline_kernel import combine_digests, digest
from throughline_replay.replaying import Replayed

if TYPE_CHECKING:
    from throughline_replay.sources import EventSource, LiveState


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where live and replayed state differ: aggregate, path within it, both values as JSON."""

    key: str
    path: str
    live: str
    replayed: str

    def __str__(self) -> str:
        return f"{self.key} at {self.path or '(whole)'}: live {self.live}, replayed {self.replayed}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison of one service found, at log position `position`."""

    service: str
    position: int
    events: int
    live_digest: str
    replayed_digest: str
    difference: Difference | None

    @property
    def equal(self) -> bool:
        """The two states are the same to the last bit."""
        return self.live_digest == self.replayed_digest


def compare_with_live(replayed: Replayed, events: EventSource, live: LiveState) -> Comparison:
    """Brings the replay to the live state's own position, then compares.

    Reads on from `events` where the live log has grown since the replay stopped: the cut is the live state's.
    Raises: ValueError where the replay is ahead of it.
    """
    cut = live.checkpoint(digest=True)
    _advance(replayed, events, cut.position)
    replayed_digest = replayed.digest()
    difference = None
    if replayed_digest != cut.digest:
        difference = _first_difference(replayed, events, live)
    return Comparison(replayed.fold.service, cut.position, replayed.events, cut.digest, replayed_digest, difference)


def compare_client(replayed: Replayed, events: EventSource, live: LiveState, client_id: str) -> Comparison | None:
    """Compares what one service keeps of one client, under keys that end in the id; None where that is nothing.

    Each aggregate is compared at the position at which the live one was read.
    """
    position = live.checkpoint().position
    _advance(replayed, events, position)
    difference: Difference | None = None
    mine: list[tuple[str, bytes]] = []
    theirs: list[tuple[str, bytes]] = []
    for key in sorted(key for key in replayed.states() if key.endswith(client_id)):
        position, state = live.state(key)
        _advance(replayed, events, position)
        ours = replayed.states().get(key, b"")
        mine.append((key, digest(ours)))
        theirs.append((key, digest(state)))
        if difference is None and ours != state:
            difference = difference_within(key, state, ours)
    if not mine:
        return None
    return Comparison(
        replayed.fold.service,
        position,
        replayed.events,
        combine_digests(theirs),
        combine_digests(mine),
        difference,
    )


def _advance(replayed: Replayed, events: EventSource, position: int) -> None:
    if replayed.position > position:
        raise ValueError(
            f"the replay of {replayed.fold.service} is at {replayed.position}, ahead of the live state at {position}"
        )
    if replayed.position < position:
        replayed.take(events.read(after=replayed.position, until=position))


def _first_difference(replayed: Replayed, events: EventSource, live: LiveState) -> Difference:
    position, live_digests = live.state_digests()
    _advance(replayed, events, position)
    states = replayed.states()
    for key in sorted(live_digests.keys() | states.keys()):
        mine = states.get(key)
        if mine is None or live_digests.get(key) != digest(mine):
            return difference_within(key, live.state(key)[1], mine or b"")
    # The digests of the wholes differed but no aggregate does: the live state moved between the two readings.
    return Difference("(none left)", "", "the live state changed while it was compared", "compare again")


def difference_within(key: str, live: bytes, replayed: bytes) -> Difference:
    """The first difference within one aggregate, given as canonical JSON; empty where one side has none."""
    if not live or not replayed:
        return Difference(key, "", _shown(live), _shown(replayed))
    return next(differences_within(key, live, replayed), Difference(key, "", _shown(live), _shown(replayed)))


def differences_within(key: str, live: bytes, replayed: bytes) -> Iterator[Difference]:
    """Every difference within one aggregate that both sides have, given as canonical JSON."""
    for path, here, there in differing_paths(json.loads(live), json.loads(replayed)):
        yield Difference(key, path, json.dumps(here)[:200], json.dumps(there)[:200])


def _shown(state: bytes) -> str:
    return state.decode()[:200] if state else "absent"


def differing_paths(here: Any, there: Any, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Every place, in name order, where two JSON values differ: its path below `path`, and the value of either."""
    if isinstance(here, dict) and isinstance(there, dict):
        left, right = cast("dict[str, Any]", here), cast("dict[str, Any]", there)
        for name in sorted(left.keys() | right.keys()):
            yield from differing_paths(left.get(name), right.get(name), f"{path}.{name}" if path else name)
    elif isinstance(here, list) and isinstance(there, list):
        for index, (mine, other) in enumerate(zip_longest(cast("list[Any]", here), cast("list[Any]", there))):
            yield from differing_paths(mine, other, f"{path}[{index}]")
    elif here != there:
        yield path, cast("object", here), cast("object", there)
