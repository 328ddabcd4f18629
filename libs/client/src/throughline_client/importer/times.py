"""Text to instants: formats as strptime names them, in a zone, through every change of the clocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

Ambiguous = Literal["earlier", "later", "refuse"]
Nonexistent = Literal["shift", "refuse"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DIRECTIVES: Final = {
    "Y": r"(?P<Y>\d{4})",
    "y": r"(?P<y>\d{2})",
    "m": r"(?P<m>\d{1,2})",
    "d": r"(?P<d>\d{1,2})",
    "H": r"(?P<H>\d{1,2})",
    "I": r"(?P<I>\d{1,2})",
    "M": r"(?P<M>\d{1,2})",
    "S": r"(?P<S>\d{1,2})",
    "f": r"(?P<f>\d{1,9})",
    "p": r"(?P<p>[AaPp]\.?[Mm]\.?)",
    "b": r"(?P<b>[A-Za-z]{3})[A-Za-z]*\.?",
    "B": r"(?P<b>[A-Za-z]{3})[A-Za-z]*",
    "a": r"[A-Za-z]+\.?",
    "A": r"[A-Za-z]+",
    "z": r"(?P<z>Z|[+-]\d{2}:?\d{2})",
    "%": "%",
}
_EPOCH_UNITS: Final = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}


class TimeProblem(Exception):  # noqa: N818 -- always translated by whoever knows the column
    """The text is not an instant under the given formats; the message says what was expected."""


def micros(at: datetime) -> int:
    """Microseconds since epoch of an aware datetime, exactly."""
    return (at - EPOCH) // _MICROSECOND


def known_formats() -> str:
    return "iso, epoch_s, epoch_ms, epoch_us, or strptime directives %" + " %".join(_DIRECTIVES)


def compile_format(pattern: str) -> Callable[[str], datetime | None]:
    """A reader for one format that gives None where the text has another form.

    Raises: ValueError where the format has a directive that is not read.
    """
    if pattern == "iso":
        return _read_iso
    if pattern in _EPOCH_UNITS:
        return _epoch_reader(_EPOCH_UNITS[pattern])
    expression = ""
    index = 0
    while index < len(pattern):
        character = pattern[index]
        if character == "%":
            directive = pattern[index + 1 : index + 2]
            if directive not in _DIRECTIVES:
                raise ValueError(f"%{directive} is not read")
            expression += _DIRECTIVES[directive]
            index += 2
        elif character.isspace():
            expression += r"\s+"
            index += 1
        else:
            expression += re.escape(character)
            index += 1
    try:
        compiled = re.compile(expression + r"\Z")
    except re.error as error:
        raise ValueError(f"cannot be read: {error}") from None
    return lambda text: _read_parts(compiled.match(text))


def _read_iso(text: str) -> datetime | None:
    # The library takes any character between date and time.
    if len(text) > 10 and text[4] == "-" and text[10] not in "T t" and text[5] != "W":
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _epoch_reader(unit: int) -> Callable[[str], datetime | None]:
    def read(text: str) -> datetime | None:
        try:
            if unit > 1 and "." in text:
                whole, fraction = text.split(".", 1)
                digits = len(str(unit)) - 1
                value = int(whole) * unit + int((fraction + "0" * digits)[:digits]) * (-1 if whole[:1] == "-" else 1)
            else:
                value = int(text) * unit
            return EPOCH + timedelta(microseconds=value)
        except (ValueError, OverflowError):
            return None

    return read


def _read_parts(match: re.Match[str] | None) -> datetime | None:
    if match is None:
        return None
    part = match.groupdict()
    try:
        year = int(part["Y"]) if "Y" in part else _two_digit_year(part.get("y"))
        month = _MONTHS.index(part["b"].casefold()) + 1 if "b" in part else int(part.get("m", 1))
        hour = int(part.get("H") or 0)
        if "I" in part:
            hour = int(part["I"])
            if not 1 <= hour <= 12:
                return None
            hour = hour % 12 + (12 if (part.get("p") or "a")[0] in "pP" else 0)
        elif (part.get("p") or "a")[0] in "pP" and hour < 12:
            hour += 12
        return datetime(
            year,
            month,
            int(part.get("d", 1)),
            hour,
            int(part.get("M", 0)),
            int(part.get("S", 0)),
            int((part.get("f") or "0").ljust(6, "0")[:6]),
            tzinfo=_offset(part.get("z")),
        )
    except ValueError:
        return None


def _two_digit_year(text: str | None) -> int:
    if text is None:
        return 1900
    year = int(text)
    return year + (2000 if year < 69 else 1900)


def _offset(text: str | None) -> tzinfo | None:
    if text is None:
        return None
    return datetime.fromisoformat(f"2000-01-01T00:00:00{text}").tzinfo


def make_reader(
    formats: Sequence[str],
    zone: ZoneInfo | None,
    at: time | None,
    ambiguous: Ambiguous,
    nonexistent: Nonexistent,
) -> Callable[[str], int]:
    """A reader from text to microseconds since epoch, UTC.

    The first format that fits reads. A time without an offset is local to `zone`; `at` replaces its time of day. Of a
    local time that the clocks showed twice `ambiguous` chooses; one that they skipped is moved forward by the gap, or
    refused (PEP 495).

    Raises: ValueError for a format that cannot be read. The reader raises TimeProblem.
    """
    readers = [compile_format(pattern) for pattern in formats]
    expected = " or ".join(formats)
    careful = ambiguous != "earlier" or nonexistent != "shift"

    @lru_cache(maxsize=16_384)
    def read(text: str) -> int:
        for reader in readers:
            found = reader(text)
            if found is not None:
                break
        else:
            raise TimeProblem(f"is not a time of the form {expected}")
        if at is not None:
            found = found.replace(hour=at.hour, minute=at.minute, second=at.second, microsecond=at.microsecond)
        if found.tzinfo is None:
            if zone is None:
                raise TimeProblem("is a local time and the mapping names no zone")
            fold = _choose_fold(found, zone, ambiguous, nonexistent) if careful else 0
            found = found.replace(tzinfo=zone, fold=fold)
        try:
            return (found - EPOCH) // _MICROSECOND
        except OverflowError:
            raise TimeProblem("lies outside the years 1 to 9999") from None

    return read


def _choose_fold(local: datetime, zone: ZoneInfo, ambiguous: Ambiguous, nonexistent: Nonexistent) -> int:
    first = local.replace(tzinfo=zone, fold=0).utcoffset()
    second = local.replace(tzinfo=zone, fold=1).utcoffset()
    if first is None or second is None or first == second:
        return 0
    if first < second:
        if nonexistent == "refuse":
            raise TimeProblem("is a local time that the clocks skipped")
        return 0
    if ambiguous == "refuse":
        raise TimeProblem("is a local time that the clocks showed twice")
    return 1 if ambiguous == "later" else 0
