"""What a client has said about purposes, what of it holds, and what an answer leaves out because of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

SERVICE: Final = "service"
"""Serving the client in the matter that they come with. What a read that names no purpose is for."""
MARKETING: Final = "marketing"
MEASUREMENT: Final = "measurement"
"""What scores are computed for, whoever reads them."""
AUDIT: Final = "audit"
"""Checking what was done. No consent is asked for it, and nothing is left out."""


class Consent(NamedTuple):
    """One word of a client's about a purpose.

    `scope` is the channel that it is about, empty for all; `at` is when it was said, in microseconds since epoch, and
    `event_id` (hex) the event in identity's log.
    """

    purpose: str
    scope: str
    granted: bool
    at: int
    source: str
    event_id: str

    def __str__(self) -> str:
        where = f" on {self.scope}" if self.scope else ""
        return f"{self.purpose}{where} {'granted' if self.granted else 'withdrawn'}"

    @property
    def order(self) -> tuple[int, bool, str]:
        """The later word holds; of two of the same instant the withdrawal."""
        return self.at, not self.granted, self.event_id


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What an answer does not tell since the client withdrew a consent: how many of what, and by which word.

    `scope`, `since`, `source` and `event_id` are empty where the words of many clients are counted together.
    """

    what: str
    count: int
    purpose: str
    scope: str = ""
    since: int = 0
    source: str = ""
    event_id: str = ""

    @classmethod
    def by(cls, word: Consent, what: str, count: int) -> LeftOut:
        """Left out by this word."""
        return cls(what, count, word.purpose, word.scope, word.at, word.source, word.event_id)


@dataclass(frozen=True, slots=True)
class Consents:
    """What holds of all that a client said: the last word on each purpose and channel. False where nothing was said.

    A function of the set of words, in whatever order they came.
    """

    words: tuple[Consent, ...] = ()

    @classmethod
    def of(cls, words: Iterable[Consent]) -> Consents:
        """The last words of these."""
        last: dict[tuple[str, str], Consent] = {}
        for word in words:
            known = last.get((word.purpose, word.scope))
            if known is None or word.order >= known.order:
                last[word.purpose, word.scope] = word
        return cls(tuple(last[key] for key in sorted(last)))

    def __bool__(self) -> bool:
        return bool(self.words)

    def withdrawal(self, purpose: str, channel: str = "") -> Consent | None:
        """The word that forbids the purpose on the channel, None where none does.

        The last word that covers the channel holds, be it about this channel or about all; with no channel those about
        all count alone. Who never said anything has forbidden nothing.
        """
        if purpose == AUDIT:
            return None
        covering = [word for word in self.words if word.purpose == purpose and word.scope in {"", channel}]
        last = max(covering, key=lambda word: word.order, default=None)
        return None if last is None or last.granted else last
