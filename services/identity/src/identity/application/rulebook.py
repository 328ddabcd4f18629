"""The rules in force, with their blocked values as hashes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from identity.application.ledger import stream_of
from identity.application.messages import RULES_PUBLISHED, rules_from, rules_message
from identity.application.publishing import published_by, put_into_force
from identity.application.records import RULES
from identity.domain.rules import SHIPPED_RULES, Rules, RuleSet
from throughline.identity.v1 import events_pb2 as pb
from throughline.identity.v1 import rules_pb2
from throughline_eventlog import NewEvent, Reader, Transaction

HashIdentifier = Callable[[str, str], bytes]
"""The hash (32 bytes) of an identifier, by type and value in the clear."""

_CURRENT = b"current"
_STREAM = stream_of("rules", b"")


class Rulebook:
    """Reads rules and makes them ready for use; remembers the last version used."""

    def __init__(self, hash_identifier: HashIdentifier) -> None:
        self._hash = hash_identifier
        self._last = b""
        self._rules: Rules | None = None

    def current(self, reader: Reader) -> Rules:
        """The rules in force. Raises: LookupError where `install` never ran."""
        raw = reader.get(RULES, _CURRENT)
        if raw is None:
            raise LookupError("no rules are installed")
        if self._rules is None or raw != self._last:
            self._rules, self._last = self.compile(rules_from(rules_pb2.RuleSet.FromString(raw))), raw
        return self._rules

    def at(self, reader: Reader, as_of: int) -> Rules:
        """The rules that were in force at an instant (microseconds, 0: now); none before the first were installed."""
        if not as_of:
            return self.current(reader)
        published = published_by(reader, _STREAM, as_of)
        rules = rules_pb2.RuleSet() if published is None else pb.RulesPublished.FromString(published).rules
        return self.compile(rules_from(rules))

    def compile(self, rule_set: RuleSet) -> Rules:
        """Rules ready for use."""
        named = {rule.type: rule for rule in rule_set.types}
        blocked: dict[str, frozenset[bytes]] = {}

        def is_blocked(type_: str, hash_: bytes) -> bool:
            values = blocked.get(type_)
            if values is None:
                rule = named.get(type_) or named["*"]
                values = blocked[type_] = frozenset(self._hash(type_, value) for value in rule.blocked_values)
            return hash_ in values

        return Rules(rule_set, is_blocked)

    def install(self, tx: Transaction) -> None:
        """Publishes the shipped rules in a log that has none."""
        if tx.get(RULES, _CURRENT) is None:
            self.publish(tx, SHIPPED_RULES, "shipped")

    def publish(self, tx: Transaction, rule_set: RuleSet, by: str) -> Rules:
        """Puts rules into force; the stream's version is that of the rules."""
        message = rules_message(rule_set)
        event = NewEvent(
            stream_id=_STREAM,
            version=rule_set.version,
            type=RULES_PUBLISHED,
            payload=pb.RulesPublished(rules=message, published_by=by).SerializeToString(),
            occurred_at=tx.now,
            event_id=rules_event_id(rule_set.version),
        )
        put_into_force(tx, _CURRENT, message, event)
        return self.current(tx)


def rules_event_id(version: int) -> bytes:
    """The id of the event that published a version: 16 bytes."""
    return stream_of("published", str(version).encode())


class InstallRules:
    """Publishes the shipped rules in a log that has none."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook

    def __call__(self, tx: Transaction, items: Sequence[None], /) -> Sequence[None]:
        """Once is enough for all."""
        self._rulebook.install(tx)
        return [None] * len(items)

    def rolled_back(self) -> None:
        """Nothing is kept between transactions."""
