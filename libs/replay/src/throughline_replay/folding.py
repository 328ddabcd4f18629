"""Logs folded from their beginnings and held against live states, several at once: each goes on where it was
interrupted.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import grpc

from throughline_eventlog import StoreSettings, open_store
from throughline_eventlog.partitions import service_of
from throughline_replay.comparing import Comparison, compare_client, compare_with_live
from throughline_replay.deriving import Progress
from throughline_replay.parallel import each_apart
from throughline_replay.replaying import Replayed, code_of, make_folds
from throughline_replay.sources import EventSource, ServiceLog, StoredLog, said
from throughline_replay.units import StoreAwayError
from throughline_rpc import IN_THE_CLEAR, CallerCredentials

KEEP_SECONDS: Final = 30.0
"""How often the state of a fold is kept, at most."""
KEEP_SHARE: Final = 20
"""Keeping takes at most one part in so many of the time."""
APART: Final = 250_000
"""Events for which processes of their own are worth their start."""


@dataclass(frozen=True, slots=True)
class Folding:
    """One log to fold, by its name, up to a position, and what of the live state to hold it against.

    The events come from the service at the address, or from a file. `as_of`: an instant in microseconds since epoch (0:
    now) of which there is no live state to compare with. `key`: only aggregates whose key ends in it are compared.
    `kept` is where the state is kept in case of an interruption. `metadata`: who asks, as every call says it, and
    `credentials`: what the service is called with.
    """

    log: str
    address: str
    position: int
    kept: Path
    file: Path | None = None
    as_of: int = 0
    key: str | None = None
    metadata: Sequence[tuple[str, str]] = ()
    credentials: CallerCredentials = IN_THE_CLEAR

    @property
    def service(self) -> str:
        """Whose log it is."""
        return service_of(self.log)


@dataclass(frozen=True, slots=True)
class Folded:
    """The digest (hex) of a state as of an instant, which nothing is compared with."""

    service: str
    position: int
    events: int
    digest: str


def fold_each(
    asked: Sequence[Folding], events: int, workers: int, progress: Callable[[int, int], None]
) -> list[Comparison | Folded]:
    """Folds each log and compares; `workers` at a time where they have many `events` in all.

    `progress` hears which of them and how many events of it were folded. Left out: a service that keeps nothing under
    the key asked for. Raises: StoreAwayError where a service or a store is away, DerivationError where a log cannot be
    read.
    """
    if events >= APART and workers > 1:
        found = each_apart(fold, asked, workers, progress)
    else:
        found = [fold(each, _counter(progress, index)) for index, each in enumerate(asked)]
    return [each for each in found if each is not None]


def _counter(progress: Callable[[int, int], None], index: int) -> Progress:
    done = 0

    def count(events: int) -> None:
        nonlocal done
        done += events
        progress(index, done)

    return count


def fold(asked: Folding, progress: Progress) -> Comparison | Folded | None:
    """Folds one log and compares. Raises: StoreAwayError where the service is away; UnavailableError of a store."""
    with (
        ServiceLog(asked.log, asked.address, asked.metadata, asked.credentials) as live,
        _source(asked, live) as source,
        _told_by(asked.log),
    ):
        keeping = _Keeping(asked, source)
        replayed = keeping.resumed() or Replayed(make_folds([asked.service])[asked.service])
        progress(replayed.events)

        def done(events: int) -> None:
            progress(events)
            keeping.now_and_then(replayed)

        try:
            replayed.take(source.read(after=replayed.position, until=asked.position, as_of=asked.as_of), done)
        except KeyboardInterrupt:
            keeping.keep(replayed)
            raise
        if asked.as_of:
            found = Folded(asked.log, replayed.position, replayed.events, replayed.digest())
        elif asked.key is None:
            found = compare_with_live(replayed, source, live)
        else:
            found = compare_client(replayed, source, live, asked.key)
        keeping.forget()
        return None if found is None else replace(found, service=asked.log)


@contextmanager
def _source(asked: Folding, live: ServiceLog) -> Generator[EventSource]:
    if asked.file is None:
        yield live
        return
    store = open_store(StoreSettings.sqlite(asked.service, asked.file))
    try:
        yield StoredLog(store)
    finally:
        store.close()


@contextmanager
def _told_by(log: str) -> Generator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise StoreAwayError(f"{log}: {said(error)}") from error


class _Keeping:
    """The state of one fold in a file: of the same log, as of the same instant and by the same code, it goes on."""

    def __init__(self, asked: Folding, source: EventSource) -> None:
        self._file = asked.kept
        self._source = source
        self._asked = asked
        self._next = time.monotonic() + KEEP_SECONDS

    @cached_property
    def _of(self) -> tuple[str, str, int]:
        """Code, log and instant. Found out where something is kept or was: naming the code reads all of it."""
        asked = self._asked
        return code_of(asked.service), str(asked.file or asked.address), asked.as_of

    def resumed(self) -> Replayed | None:
        """The fold as it was kept; none where nothing was, or it was of something else."""
        try:
            with self._file.open("rb") as kept:
                of, event_id = pickle.load(kept)  # noqa: S301 -- written by `keep`, in a folder of nobody else's
                if of != self._of:
                    return None
                replayed: Replayed = pickle.load(kept)  # noqa: S301 -- as above
        except (FileNotFoundError, EOFError, pickle.UnpicklingError):
            return None
        return replayed if event_id == self._event_at(replayed.position) else None

    def now_and_then(self, replayed: Replayed) -> None:
        """Keeps the fold, if that was not long ago."""
        if time.monotonic() < self._next:
            return
        began = time.monotonic()
        self.keep(replayed)
        took = time.monotonic() - began
        self._next = time.monotonic() + max(KEEP_SECONDS, took * KEEP_SHARE)

    def keep(self, replayed: Replayed) -> None:
        """Keeps the fold as it stands, whole or not at all."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._file.with_suffix(".new")
        beside.touch(mode=0o600)
        with beside.open("wb") as kept:
            pickle.dump((self._of, self._event_at(replayed.position)), kept)
            pickle.dump(replayed, kept)
        beside.replace(self._file)

    def forget(self) -> None:
        """Drops what was kept: the fold is done."""
        self._file.unlink(missing_ok=True)

    def _event_at(self, position: int) -> bytes:
        return next((each.event_id for each in self._source.read(after=position - 1, until=position)), b"")
