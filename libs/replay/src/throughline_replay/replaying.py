"""One log folded into one state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from throughline_eventlog import collecting_seldom
from throughline_kernel import Fold, Recorded, combine_digests, digest

SERVICES = ("ingestion", "identity", "journey", "feedback", "scoring")
TELLING: Final = 100
"""Events of which whoever watches hears at once."""


class UnknownServiceError(LookupError):
    """No installed package offers a fold for this service's log."""

    def __init__(self, service: str) -> None:
        super().__init__(
            f"no fold is installed for the log of {service!r}: install the package throughline-{service}, "
            "which offers one under the entry point group throughline.folds"
        )
        self.service = service


def make_folds(services: Iterable[str] = SERVICES) -> dict[str, Fold]:
    """A fresh fold for each service, found through the entry point group `throughline.folds`.

    Raises: UnknownServiceError where a service's package is not installed.
    """
    offered = {point.name: point for point in entry_points(group="throughline.folds")}
    folds: dict[str, Fold] = {}
    for service in services:
        if service not in offered:
            raise UnknownServiceError(service)
        make: Callable[[], Fold] = offered[service].load()
        folds[service] = make()
    return folds


@dataclass(slots=True)
class Replayed:
    """A fold and how far along its log it has come. `position` is that of the last event taken."""

    fold: Fold
    position: int = 0
    events: int = 0

    def take(self, events: Iterable[Recorded], progress: Callable[[int], None] | None = None) -> None:
        """Applies events in log order. Raises ValueError where one does not come after the last."""
        with collecting_seldom():
            for event in events:
                if event.position <= self.position:
                    raise ValueError(
                        f"the log of {self.fold.service} is out of order: position {event.position} follows "
                        f"{self.position}"
                    )
                self.fold.apply(event)
                self.position = event.position
                self.events += 1
                if progress is not None and self.events % TELLING == 0:
                    progress(TELLING)

    def states(self) -> dict[str, bytes]:
        """Every aggregate's canonical JSON by key."""
        return dict(self.fold.aggregates())

    def digest(self) -> str:
        """The digest of the whole state, hex: comparable with a live service's at the same position."""
        return combine_digests((key, digest(state)) for key, state in self.fold.aggregates())


def code_of(service: str, instead: bytes = b"") -> str:
    """Names (in hex) the code that folds and decides, and what is tried instead of its rules: another one cannot go on
    where this one stopped.
    """
    hashed = sha256(instead)
    for package in (service, "throughline_directory", "throughline_privacy", "throughline_eventlog"):
        where = import_module(package).__file__
        assert where is not None  # noqa: S101 # a package that was installed has files
        for file in sorted(Path(where).parent.rglob("*.py")):
            hashed.update(file.read_bytes())
    return hashed.hexdigest()


def replay_log(fold: Fold, events: Iterable[Recorded], progress: Callable[[int], None] | None = None) -> Replayed:
    """Folds a log from its beginning; `progress` hears of every hundred events."""
    replayed = Replayed(fold)
    replayed.take(events, progress)
    return replayed
