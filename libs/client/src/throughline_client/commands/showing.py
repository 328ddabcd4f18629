"""Answers as tables for people and as JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import click
import orjson
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from throughline.identity.v1 import consent_pb2
from throughline_client.importer.times import EPOCH

_JSON_FIELDS: Final = frozenset({"attributes", "personal_attributes"})
_WIDE: Final = 200
_LINE_SECONDS: Final = 5.0


class _Lines(Progress):
    """Where nobody looks at a terminal (a pipeline, a Job's log): a line every few seconds instead of a bar."""

    def __init__(self, *columns: ProgressColumn, console: Console, transient: bool) -> None:
        super().__init__(*columns, console=console, transient=transient, disable=not console.is_terminal)
        self._next = time.monotonic() + _LINE_SECONDS

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As Progress does."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """As Progress does."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if not self.disable or now < self._next:
            return
        self._next = now + _LINE_SECONDS
        task = next(each for each in self.tasks if each.id == task_id)
        end = "" if task.total is None else f" of {task.total:,.0f}"
        click.echo(f"{task.description}: {task.completed:,.0f}{end}", err=True)


def counting() -> Progress:
    """A bar on standard error that counts to a known end, and is gone when that is reached."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return _Lines(*columns, console=Console(stderr=True), transient=True)


def gathering(what: str) -> tuple[Progress, TaskID]:
    """A line on standard error that counts events to no known end, and is gone when that is reached; and its task."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,} events"))
    progress = _Lines(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    return progress, progress.add_task(what, total=None)


def plain(message: Message) -> dict[str, Any]:
    """A message as plain values: enums by name, JSON fields as JSON, other bytes in hex, unset optionals left out."""
    return {
        field.name: _value(message, field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {str(key): value[key] for key in sorted(value)}
    if field.is_repeated:
        return [_single(field, each) for each in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, bytes):
        if field.name in _JSON_FIELDS:
            return orjson.loads(value) if value else {}
        return value.hex()
    if field.enum_type is not None:
        found = field.enum_type.values_by_number.get(value)
        return found.name if found is not None else value
    return value


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_line(value: object) -> None:
    """One line of NDJSON on standard output."""
    click.echo(orjson.dumps(value).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table on standard output; numbers to the right. Nothing to show is said so."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    listed = [tuple(row) for row in rows]
    for index, column in enumerate(columns):
        numbers = bool(listed) and all(isinstance(row[index], int | float) for row in listed)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in listed:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = terminal()
    console.print(table)
    if not listed:
        console.print("(none)")


def print_facts(facts: Mapping[str, object], *, title: str = "") -> None:
    """Names and values, one a line; empty ones are left out."""
    rows = [(name, value) for name, value in facts.items() if value not in ("", None, [], ())]
    table = Table(title=title or None, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(_cell(value)))
    terminal().print(table)


def terminal() -> Console:
    """Standard output, at its width; as wide as needed where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def _cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case float():
            return f"{value:,.2f}"
        case list() | tuple():
            return ", ".join(map(_cell, value))  # pyright: ignore[reportUnknownArgumentType] -- any values
        case None:
            return ""
        case _:
            return str(value)


def when(at: int) -> str:
    """An instant for people, UTC, to the second; empty for 0."""
    if not at:
        return ""
    try:
        return (EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%d %H:%M:%S")
    except OverflowError:
        return f"{at} us"


def exactly(at: int) -> str:
    """An instant to the microsecond, UTC, as options take it."""
    return (EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds")


def how_long(duration: int) -> str:
    """A duration in microseconds for people; a dash for none."""
    if not duration:
        return "-"
    seconds = duration / 1_000_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{duration / 1000:.0f} ms"


def short(name: str, prefix: str) -> str:
    """An enum value's name without its prefix, in lower case."""
    return name.removeprefix(prefix).lower()


def print_left_out(parts: Sequence[consent_pb2.LeftOut]) -> None:
    """What an answer leaves out by clients' consents, for people; nothing where there is nothing."""
    if parts:
        print_table(
            ["what", "number", "consent withdrawn to", "on", "since", "told by"],
            [[p.what, p.count, p.purpose, p.scope, when(p.since), p.source] for p in parts],
            title="\nleft out by consent",
        )
