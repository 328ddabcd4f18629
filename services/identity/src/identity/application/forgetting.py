"""A client forgotten for good: in the log and the tables first, then on the list of the forgotten, then its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol, TypeVar, cast

from identity.application.commands import (
    Decision,
    Decisions,
    ForgetClient,
    ForgetDue,
    ForgetListed,
    Forgotten,
    ForgottenAgain,
)
from identity.application.queries import Queries
from identity.domain.refusals import ClientForgottenError, ClientNotForgottenError
from throughline.identity.v1 import events_pb2
from throughline_eventlog import Clock, Reader, Store, Writer
from throughline_kernel import Recorded
from throughline_privacy import ForgottenClient

R = TypeVar("R")
SWEEP: Final = 100
"""Clients that one sweep forgets at most."""


class Keys(Protocol):
    """Where the keys of personas are, and the list of those who were forgotten."""

    def destroy(self, key_ids: Collection[bytes]) -> int:
        """Destroys keys for good. Raises: UnavailableError where the key store or the list is away."""
        ...

    def destroy_remaining(self, key_ids: Collection[bytes]) -> int:
        """The same, where most are destroyed already."""
        ...

    def drop_cache(self) -> None:
        """Forgets identifiers in the clear that are remembered."""
        ...

    def note(self, clients: Sequence[ForgottenClient]) -> int:
        """Puts clients on the list of the forgotten; answers how many were not on it. Raises: UnavailableError."""
        ...

    def listed(self) -> list[ForgottenClient]:
        """Who is on the list, oldest first. Raises: UnavailableError."""
        ...


class Forgetting:
    """Forgets whom it is told to, and when it is time."""

    def __init__(self, store: Store, writer: Writer, decisions: Decisions, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._decisions = decisions
        self._keys = keys
        self._clock = clock

    async def forget(self, command: ForgetClient) -> tuple[Decision, Forgotten]:
        """Forgets, schedules, or tells what would go; on return nothing of the forgotten can be opened any more.

        Asked again for a client forgotten before it destroys what was left of the keys, and refuses.
        Raises: ClientNotFoundError, ClientForgottenError, ForgettingScheduledError, UnavailableError.
        """
        try:
            decision = await self._writer.submit(self._decisions, command, traceparent=command.traceparent)
        except ClientForgottenError:
            await self._destroy(await self._read(lambda reader: Queries(reader).forgotten(command.client_id)))
            raise
        outcome = cast("Forgotten", decision.outcome)
        if not outcome.due_at and not outcome.dry_run:
            await self._finish([outcome.extent.client_id])
        return decision, outcome

    async def certify(self, client_id: bytes) -> list[tuple[Recorded, events_pb2.ClientForgotten]]:
        """The events by which a client was forgotten; on return none of the keys is left.

        Raises: ClientNotForgottenError, UnavailableError.
        """
        found = await self._read(lambda reader: Queries(reader).forgettings_of(client_id))
        if not found:
            raise ClientNotForgottenError(client_id.hex())
        personas = {persona_id for _, message in found for persona_id in message.persona_ids}
        await asyncio.to_thread(self._keys.destroy_remaining, personas)
        return found

    async def sweep(self) -> int:
        """Forgets whose time has come; answers how many forgettings were looked at, at most SWEEP."""
        due = await self._read(lambda reader: Queries(reader).due(self._clock(), SWEEP))
        outcomes = [(await self._writer.submit(self._decisions, ForgetDue(client_id))).outcome for client_id in due]
        await self._finish([each.extent.client_id for each in outcomes if isinstance(each, Forgotten)])
        return len(due)

    async def catch_up(self) -> int:
        """Makes log, list and keys agree; before anybody is served. Answers how many clients had come back.

        A log restored from before a forgetting learns of it from the list; a list that lacks somebody, since a process
        ended at the wrong moment, gets them; and no key of theirs is left. Raises: UnavailableError.
        """
        listed = await asyncio.to_thread(self._keys.listed)
        tombs = await self._read(lambda reader: Queries(reader).forgotten_personas())
        came_back = 0
        for client in listed:
            if not tombs.issuperset(client.persona_ids):
                came_back += await self._forget_again(client)
        done = await self._read(lambda reader: Queries(reader).forgotten_clients())
        on_it = {persona_id for client in listed for persona_id in client.persona_ids}
        await asyncio.to_thread(
            self._keys.note, [client for client in done if not on_it.issuperset(client.persona_ids)]
        )
        await asyncio.to_thread(
            self._keys.destroy_remaining, {persona_id for client in done for persona_id in client.persona_ids}
        )
        return came_back

    async def _forget_again(self, client: ForgottenClient) -> int:
        command = ForgetListed(client.client_id, client.alias_ids, client.persona_ids, client.identifiers)
        outcome = (await self._writer.submit(self._decisions, command)).outcome
        return cast("ForgottenAgain", outcome).clients

    async def _finish(self, client_ids: Sequence[bytes]) -> None:
        """The list first: keys that are gone from a key store alone come back with its backup."""
        if not client_ids:
            return
        done = await self._read(lambda reader: Queries(reader).forgotten_clients(client_ids))
        await asyncio.to_thread(self._keys.note, done)
        await self._destroy({persona_id for client in done for persona_id in client.persona_ids})

    async def _destroy(self, personas: Collection[bytes]) -> None:
        await asyncio.to_thread(self._keys.destroy, personas)
        self._keys.drop_cache()

    async def _read(self, work: Callable[[Reader], R]) -> R:
        def read() -> R:
            with self._store.snapshot() as reader:
                return work(reader)

        return await asyncio.to_thread(read)
