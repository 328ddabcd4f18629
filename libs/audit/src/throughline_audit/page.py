"""The page of a pack that people read: the timeline over channels as a picture, and every event in a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final, cast

from throughline_audit.gathering import OF_ACCESS
from throughline_client.commands.showing import when
from throughline_eventlog.partitions import service_of

_WIDTH: Final = 1_040
_LEFT: Final = 120
_LANE: Final = 26
_MARKS: Final = 4
_COLOURS: Final = {
    "ingestion": "#4269d0",
    "identity": "#9c6b4e",
    "journey": "#3ca951",
    "feedback": "#ff725c",
    "scoring": "#a463f2",
}
# What of a payload says most, in this order; the first that are there are shown.
_TELLING: Final = (
    "kind", "journey", "stage", "matter", "outcome", "department", "state", "metric", "aspect", "purpose", "reason",
    "question", "method", "merged_client_id", "interaction_id", "feedback_id", "case_id", "caller", "refused",
)  # fmt: skip
_MOST: Final = 6
_STYLE: Final = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#1b1e23}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .5rem;vertical-align:top;"
    "border-bottom:1px solid #e4e6ea}th{position:sticky;top:0;background:#fff}td.n{text-align:right}"
    "svg{width:100%;height:auto}code{font-size:12px;word-break:break-all}.q{color:#68707c}"
)


@dataclass(frozen=True, slots=True)
class Line:
    """An event as the page tells it. Times are microseconds since epoch."""

    service: str
    position: int
    type: str
    occurred_at: int
    recorded_at: int
    payload: Mapping[str, Any]

    @property
    def channel(self) -> str:
        """The channel that the event names, empty where it names none."""
        return next((str(value) for name, value in _flat(self.payload) if name == "channel" and value), "")

    @property
    def what(self) -> str:
        """What it says, in short."""
        said = {name: value for name, value in _flat(self.payload) if name in _TELLING and value not in ("", 0)}
        return ", ".join(f"{name} {said[name]}" for name in _TELLING if name in said)[:240]


def page(title: str, facts: Mapping[str, str], lines: Iterable[Line]) -> bytes:
    """The page, in UTF-8; the same bytes for the same events."""
    told = sorted(lines, key=lambda line: (line.occurred_at, line.service, line.position))
    rows = "".join(
        f"<tr><td>{escape(when(line.occurred_at))}<td>{escape(line.channel)}"
        f'<td style="color:{_colour(line.service)}">{line.service}<td class=n>{line.position}'
        f"<td>{escape(line.type.rpartition('.')[2])}<td>{escape(line.what)}<td class=q>{escape(when(line.recorded_at))}"
        for line in told
    )
    about = "".join(f"<tr><th>{escape(name)}<td><code>{escape(value)}</code>" for name, value in facts.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1><table>{about}</table>"
        f"<h2>Over channels</h2>{_picture(told)}"
        f"<h2>Event by event</h2><p class=q>Times are UTC. Personal values are sealed and not shown. What proves these "
        "events lies beside this page: see README.txt.</p>"
        f"<table><tr><th>happened<th>channel<th>log<th>position<th>event<th>what<th>recorded{rows}</table></html>\n"
    ).encode()


def _picture(lines: Sequence[Line]) -> str:
    """One lane a channel, one mark an event, time from left to right."""
    marked = [line for line in lines if line.channel and line.occurred_at]
    if not marked:
        return "<p class=q>No event names a channel.</p>"
    channels = list(dict.fromkeys(line.channel for line in marked))
    start, end = marked[0].occurred_at, marked[-1].occurred_at
    across = (_WIDTH - _LEFT - 20) / max(1, end - start)
    height = _LANE * len(channels) + 30
    drawn = [
        f'<text x="0" y="{_lane(number) + 4}" font-size="12">{escape(channel)}</text>'
        f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{_lane(number)}" y2="{_lane(number)}" stroke="#e4e6ea"/>'
        for number, channel in enumerate(channels)
    ]
    drawn += [
        f'<circle cx="{_LEFT + (line.occurred_at - start) * across:.1f}" cy="{_lane(channels.index(line.channel))}" '
        f'r="{_MARKS}" fill="{_colour(line.service)}" fill-opacity=".7"><title>{escape(when(line.occurred_at))} '
        f"{escape(line.type.rpartition('.')[2])} {escape(line.what)}</title></circle>"
        for line in marked
    ]
    drawn.append(f'<text x="{_LEFT}" y="{height - 4}" font-size="11" fill="#68707c">{escape(when(start))}</text>')
    drawn.append(
        f'<text x="{_WIDTH - 10}" y="{height - 4}" font-size="11" fill="#68707c" text-anchor="end">'
        f"{escape(when(end))}</text>"
    )
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="events by channel">{"".join(drawn)}</svg>'


def _colour(log: str) -> str:
    """A service's, of its access log too."""
    return _COLOURS[service_of(log.removesuffix(OF_ACCESS))]


def _lane(number: int) -> int:
    return _LANE * number + 14


def _flat(value: Any, name: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    """Names and plain values, those further out first; lists by their first value."""
    if isinstance(value, Mapping):
        inner = list(cast("Mapping[str, Any]", value).items())
        for key, each in inner:
            if not isinstance(each, Mapping | list):
                yield key, each
        if depth < _MOST:
            for key, each in inner:
                if isinstance(each, Mapping | list):
                    yield from _flat(each, key, depth + 1)
    elif isinstance(value, list):
        for each in cast("list[Any]", value)[:1]:
            yield from _flat(each, name, depth + 1)
    else:
        yield name, value
