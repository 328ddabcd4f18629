"""First contact resolution, by person and matter.

A contact on a matter by an identified client is not resolved when the same client contacts again on the same matter
within 7 x 24 hours of it. Nobody can close it by saying so: outcome fields do not count. Contacts whose seven days
are not over yet count as resolved so far. Interval: Wilson.

Source: this product's own definition of the usual repeat-contact measure. The window of seven days and the key
(person, matter) are part of the formula's version.
"""

from __future__ import annotations

# 7 x 24 hours in microseconds.
WINDOW = 7 * 24 * 3600 * 1_000_000


def resolved(at: int, next_at: int | None) -> bool:
    """Whether a contact at `at` stands resolved, given when the client's next one on the matter came."""
    return next_at is None or next_at - at > WINDOW
