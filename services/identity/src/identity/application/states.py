"""The live state, as canonical JSON, from one consistent view."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from identity.application import records
from identity.application.ledger import Tables
from identity.application.messages import retention_from, rules_from
from identity.application.records import (
    ClientRow,
)
from identity.domain import state
from identity.domain.retention import RetentionRules
from identity.domain.rules import RuleSet
from identity.domain.state import EMPTY, OwnedIdentifier, Tally
from throughline.identity.v1 import rules_pb2
from throughline_eventlog import Reader
from throughline_kernel import canonical_json, is_hex_id


class LiveState:
    """Reads aggregates out of the tables."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._tables = Tables(reader)

    def aggregates(self) -> Iterator[tuple[str, bytes]]:
        """Everything: (key, canonical JSON) in key order."""
        for key, value in self._all():
            yield key, canonical_json(value)

    def aggregate(self, key: str) -> bytes | None:
        """One aggregate in canonical JSON, None where there is none. A client's key may leave its prefix out."""
        if is_hex_id(key):
            key = state.CLIENT + key
        kind, _, name = key.partition(".")
        if kind == "client" and is_hex_id(name):
            client_id = bytes.fromhex(name)
            row = self._tables.clients.get(client_id)
            return None if row is None or row.state != records.LIVE else canonical_json(self._client(client_id, row))
        return next((canonical_json(value) for each, value in self._others() if each == key), None)

    def _all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for client_id, row in self._tables.clients.scan():
            if row.state == records.LIVE:
                yield state.CLIENT + client_id.hex(), self._client(client_id, row)
        yield from self._others()

    def _client(self, client_id: bytes, row: ClientRow) -> dict[str, Any]:
        members = [key[16:] for key, _ in self._reader.scan(records.MEMBERS, prefix=client_id)]
        personas = self._tables.personas.get_many(members)
        tally: Tally = EMPTY
        presented: set[bytes] = set()
        for each in personas.values():
            tally = tally.with_set(each.count, int.from_bytes(each.total, "big"), each.last_seen)
            presented.update(identifier.hash for identifier in each.identifiers)
        return state.client_state(
            client_id,
            opened=row.opened,
            known_person=row.known_person,
            personas=personas,
            identifiers=[
                OwnedIdentifier(each.type, key, each.identifies_person)
                for key, each in self._tables.identifiers.get_many(presented).items()
                if each.client == client_id
            ],
            interactions=tally,
        )

    def _others(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, row in self._tables.consents.scan():
            yield f"{state.CONSENT}{key[:16].hex()}.{key[16:].hex()}", state.consent_state(row.word(key))
        for key, row in self._tables.merges.scan():
            if row.manual != row.undone:
                yield state.DECISION + key.hex(), state.decision_state(row.personas, joined=row.manual)
        yield from self._going()
        for key, row in self._tables.proposals.scan():
            yield state.PROPOSAL + key.hex(), state.proposal_state(row.client, row.other)
        retention = self._reader.get(records.RULES, records.RETENTION)
        if retention is not None:
            yield state.RETENTION, published_retention(retention_from(rules_pb2.RetentionRules.FromString(retention)))
        raw = self._reader.get(records.RULES, b"current")
        if raw is not None:
            yield state.RULES, published_rules(rules_from(rules_pb2.RuleSet.FromString(raw)))
        for key, row in self._tables.identifiers.scan():
            if row.reason:
                yield state.UNLINKED + key.hex(), state.unlinked_state(row.type, row.reason)

    def _going(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for client_id, row in self._tables.forgettings.scan():
            yield (
                state.FORGETTING + client_id.hex(),
                state.forgetting_state(reason=row.reason, decided_by=row.decided_by, due_at=row.due_at),
            )
        forgotten: dict[bytes, list[bytes]] = {}
        for persona_id, client_id in self._reader.scan(records.FORGOTTEN):
            forgotten.setdefault(client_id, []).append(persona_id)
        for client_id in sorted(forgotten):
            yield state.FORGOTTEN + client_id.hex(), state.forgotten_state(forgotten[client_id])


def published_rules(rules: RuleSet) -> dict[str, Any]:
    """The rules as a canonical value."""
    return state.rules_state(
        rules.version,
        [
            {
                "type": each.type,
                "priority": each.priority,
                "join": each.join.name,
                "identifies_person": each.identifies_person,
                "max_per_client": each.max_per_client,
                "max_persons": each.max_persons,
                "blocked_values": list(each.blocked_values),
            }
            for each in rules.types
        ],
    )


def published_retention(rules: RetentionRules) -> dict[str, Any]:
    """The rules of retention as a canonical value."""
    return state.retention_state(
        rules.version,
        [
            {"name": each.name, "keep": each.keep, "channels": list(each.channels), "purpose": each.purpose}
            for each in rules.rules
        ],
    )
