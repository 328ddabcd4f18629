"""Law 6: every event offered ends in exactly one of five, and the five add up to what was offered, per source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import sha256
from typing import Final

_MODULUS: Final = 1 << 256


class Verdict(IntEnum):
    """The five ends of an offered event."""

    RECORDED = 1
    DUPLICATE = 2
    CONFLICT = 3
    QUARANTINED = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Tally:
    """What one source offered, by what became of it."""

    recorded: int = 0
    duplicate: int = 0
    conflict: int = 0
    quarantined: int = 0
    refused: int = 0

    @property
    def offered(self) -> int:
        """All that the source offered."""
        return self.recorded + self.duplicate + self.conflict + self.quarantined + self.refused

    def by_verdict(self) -> list[tuple[str, int]]:
        """(verdict in lower case, count) of each end that there was."""
        ends = (self.recorded, self.duplicate, self.conflict, self.quarantined, self.refused)
        return [(verdict.name.lower(), count) for verdict, count in zip(Verdict, ends, strict=True) if count]

    def plus(self, verdict: int, count: int = 1) -> Tally:
        """This tally and `count` more offers that ended so."""
        match verdict:
            case Verdict.RECORDED:
                return replace(self, recorded=self.recorded + count)
            case Verdict.DUPLICATE:
                return replace(self, duplicate=self.duplicate + count)
            case Verdict.CONFLICT:
                return replace(self, conflict=self.conflict + count)
            case Verdict.QUARANTINED:
                return replace(self, quarantined=self.quarantined + count)
            case _:
                return replace(self, refused=self.refused + count)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.recorded + other.recorded,
            self.duplicate + other.duplicate,
            self.conflict + other.conflict,
            self.quarantined + other.quarantined,
            self.refused + other.refused,
        )


@dataclass(frozen=True, slots=True)
class SetDigest:
    """How many members a set has, and the sum of their SHA-256 modulo 2^256: equal sets have equal ones."""

    members: int = 0
    total: int = 0

    def plus(self, members: Iterable[bytes]) -> SetDigest:
        """The digest once these join. The caller adds each member once."""
        count, total = self.members, self.total
        for member in members:
            count += 1
            total += int.from_bytes(sha256(member).digest(), "big")
        return SetDigest(count, total % _MODULUS)

    def hex(self) -> str:
        """64 hex digits."""
        return f"{self.total:064x}"


@dataclass(frozen=True, slots=True)
class Account:
    """What stands to one source's name. A member of the digests is an interaction id and content MAC, 32 bytes."""

    tally: Tally = Tally()
    recorded: SetDigest = SetDigest()
    conflicting: SetDigest = SetDigest()

    def tallied(self, tally: Tally) -> Account:
        """After these offers."""
        return replace(self, tally=self.tally + tally)

    def recording(self, members: Iterable[bytes]) -> Account:
        """After these interactions were recorded."""
        return replace(self, recorded=self.recorded.plus(members))

    def keeping_conflicts(self, members: Iterable[bytes]) -> Account:
        """After these conflicting contents were kept."""
        return replace(self, conflicting=self.conflicting.plus(members))

    def redriven(self, verdict: int, offers: int) -> Account:
        """After `offers` of one content left quarantine: one ends as `verdict`, the others as a repeat of it would."""
        tally = replace(self.tally, quarantined=self.tally.quarantined - offers).plus(verdict)
        return replace(self, tally=tally.plus(_after(verdict), offers - 1))


def _after(verdict: int) -> Verdict:
    return Verdict.DUPLICATE if verdict == Verdict.RECORDED else Verdict(verdict)
