"""One canonical form for the JSON objects that sources send along."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, cast

import orjson

from ingestion.domain.validation import MAX_ATTRIBUTES_DEPTH

# orjson reads an integer beyond 64 bits as a float: two ids that differ would become one. Floats are looked at again.
_LONG_NUMBER: Final = re.compile(rb"\d{19}")
_MAX_INTEGER: Final = 2**64 - 1
_MIN_INTEGER: Final = -(2**63)

_SHORT: Final = 128

NOT_AN_OBJECT: Final = "a JSON object"
NUMBER_RULE: Final = "integers of at most 64 bits"
NUL_RULE: Final = "no NUL character"
DEPTH_RULE: Final = f"nested at most {MAX_ATTRIBUTES_DEPTH} deep"


def canonical_object(raw: bytes) -> bytes:
    """Writes a JSON object with sorted keys and without white space; nothing for an empty one.

    Floats are IEEE doubles, integers 64 bits. Of a key given twice the last stands.
    Raises: ValueError, with the rule that the bytes break.
    """
    return _remembered(raw) if len(raw) <= _SHORT else _canonical(raw)


def _canonical(raw: bytes) -> bytes:
    try:
        value: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{NOT_AN_OBJECT} ({error})") from error
    if type(value) is not dict:
        raise ValueError(NOT_AN_OBJECT)
    members = cast(dict[str, Any], value)
    if not members:
        return b""
    suspicious = False
    for member in members.values():
        if type(member) is dict or type(member) is list:
            _check_depth(member)
            suspicious = True
        elif type(member) is float:
            suspicious = True
    if suspicious and _LONG_NUMBER.search(raw) is not None:
        _check_numbers(raw)
    written = orjson.dumps(members, option=orjson.OPT_SORT_KEYS)
    if b"\\u0000" in written and any("\0" in text for text in _texts(members)):
        raise ValueError(NUL_RULE)
    return written


# A source says the same of many events: its short objects come again and again.
_remembered: Final = lru_cache(maxsize=4_096)(_canonical)


def _check_numbers(raw: bytes) -> None:
    def integer(text: str) -> int:
        # Length first: turning a very long text into a number takes quadratic time.
        if len(text) > 20 or not _MIN_INTEGER <= int(text) <= _MAX_INTEGER:
            raise ValueError(NUMBER_RULE)
        return 0

    try:
        json.loads(raw, parse_int=integer)
    except RecursionError as error:
        raise ValueError(DEPTH_RULE) from error


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(1, MAX_ATTRIBUTES_DEPTH):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    raise ValueError(DEPTH_RULE)


def _containers(value: Any) -> Iterator[Any]:
    members = cast("Iterable[Any]", value.values() if type(value) is dict else value)
    for member in members:
        if type(member) is dict or type(member) is list:
            yield member


def _texts(value: Any) -> Iterator[str]:
    if type(value) is str:
        yield value
    elif type(value) is dict:
        for key, member in cast(dict[str, Any], value).items():
            yield key
            yield from _texts(member)
    elif type(value) is list:
        for member in cast(list[Any], value):
            yield from _texts(member)
