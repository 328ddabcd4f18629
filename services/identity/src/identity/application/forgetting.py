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
    ForgetOver,
    Forgotten,
    ForgottenAgain,
)
from identity.application.queries import Queries
from identity.application.retention import Retention, next_retention, retention_in_force
from identity.domain.refusals import ClientForgottenError, ClientNotForgottenError
from identity.domain.retention import RetentionRule, RetentionRules
from throughline.identity.v1 import events_pb2
from throughline_eventlog import Clock, Reader, Store, Writer
from throughline_kernel import Recorded
from throughline_privacy import ForgottenClient

R = TypeVar("R")
SWEEP: Final = 100
"""Clients that one sweep forgets at most."""
LOOK: Final = 500
"""Client ids that one sweep holds against the rules of retention at most."""


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
        self._looked_at = b""
        self._unfinished: list[bytes] = []

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
        await self._forget_each([ForgetDue(client_id) for client_id in due])
        return len(due)

    async def retain(self) -> int:
        """Forgets who is over by the rules of retention; answers how many.

        Looks at the next LOOK client ids and forgets at most SWEEP. The next call goes on behind them, and begins anew
        at the end; so does a new process.
        """
        over, looked_at = await self._read(self._over)
        gone = await self._forget_each([ForgetOver(client_id) for client_id in over])
        self._looked_at = looked_at
        return gone

    async def _forget_each(self, commands: Sequence[ForgetDue | ForgetOver]) -> int:
        """Answers how many are forgotten. Where the key store or the list is away, the next call does the rest."""
        gone = 0
        for command in commands:
            outcome = (await self._writer.submit(self._decisions, command)).outcome
            if isinstance(outcome, Forgotten):
                self._unfinished.append(outcome.extent.client_id)
                gone += 1
        await self._finish(self._unfinished)
        self._unfinished.clear()
        return gone

    def _over(self, reader: Reader) -> tuple[list[bytes], bytes]:
        over: list[bytes] = []
        looked_at: list[bytes] = []
        for client_id, rule in Retention(reader, retention_in_force(reader)).look(self._clock(), self._looked_at, LOOK):
            looked_at.append(client_id)
            if rule is not None:
                over.append(client_id)
            if len(over) == SWEEP:
                return over, client_id
        return over, looked_at[-1] if len(looked_at) == LOOK else b""

    async def try_retention(self, rules: RetentionRules) -> tuple[int, list[tuple[bytes, RetentionRule]]]:
        """The version that the rules would have, and who is over by them now, by client id. Decides nothing.

        Raises: RulesChangedError, InvalidError.
        """

        def work(reader: Reader) -> tuple[int, list[tuple[bytes, RetentionRule]]]:
            tried = next_retention(reader, rules)
            looked = Retention(reader, tried).look(self._clock())
            return tried.version, [(client_id, rule) for client_id, rule in looked if rule is not None]

        return await self._read(work)

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
