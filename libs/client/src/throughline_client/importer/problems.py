"""What can be wrong with a mapping or with data, each said with its place, the rule and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class MappingError(Exception):
    """The mapping cannot be used as it is; nothing was sent. Names file, key, rule and remedy."""

    def __init__(self, place: str, key: str, rule: str, remedy: str) -> None:
        super().__init__(f"{place}: {key}: {rule}; {remedy}" if key else f"{place}: {rule}; {remedy}")
        self.place = place
        self.key = key
        self.rule = rule
        self.remedy = remedy


class DataFileError(Exception):
    """A whole file cannot be opened or read at all; nothing of it was sent."""

    def __init__(self, file: str, rule: str, remedy: str) -> None:
        super().__init__(f"{file}: {rule}; {remedy}")
        self.file = file
        self.rule = rule
        self.remedy = remedy


class ValueProblem(Exception):  # noqa: N818 -- caught per row and turned into a Reject; never leaves the importer
    """One value breaks a rule; the row it stands in is rejected and no other."""

    def __init__(self, column: str, rule: str, remedy: str) -> None:
        super().__init__(f"{column}: {rule}; {remedy}")
        self.column = column
        self.rule = rule
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was not offered, and why. Rows count from 1 after the header; `line` is 0 where a format has none."""

    file: str
    row: int
    line: int
    column: str
    rule: str
    remedy: str


def nearest(name: str, names: Iterable[str]) -> str:
    """Says which of the names come closest to the one that does not exist."""
    known = list(names)
    folded = {candidate.casefold(): candidate for candidate in known}
    close = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    if close:
        return "did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    if not known:
        return "there are none"
    listed = ", ".join(known[:12])
    return f"there are: {listed}{' ...' if len(known) > 12 else ''}"
