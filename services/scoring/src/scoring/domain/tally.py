"""Whole-number contributions to figures: what a change of the facts adds and takes away."""

from __future__ import annotations

from scoring.domain.dimensions import Dims, Subject
from scoring.domain.facts import Contact
from scoring.domain.formulas.attribution import Share

# (metric, aspect, part). A part that is a number is a measured time in microseconds, and its amount how often it
# occurs.
Line = tuple[str, str, str | int]
# By model.
Shares = dict[str, tuple[Share, ...]]
# (subject kind, subject, metric, aspect, part).
Counter = tuple[int, str, str, str, str | int]


class Tally:
    """Collects contributions. Addition is all it knows, so that order cannot matter."""

    __slots__ = ("case_ends", "credits", "rows")

    def __init__(self) -> None:
        self.rows: dict[Dims, dict[Line, int]] = {}
        # Per case: whose last contact in it became which; None where the client has none there any more.
        self.case_ends: dict[str, dict[str, Contact | None]] = {}
        # Per client and conversion: how its credit was shared before the first change and after the last; empty is
        # unshared.
        self.credits: dict[tuple[str, str], tuple[Shares, Shares]] = {}

    def row(self, dims: Dims) -> dict[Line, int]:
        """The lines that count for these subjects, to be added to."""
        row = self.rows.get(dims)
        if row is None:
            row = self.rows[dims] = {}
        return row

    def add(self, dims: Dims, line: Line, amount: int) -> None:
        """Adds the amount to one line of every subject in `dims`."""
        row = self.rows.get(dims)
        if row is None:
            self.rows[dims] = {line: amount}
        else:
            row[line] = row.get(line, 0) + amount

    def counters(self) -> dict[Counter, int]:
        """The sums by subject; what adds up to nothing is left out."""
        sums: dict[Counter, int] = {}
        for dims, row in self.rows.items():
            for line, amount in row.items():
                if amount:
                    for kind, subject in dims.subjects:
                        key = (kind, subject, *line)
                        sums[key] = sums.get(key, 0) + amount
        return {key: amount for key, amount in sums.items() if amount}


def of_subject(counters: dict[Counter, int], subject: Subject) -> dict[Line, int]:
    """One subject's lines."""
    return {(m, a, p): n for (kind, name, m, a, p), n in counters.items() if (kind, name) == subject}
