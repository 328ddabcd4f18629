"""The rules of retention in force, and who is over by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from identity.application.ledger import Table, stream_of
from identity.application.messages import RETENTION_RULES_PUBLISHED, retention_from, retention_message
from identity.application.publishing import published_by, put_into_force
from identity.application.queries import Queries
from identity.application.records import CLIENTS, LIVE, RETENTION, RULES, ClientRow
from identity.domain.refusals import RulesChangedError
from identity.domain.retention import (
    NO_RETENTION,
    Known,
    RetentionRule,
    RetentionRules,
    check_retention,
    rule_that_ends,
)
from throughline.identity.v1 import events_pb2 as pb
from throughline.identity.v1 import rules_pb2
from throughline_eventlog import NewEvent, Reader, Transaction

_STREAM: Final = stream_of("retention", b"")


def retention_in_force(reader: Reader, as_of: int = 0) -> RetentionRules:
    """What was published last, by an instant (microseconds, 0: now); none where nothing was."""
    if as_of:
        published = published_by(reader, _STREAM, as_of)
        if published is None:
            return NO_RETENTION
        return retention_from(pb.RetentionRulesPublished.FromString(published).rules)
    raw = reader.get(RULES, RETENTION)
    return NO_RETENTION if raw is None else retention_from(rules_pb2.RetentionRules.FromString(raw))


def next_retention(reader: Reader, rules: RetentionRules) -> RetentionRules:
    """The rules with the version they would have. Raises: RulesChangedError, InvalidError."""
    version = retention_in_force(reader).version + 1
    if rules.version not in {0, version}:
        raise RulesChangedError(rules.version, version)
    check_retention(rules)
    return RetentionRules(version, rules.rules)


def publish_retention(tx: Transaction, rules: RetentionRules, by: str) -> None:
    """Puts rules into force; the stream's version is that of the rules."""
    message = retention_message(rules)
    event = NewEvent(
        stream_id=_STREAM,
        version=rules.version,
        type=RETENTION_RULES_PUBLISHED,
        payload=pb.RetentionRulesPublished(rules=message, published_by=by).SerializeToString(),
        occurred_at=tx.now,
        event_id=stream_of("retention", str(rules.version).encode()),
    )
    put_into_force(tx, RETENTION, message, event)


class Retention:
    """What rules say about the clients of one consistent view."""

    def __init__(self, reader: Reader, rules: RetentionRules) -> None:
        self._rules = rules
        self._clients = Table(reader, CLIENTS, ClientRow)
        self._queries = Queries(reader)

    def look(
        self, now: int, after: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, RetentionRule | None]]:
        """Client ids in their order behind `after`, at most `limit`, each with the rule by which it is over at `now`
        (microseconds). Without rules nobody is looked at.
        """
        if self._rules.rules:
            for client_id, row in self._clients.scan(after=after, limit=limit):
                yield client_id, self._rule_of(client_id, row, now)

    def rule_of(self, client_id: bytes, now: int) -> RetentionRule | None:
        """The rule by which the client is over at `now` (microseconds); an alias, or who is forgotten, never is."""
        row = self._clients.get(client_id)
        return None if row is None else self._rule_of(client_id, row, now)

    def _rule_of(self, client_id: bytes, row: ClientRow, now: int) -> RetentionRule | None:
        if row.state != LIVE:
            return None
        queries = self._queries
        known = Known(
            last_seen=queries.last_seen(client_id),
            channels=lambda: queries.channels(client_id),
            consents=lambda: queries.consents((client_id, *row.aliases)),
        )
        return rule_that_ends(self._rules, known, now)
