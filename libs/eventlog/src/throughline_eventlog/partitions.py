"""In how many parts each service's work stands, now and before, and which part has what: pure.

A service's log is never parted in place. Whoever changes the number of its partitions begins a new generation of logs,
with numbers that no log had before, and keeps the old ones as they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Self

from throughline_eventlog.errors import SettingsError
from throughline_kernel import hex_id

PARTITIONS: Final = "THROUGHLINE_PARTITIONS"
PARTITIONS_FILE: Final = "partitions"
"""Where a data folder keeps the same text; absent: one partition of each service, since ever."""
MOST_PARTITIONS: Final = 64
PARTED: Final = ("ingestion",)
"""The services that can have several partitions."""
WHOLE: Final[Mapping[str, str]] = {
    "identity": "who may be one client is decided in one order",
    "journey": "what it answers about journeys counts over all clients",
    "feedback": "a department's inbox is over all clients",
    "scoring": "scorecards count over all clients",
}
"""The services that have exactly one, and why."""

_FIRST: Final = (1,)
_GENERATION: Final = 100
_COUNT: Final = re.compile(r"[1-9][0-9]?\Z")
_FORM: Final = "give the count of partitions of each generation so far, e.g. ingestion=1:2"


def owner(key: str, count: int) -> int:
    """The index, from 0, of the partition that has a key among `count`: by rendezvous hashing (Thaler and Ravishankar,
    1998), so that of n partitions becoming n + 1 only what the new one takes is moved.

    What it answers may never change: logs are written by it.
    """
    if count == 1:
        return 0
    return max(range(count), key=lambda index: sha256(f"{index}:{key}".encode()).digest())


def log_name(service: str, number: int) -> str:
    """What a partition's log is called, in files and addresses: `ingestion`, `ingestion-101`."""
    return f"{service}-{number}" if number else service


def service_of(log: str) -> str:
    """Whose log a name is of."""
    return log.partition("-")[0]


def number_of(log: str) -> int:
    """The partition that a log's name is of. Raises ValueError for what is no such name."""
    _, dash, number = log.partition("-")
    return int(number) if dash else 0


def opening_stream(service: str) -> bytes:
    """The stream of a log that holds its opening alone: the event that ends what was taken over from earlier logs."""
    return bytes.fromhex(hex_id(f"{service}.partition"))


def generation_of(number: int) -> int:
    """The generation that a partition's number is of."""
    return number // _GENERATION


