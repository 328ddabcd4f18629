"""Makes channels and sources known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ingestion.application.ports import Codec, Tables
from ingestion.application.recording import CHANNEL_REGISTERED, REGISTRY_STREAM, SOURCE_REGISTERED
from ingestion.domain.registry import (
    ChannelRegistered,
    RegisterChannel,
    RegisterSource,
    Registry,
    SourceRegistered,
)
from throughline_eventlog import NewEvent, Transaction
from throughline_kernel import Refusal


class Registered(NamedTuple):
    """The registry after the command. `created`: what it names was not there before."""

    registry: Registry
    created: bool


class Register:
    """The work of RegisterChannel and RegisterSource."""

    def __init__(self, codec: Codec, tables: Tables) -> None:
        self._codec = codec
        self._tables = tables

    def __call__(
        self, tx: Transaction, items: Sequence[RegisterChannel | RegisterSource], /
    ) -> Sequence[Registered | Refusal]:
        """Registers one after the other, each on what the one before left."""
        registry = self._tables.registry(tx)
        answers: list[Registered | Refusal] = []
        for command in items:
            try:
                answers.append(self._register(tx, registry, command))
            except Refusal as refusal:
                answers.append(refusal)
        return answers

    def rolled_back(self) -> None:
        """Remembers nothing."""

    def _register(self, tx: Transaction, registry: Registry, command: RegisterChannel | RegisterSource) -> Registered:
        if isinstance(command, RegisterChannel):
            created = command.channel not in registry.channels
            event = registry.register_channel(command)
            if event is not None:
                registry.apply(event)
                self._tables.put_channel(tx, event.channel, event.traits)
                self._append(tx, event)
            return Registered(registry, created)
        created = command.source not in registry.sources
        happened = registry.register_source(command)
        if happened is not None:
            registry.apply(happened)
            self._tables.put_source(tx, happened.source)
            self._append(tx, happened)
        return Registered(registry, created)

    def _append(self, tx: Transaction, event: ChannelRegistered | SourceRegistered) -> None:
        if isinstance(event, ChannelRegistered):
            type_, payload = CHANNEL_REGISTERED, self._codec.channel_registered(event.channel, event.traits)
        else:
            type_, payload = SOURCE_REGISTERED, self._codec.source_registered(event.source)
        tx.append([NewEvent(REGISTRY_STREAM, tx.last_version(REGISTRY_STREAM) + 1, type_, payload, tx.now)])
