"""Destroys the keys of those whom identity says were forgotten (law 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ingestion.application.ports import Seal
from throughline.identity.v1.events_pb2 import ClientForgotten
from throughline_eventlog import Transaction
from throughline_kernel import Recorded

FORGOTTEN: Final = "throughline.identity.v1.ClientForgotten"


class ForgetPersonas:
    """Handles identity's log. Destroying a key twice changes nothing, so a repeat after a crash is harmless."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def __call__(self, tx: Transaction, events: Sequence[Recorded], /) -> None:
        """Destroys what the ClientForgotten among the events name, durably, before the position moves on."""
        personas = [
            persona
            for event in events
            if event.type == FORGOTTEN
            for persona in ClientForgotten.FromString(event.payload).persona_ids
        ]
        if personas:
            self._seal.forget(personas)

    def rolled_back(self) -> None:
        """Remembers nothing."""
