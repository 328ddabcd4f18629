"""Several logs folded or decided again at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import SynchronizedArray
from typing import Any, Final, Protocol, TypeVar

from throughline_eventlog import SettingsError
from throughline_kernel import Refusal, UnavailableError
from throughline_privacy import PrivacySettingsError
from throughline_replay.deriving import Progress
from throughline_replay.replaying import UnknownServiceError
from throughline_replay.units import DerivationError, StoreAwayError


class OfLog(Protocol):
    """What is to be done with one log."""

    @property
    def log(self) -> str:
        """The log's name."""
        ...


R = TypeVar("R")
U = TypeVar("U", bound=OfLog)

LOOK_SECONDS: Final = 0.2

_counted: SynchronizedArray[int] | None = None


def each_apart(
    work: Callable[[U, Progress], R], units: Sequence[U], workers: int, progress: Callable[[int, int], None]
) -> list[R]:
    """Does the work (`derive`, `fold`, or another function of a module) for each unit, `workers` at a time.

    `progress` hears a unit's index and how many events it has done. Results are in the order of the units. Raises
    DerivationError, StoreAwayError of the first unit that fails.
    """
    # A fresh process for each: what this one has open, or imported, is not there.
    spawn = multiprocessing.get_context("spawn")
    counted = spawn.Array("Q", len(units))
    with ProcessPoolExecutor(workers, spawn, initializer=_begin, initargs=(counted,), max_tasks_per_child=1) as pool:
        futures = [pool.submit(_work, work, index, unit) for index, unit in enumerate(units)]
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for index in range(len(units)):
                progress(index, counted[index])
            if failed := [future for future in done if future.exception() is not None]:
                pool.shutdown(wait=True, cancel_futures=True)
                failed[0].result()
    return [future.result() for future in futures]


def _begin(counted: Any) -> None:
    global _counted  # noqa: PLW0603 # shared memory reaches a new process only as it starts
    _counted = counted


def _work(work: Callable[[U, Progress], R], index: int, unit: U) -> R:
    counted = _counted
    assert counted is not None  # noqa: S101 # set as the process starts

    def count(events: int) -> None:
        counted[index] += events

    try:
        return work(unit, count)
    except UnavailableError as error:
        raise StoreAwayError(error.message) from error
    except (Refusal, UnknownServiceError, SettingsError, PrivacySettingsError, ValueError) as error:
        # A refusal does not survive the way between processes; its sentence does.
        raise DerivationError(f"{unit.log}: {error}") from error
