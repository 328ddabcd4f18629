"""What to say when what follows from the facts has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Announcement(Generic[T]):
    """`added` now follows and did not before; `retracted` did and does not any more. A changed value is in both."""

    added: dict[str, T]
    retracted: dict[str, T]


def announce(before: Mapping[str, T], after: Mapping[str, T]) -> Announcement[T]:
    """Compares what followed before with what follows now, by id; order is that of the mappings."""
    return Announcement(
        added={key: value for key, value in after.items() if key not in before or before[key] != value},
        retracted={key: value for key, value in before.items() if key not in after or after[key] != value},
    )
