"""Answers from one consistent view of the store, off the event loop."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from ingestion.application.ports import InteractionIndex, Quarantined, Tables
from ingestion.domain.accounting import Account
from ingestion.domain.interaction import interaction_id_of
from ingestion.domain.registry import Registry
from ingestion.domain.state import State, Waiting, quarantine_key
from ingestion.domain.validation import required
from throughline_eventlog import Reader, Store
from throughline_kernel import InvalidError, NotFoundError, Recorded, Violation, is_hex_id

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000

R = TypeVar("R")


class LookedUp(NamedTuple):
    """What a log has of an interaction: its InteractionRecorded and the InteractionConflicted kept beside it, in log
    order; where it has none, what to do about it if it `waits` in quarantine.
    """

    recorded: Recorded | None
    conflicts: list[Recorded]
    waits: str


class QuarantinePage(NamedTuple):
    """What waits, oldest first; `next_page_token` is empty at the end."""

    waiting: list[Quarantined]
    next_page_token: str


def interaction_asked_for(interaction_id: str, source: str, source_interaction_id: str) -> str:
    """The id of an interaction that is named by its id, or by its source and the source's own id.

    Raises: InvalidError FIELD_REQUIRED or FIELD_INVALID.
    """
    if interaction_id:
        if not is_hex_id(interaction_id):
            raise InvalidError.of(_not_an_id("interaction_id"))
        return interaction_id
    if not (source and source_interaction_id):
        remedy = "give the interaction id, or the source and its own id"
        raise InvalidError.of(required("interaction_id", remedy))
    return interaction_id_of(source, source_interaction_id)


def interaction_not_found(interaction_id: str, waits: str) -> NotFoundError:
    """What is answered where nothing is recorded under an id."""
    where = f"; it waits in quarantine: {waits}" if waits else ""
    return NotFoundError(
        "INTERACTION_NOT_FOUND",
        f"no interaction {interaction_id} is recorded{where}",
        {"interaction_id": interaction_id},
    )


def size_of_page(page_size: int) -> int:
    """How many rows a page has at most. Raises: InvalidError FIELD_INVALID."""
    if page_size < 0:
        remedy = f"give 1 to {MAX_PAGE}, or leave it out for {DEFAULT_PAGE}"
        raise InvalidError.of(Violation("page_size", "not negative", remedy))
    return min(page_size or DEFAULT_PAGE, MAX_PAGE)


class Queries:
    """Everything that is asked and changes nothing."""

    def __init__(self, store: Store, index: InteractionIndex, tables: Tables) -> None:
        self._store = store
        self._index = index
        self._tables = tables

    async def look_up(self, interaction_id: str) -> LookedUp:
        """What the log has of an interaction."""
        return await self._view(lambda reader: self._look_up(reader, interaction_id))

    async def registry(self) -> Registry:
        """Every channel and source."""
        return await self._view(self._tables.registry)

    async def accounts(self) -> tuple[dict[str, Account], int]:
        """Every source's account, and the position of the log that it stands for."""
        return await self._view(lambda reader: (self._tables.all_accounts(reader), reader.last_position()))

    async def quarantine(self, page_size: int, after: int) -> QuarantinePage:
        """A page of what waits behind a position. Raises: InvalidError FIELD_INVALID."""
        size = size_of_page(page_size)
        if after < 0:
            raise InvalidError.of(Violation("after", "not negative", "give the position of the last that was read"))
        page = await self._view(lambda reader: self._tables.quarantine(reader, after=after, limit=size + 1))
        more = len(page) > size
        return QuarantinePage(page[:size], write_page_token([page[size - 1].position]) if more else "")

    async def state(self) -> tuple[int, State]:
        """The whole state and its position, to compare with a replay's."""
        return await self._view(lambda reader: (reader.last_position(), read_state(reader, self._tables)))

    async def _view(self, ask: Callable[[Reader], R]) -> R:
        def read() -> R:
            with self._store.snapshot() as reader:
                return ask(reader)

        return await asyncio.to_thread(read)

    def _look_up(self, reader: Reader, interaction_id: str) -> LookedUp:
        key = bytes.fromhex(interaction_id)
        entry = self._index.locate(reader, key)
        recorded = None if entry is None else _at(reader, entry.position)
        if recorded is None:
            waiting = self._tables.quarantined_of(reader, key)
            return LookedUp(None, [], waiting[0].remedy if waiting else "")
        conflicts = [_at(reader, position) for position in self._tables.conflicts_of(reader, key)]
        return LookedUp(recorded, [event for event in conflicts if event is not None], "")


def read_state(reader: Reader, tables: Tables) -> State:
    """The whole state as the tables have it."""
    return State(
        tables.registry(reader),
        tables.all_accounts(reader),
        {
            quarantine_key(each.interaction_id, each.content_mac): Waiting(
                each.source,
                each.source_interaction_id,
                each.channel,
                each.reason,
                each.occurred_at,
                each.offers,
            )
            for each in tables.quarantine(reader)
        },
    )


def _at(reader: Reader, position: int) -> Recorded | None:
    found = reader.read(position - 1, until=position, limit=1)
    return found[0] if found else None


def _not_an_id(field: str) -> Violation:
    return Violation(
        field, "32 lower-case hex digits", "copy it from a result, or give source and source_interaction_id"
    )


def write_page_token(positions: Sequence[int]) -> str:
    """Where the next page begins: behind these positions, one of each partition."""
    places = b"".join(position.to_bytes(8, "big") for position in positions)
    return base64.urlsafe_b64encode(b"q" + places).decode().rstrip("=")


def read_page_token(token: str, partitions: int) -> list[int]:
    """The positions that a token names, all 0 for the first page. Raises: InvalidError PAGE_TOKEN_INVALID."""
    if not token:
        return [0] * partitions
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    places = [int.from_bytes(raw[at : at + 8], "big", signed=True) for at in range(1, len(raw), 8)]
    if len(raw) != 1 + 8 * partitions or raw[:1] != b"q" or min(places) < 0:
        raise InvalidError(
            "PAGE_TOKEN_INVALID",
            "the page token is not one of ours; start again without one",
            {"field": "page_token"},
            (Violation("page_token", "a token from the page before", "start again without one", "PAGE_TOKEN_INVALID"),),
        )
    return places