def index_of(number: int) -> int:
    """The place of a partition in its generation, from 0."""
    return number % _GENERATION


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How an installation's services are parted: of each the counts of all generations so far, the last in force.

    A partition's number is its generation times 100 plus its index: `ingestion=1:2` had 0, and has 100 and 101.
    """

    generations: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    @classmethod
    def parse(cls, text: str, where: str = PARTITIONS) -> Self:
        """Reads `ingestion=1:2:3`, several services with commas; what is not named has and had one partition.

        Raises SettingsError, which names `where` the text stands.
        """
        found: dict[str, tuple[int, ...]] = {}
        for part in filter(None, (each.strip() for each in text.split(","))):
            service, equals, counts = (each.strip() for each in part.partition("="))
            if service not in {*PARTED, *WHOLE}:
                known = ", ".join((*PARTED, *WHOLE))
                raise SettingsError(f"{where} names {service!r}, which is no service ({known}): {_FORM}")
            if service in found:
                raise SettingsError(f"{where} names {service} twice: {_FORM}")
            texts = [each.strip() for each in counts.split(":")]
            if not equals or not all(map(_COUNT.match, texts)):
                raise SettingsError(f"{where} has {part!r}: {_FORM}")
            found[service] = tuple(map(int, texts))
            _check_counts(service, found[service], where)
        return cls({service: counts for service, counts in found.items() if counts != _FIRST})

    def write(self) -> str:
        """The text that is read as this; empty where every service has one partition since ever."""
        return ",".join(
            f"{service}={':'.join(map(str, self.generations[service]))}" for service in sorted(self.generations)
        )

    def counts(self, service: str) -> tuple[int, ...]:
        """The counts of all generations, the one in force last."""
        return self.generations.get(service, _FIRST)

    def count(self, service: str) -> int:
        """How many partitions the service has now."""
        return self.counts(service)[-1]

    def in_force(self, service: str) -> tuple[int, ...]:
        """The numbers of the service's partitions now, by index."""
        return self._numbers(service, len(self.counts(service)) - 1)

    def numbers_in_force(self, services: Iterable[str]) -> Mapping[str, tuple[int, ...]]:
        """The same for several services."""
        return {service: self.in_force(service) for service in services}

    def earlier(self, service: str) -> tuple[int, ...]:
        """The numbers of its partitions of earlier generations, oldest first: nothing writes to those logs any more."""
        return tuple(
            number
            for generation in range(len(self.counts(service)) - 1)
            for number in self._numbers(service, generation)
        )

    def numbers(self, service: str) -> tuple[int, ...]:
        """All numbers, oldest first."""
        return self.earlier(service) + self.in_force(service)

    def logs(self, services: Iterable[str]) -> tuple[str, ...]:
        """The names of the logs in force of several services."""
        return tuple(log_name(service, number) for service in services for number in self.in_force(service))

    def log(self, name: str, services: Iterable[str], *, earlier: bool = False) -> str:
        """The log in force that is meant by its name, or by its service where that has one; with `earlier` also one of
        another generation, by service and number (`ingestion-0`). Raises SettingsError, which lists what there is.
        """
        services = tuple(services)
        logs = self.logs(services)
        own = [log for log in logs if name in {log, service_of(log)}]
        if name in own or len(own) == 1:
            return name if name in own else own[0]
        if own:
            raise SettingsError(f"{name} has several logs, each of its own: name one of {', '.join(own)}")
        kept = {
            f"{service}-{number}": log_name(service, number) for service in services for number in self.earlier(service)
        }
        if earlier and name in kept:
            return kept[name]
        listed = ", ".join((*logs, *kept) if earlier else logs)
        raise SettingsError(f"{name!r} is no log {'of these' if earlier else 'in force'}; there are: {listed}")

    def owner(self, service: str, key: str) -> int:
        """The number of the partition that has a key now."""
        return self.in_force(service)[owner(key, self.count(service))]

    def check_in_force(self, service: str, number: int, where: str) -> None:
        """Refuses the number of a partition that may not be served. Raises SettingsError."""
        numbers = self.in_force(service)
        if number not in numbers:
            listed = ", ".join(map(str, numbers))
            was = " was replaced and is kept for reading only" if number in self.earlier(service) else " does not exist"
            raise SettingsError(
                f"{where} is {number}: partition {number} of {service}{was}; give "
                f"{'one that is in force' if len(numbers) > 1 else 'the one in force'}, {listed}"
            )

    def followed_by(self, service: str, count: int) -> Partitioning:
        """The same with another generation, of `count` partitions. Raises SettingsError."""
        counts = (*self.counts(service), count)
        _check_counts(service, counts, f"{service}={':'.join(map(str, counts))}")
        return Partitioning({**self.generations, service: counts})

    def _numbers(self, service: str, generation: int) -> tuple[int, ...]:
        return tuple(generation * _GENERATION + index for index in range(self.counts(service)[generation]))


def _check_counts(service: str, counts: Sequence[int], where: str) -> None:
    if service in WHOLE and tuple(counts) != _FIRST:
        raise SettingsError(
            f"{where} gives {service} other partitions than the one that it has since ever: it is not parted, because "
            f"{WHOLE[service]}; of the services {' and '.join(PARTED)} can be"
        )
    if counts[0] != 1:
        raise SettingsError(
            f"{where} begins with {counts[0]} for {service}, and every installation begins with one partition: {_FORM}"
        )
    for count in counts:
        if not 1 <= count <= MOST_PARTITIONS:
            raise SettingsError(f"{where} gives {service} {count} partitions: give 1 to {MOST_PARTITIONS}")


def listed(numbers: Sequence[int]) -> str:
    """Partitions in a sentence: `partition 0`, `partitions 100, 101`."""
    return f"partition{'s' if len(numbers) != 1 else ''} {', '.join(map(str, numbers))}"
