"""The rows that identity keeps beside its log: what it needs to decide the next interaction without reading history.

Ids are raw bytes: 16 for clients, personas, interactions and merges, 32 for identifiers (their hash).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from identity.domain.personas import Anchor, OrderKey, Persona, Presented
from identity.domain.refusals import ClientForgottenError, ClientNotFoundError
from identity.domain.resolution import Basis
from throughline_kernel import Consent

PERSONAS: Final = "personas"
IDENTIFIERS: Final = "identifiers"
CLIENTS: Final = "clients"
HOLDERS: Final = "holders"
"""identifier + persona: who presents it."""
MEMBERS: Final = "members"
"""client + persona: who belongs to it."""
INTERACTIONS: Final = "interactions"
"""interaction: its persona."""
MERGES: Final = "merges"
CLIENT_MERGES: Final = "client_merges"
"""client + merge."""
PROPOSALS: Final = "proposals"
CLIENT_PROPOSALS: Final = "client_proposals"
"""client + merge."""
CONSTRAINTS: Final = "constraints"
"""persona + merge: the decisions of people that bind it."""
CONSENTS: Final = "consents"
"""client + purpose NUL scope."""
FORGETTINGS: Final = "forgettings"
"""client: that it is to be forgotten."""
FORGETTINGS_DUE: Final = "forgettings_due"
"""time (8 bytes) + client."""
FORGOTTEN: Final = "forgotten"
"""persona: the client it was forgotten with."""
FORMER_MEMBERS: Final = "former_members"
"""client + persona: who belonged to it once."""
FORMER_PROPOSALS: Final = "former_proposals"
"""client + merge: what was proposed to it once."""
CLIENTS_UNTIL: Final = "clients_until"
"""client + the instant (8 bytes) of the commit that changed it: the row as it was until then. So the following; in
those of merges, proposals and forgettings an empty row says that there was none until then."""
IDENTIFIERS_UNTIL: Final = "identifiers_until"
MERGES_UNTIL: Final = "merges_until"
PROPOSALS_UNTIL: Final = "proposals_until"
FORGETTINGS_UNTIL: Final = "forgettings_until"
RULES: Final = "rules"
RETENTION: Final = b"retention"
"""Where the rules of retention are, in the table of rules."""

IDENTITY_TABLES: Final = (
    PERSONAS,
    IDENTIFIERS,
    CLIENTS,
    HOLDERS,
    MEMBERS,
    INTERACTIONS,
    MERGES,
    CLIENT_MERGES,
    PROPOSALS,
    CLIENT_PROPOSALS,
    CONSTRAINTS,
    CONSENTS,
    FORGETTINGS,
    FORGETTINGS_DUE,
    FORGOTTEN,
    FORMER_MEMBERS,
    FORMER_PROPOSALS,
    CLIENTS_UNTIL,
    IDENTIFIERS_UNTIL,
    MERGES_UNTIL,
    PROPOSALS_UNTIL,
    FORGETTINGS_UNTIL,
    RULES,
)

LIVE: Final = 0
ALIAS: Final = 1
GONE: Final = 2
"""Forgotten, for ever."""


class PersonaRow(msgspec.Struct, array_like=True, gc=False):
    """A persona: what it presents, where it belongs, what it did."""

    identifiers: tuple[Presented, ...]
    first: OrderKey
    last_seen: int
    count: int = 0
    # Sum of its interaction ids modulo 2**128: a digest of the set in which order plays no part.
    total: bytes = bytes(16)
    client: bytes = b""
    basis: Basis = Basis("", ())
    # Last version of its stream.
    version: int = 0
    constrained: bool = False

    def persona(self, persona_id: bytes) -> Persona:
        """The persona as the domain sees it."""
        return Persona(persona_id, self.identifiers, self.first)


class IdentifierRow(msgspec.Struct, array_like=True, gc=False):
    """An identifier: whose it is, or why it is nobody's."""

    type: str
    client: bytes = b""
    reason: str = ""
    basis: Basis = Basis("", ())
    identifies_person: bool = False
    contested: bool = False
    # Identifiers of persons seen beside it, as many as its limit needs.
    beside: tuple[bytes, ...] = ()
    version: int = 0
    # How often it was forgotten.
    generation: int = 0
    # Some persona presents it so that it joins.
    joins: bool = False

    @property
    def told(self) -> object:
        """What of it an answer may tell: where that changes, what it was is kept."""
        return self.type, self.client, self.reason, self.basis, self.identifies_person


class ClientRow(msgspec.Struct, array_like=True, gc=False):
    """A client id that was given out: what it means now."""

    state: int
    anchor: Anchor
    # Of an alias or a forgotten client: the client it went into.
    parent: bytes = b""
    aliases: tuple[bytes, ...] = ()
    opened: OrderKey = OrderKey(0, "", 0, b"")
    known_person: bool = False
    counts: dict[str, int] = {}
    version: int = 0
    # When the newest of its personas was first seen, or later.
    latest: OrderKey = OrderKey(0, "", 0, b"")
    # Decisions of people bind some of its personas.
    constrained: bool = False

    @property
    def told(self) -> object:
        """What of it an answer may tell: where that changes, what it was is kept."""
        return self.state, self.parent, self.aliases, self.known_person


class MergeRow(msgspec.Struct, array_like=True, gc=False):
    """A merge that was announced."""

    client: bytes
    merged: bytes
    personas: tuple[bytes, ...]
    basis: Basis
    rules_version: int
    at: int
    decided_by: str = ""
    reason: str = ""
    manual: bool = False
    undone: bool = False


class ProposalRow(msgspec.Struct, array_like=True, gc=False):
    """A merge that waits for a person."""

    client: bytes
    other: bytes
    basis: Basis
    rules_version: int
    at: int


class ConstraintRow(msgspec.Struct, array_like=True, gc=False):
    """A decision that binds a persona to another, or keeps it apart."""

    other: bytes
    joined: bool


class ConsentRow(msgspec.Struct, array_like=True, gc=False):
    """What the client last said about one purpose in one scope."""

    granted: bool
    source: str
    at: int
    event_id: bytes

    def word(self, key: bytes) -> Consent:
        """The row at this key (client, purpose, scope) as what was said."""
        purpose, _, scope = key[16:].decode().partition("\0")
        return Consent(purpose, scope, self.granted, self.at, self.source, self.event_id.hex())


class ForgettingRow(msgspec.Struct, array_like=True, gc=False):
    """A client that is to be forgotten: decided when, by whom, why, and when it is due."""

    reason: str
    decided_by: str
    at: int
    due_at: int


def until_key(key: bytes, instant: int) -> bytes:
    """Where a row is kept as it was until the commit of an instant; keys sort by row, then time."""
    return key + instant.to_bytes(8, "big")


def due_key(due_at: int, client_id: bytes) -> bytes:
    """The key of what is due, in the order of time."""
    return due_at.to_bytes(8, "big") + client_id


def consent_key(purpose: str, scope: str) -> bytes:
    """What stands behind the client in the key of a consent."""
    return f"{purpose}\0{scope}".encode()


def present_client(get: Callable[[bytes], ClientRow | None], client_id: bytes) -> bytes:
    """The client that an id or alias means now. Raises: ClientNotFoundError, ClientForgottenError."""
    found = client_id
    while True:
        row = get(found)
        if row is None:
            raise ClientNotFoundError(client_id.hex())
        if row.state == GONE:
            raise ClientForgottenError(client_id.hex())
        if row.state == LIVE:
            return found
        found = row.parent
