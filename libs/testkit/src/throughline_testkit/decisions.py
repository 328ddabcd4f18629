"""Pure decisions, tested as they read: given what happened, when this is asked, then that happens."""

# ruff: noqa: S101 # asserting is what this is for

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from throughline_kernel import Refusal

S = TypeVar("S")
E = TypeVar("E")
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[E]):
    """What a decision came to: events, none, or a refusal."""

    events: tuple[E, ...]
    refusal: Refusal | None

    def then(self, *events: E) -> None:
        """It decided exactly these events, in this order; none where nothing is given."""
        assert self.refusal is None, f"refused: {self.refusal!r}"
        assert self.events == events, f"decided {self.events!r}, not {events!r}"

    def then_nothing(self) -> None:
        """It was true already."""
        self.then()

    def then_refused(self, kind: type[Refusal], *, reason: str | None = None, **metadata: str) -> Refusal:
        """It refused, in this way, for this reason, naming these values."""
        assert self.refusal is not None, f"decided {self.events!r} and refused nothing"
        assert isinstance(self.refusal, kind), f"refused with {self.refusal!r}, not {kind.__name__}"
        assert reason is None or self.refusal.reason == reason, f"{self.refusal.reason}, not {reason}"
        named = {key: self.refusal.metadata.get(key) for key in metadata}
        assert named == metadata, f"named {self.refusal.metadata!r}, not {metadata!r}"
        return self.refusal


@dataclass(frozen=True, slots=True)
class Decision(Generic[S]):
    """A state, come about by events."""

    state: S

    def when(self, decide: Callable[[C, S], Iterable[E]], command: C) -> Outcome[E]:
        """Asks for a decision on the command in this state."""
        try:
            return Outcome(tuple(decide(command, self.state)), None)
        except Refusal as refusal:
            return Outcome((), refusal)


def given(evolve: Callable[[S, Any], S], initial: S, events: Sequence[Any] = ()) -> Decision[S]:
    """The state after the events.

    >>> given(lambda total, amount: total + amount, 0, [1, 2]).when(lambda ask, total: [ask + total], 4).then(7)
    """
    state = initial
    for event in events:
        state = evolve(state, event)
    return Decision(state)
