"""Where telemetry can look in: one span for a batch, linked with what caused it, never one for an event."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

BatchKind = Literal["commit", "publish", "consume"]


class Observer(Protocol):
    """Surrounds each batch."""

    def batch(
        self, kind: BatchKind, traceparents: Sequence[str], attributes: Mapping[str, str | int]
    ) -> AbstractContextManager[str]:
        """Opens a span for the time of the block, linked with the given W3C trace contexts, and yields its own.

        An empty string stands for no span. `commit` and `consume` run in the writer's thread, `publish` in the event
        loop.
        """
        ...


class Unobserved:
    """Looks away."""

    @contextmanager
    def batch(
        self,
        kind: BatchKind,
        traceparents: Sequence[str],
        attributes: Mapping[str, str | int],
    ) -> Generator[str]:
        """Does nothing."""
        yield ""


LINKS = 32
"""Trace contexts linked from one batch; more would say no more."""


def some_traceparents(traceparents: Sequence[str]) -> list[str]:
    """The first few distinct trace contexts."""
    return list(dict.fromkeys(filter(None, traceparents)))[:LINKS]
