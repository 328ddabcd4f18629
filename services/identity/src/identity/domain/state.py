"""The state of identity as canonical JSON values: what two replays must agree on.

Aliases are left out: which ids were ever given out depends on the order in which interactions arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from identity.domain.personas import OrderKey
from throughline_kernel import Consent

CLIENT: Final = "client."
CONSENT: Final = "consent."
DECISION: Final = "decision."
FORGETTING: Final = "forgetting."
FORGOTTEN: Final = "forgotten."
PROPOSAL: Final = "proposal."
RETENTION: Final = "retention"
RULES: Final = "rules"
UNLINKED: Final = "unlinked."


class OwnedIdentifier(NamedTuple):
    """An identifier of a client's."""

    type: str
    hash: bytes
    identifies_person: bool


class Tally(NamedTuple):
    """A set of interactions: how many, the sum of their ids modulo 2**128, and the last time."""

    number: int
    total: int
    last_seen: int

    def with_set(self, number: int, total: int, last_seen: int) -> Tally:
        """Both sets together; they have no interaction in common."""
        return Tally(self.number + number, (self.total + total) % (1 << 128), max(self.last_seen, last_seen))


EMPTY: Final = Tally(0, 0, 0)


def client_state(
    client_id: bytes,
    *,
    opened: OrderKey,
    known_person: bool,
    personas: Iterable[bytes],
    identifiers: Iterable[OwnedIdentifier],
    interactions: Tally,
) -> dict[str, Any]:
    """One client."""
    return {
        "client_id": client_id.hex(),
        "opened": [opened.occurred_at, opened.source, opened.sequence, opened.interaction_id.hex()],
        "known_person": known_person,
        "personas": sorted(each.hex() for each in personas),
        "identifiers": sorted([each.type, each.hash.hex(), each.identifies_person] for each in identifiers),
        "interactions": interactions.number,
        "interactions_total": f"{interactions.total:032x}",
        "last_seen_at": interactions.last_seen,
    }


def consent_state(word: Consent) -> dict[str, Any]:
    """What a client last said about one purpose in one scope."""
    return {
        "purpose": word.purpose,
        "scope": word.scope,
        "granted": word.granted,
        "source": word.source,
        "at": word.at,
    }


def decision_state(personas: Iterable[bytes], *, joined: bool) -> dict[str, Any]:
    """A decision of a person that stands."""
    return {"personas": sorted(each.hex() for each in personas), "joined": joined}


def forgetting_state(*, reason: str, decided_by: str, due_at: int) -> dict[str, Any]:
    """A client that is to be forgotten."""
    return {"reason": reason, "decided_by": decided_by, "due_at": due_at}


def forgotten_state(personas: Iterable[bytes]) -> dict[str, Any]:
    """A client that was forgotten: only that it was."""
    return {"personas": sorted(each.hex() for each in personas)}


def proposal_state(client_id: bytes, other_client_id: bytes) -> dict[str, Any]:
    """A merge that waits for a person."""
    return {"clients": sorted((client_id.hex(), other_client_id.hex()))}


def unlinked_state(type_: str, reason: str) -> dict[str, Any]:
    """An identifier that belongs to nobody."""
    return {"type": type_, "reason": reason}


def retention_state(version: int, rules: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The rules of retention in force."""
    return {"version": version, "rules": list(rules)}


def rules_state(version: int, types: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The rules in force."""
    return {"version": version, "types": list(types)}
