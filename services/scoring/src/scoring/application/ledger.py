"""What is in the store, read in one consistent view: clients as they are or were, counters, definitions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from scoring.application import rows
from scoring.application.messages import CLIENT_DROPPED, CLIENT_EVENTS, client_of, definition_of, evolve
from scoring.application.rows import Head
from scoring.domain.client import Client
from scoring.domain.facts import Contact
from scoring.domain.metrics import MetricDefinition, Metrics
from scoring.domain.tally import Counter, Tally
from throughline.scoring.v1 import events_pb2, metrics_pb2
from throughline_eventlog import Reader
from throughline_kernel import hex_id

NO_METRICS = Metrics()
# A tail longer than this is read by itself, not with the whole stream.
SHORT_STREAM = 256
# Events that are looked at together.
PAGE = 1_000


def client_stream(client_id: str) -> bytes:
    """The stream of one client."""
    return bytes.fromhex(hex_id("scoring.client", client_id))


def heads(reader: Reader, client_ids: Collection[str]) -> dict[str, Head]:
    """Where the clients' streams stand; those never heard of are left out."""
    found = reader.get_many(rows.CLIENTS, [bytes.fromhex(client_id) for client_id in client_ids])
    return {key.hex(): rows.unpack_head(row) for key, row in found.items()}


def load(reader: Reader, known: dict[str, Head], until: int | None = None) -> dict[str, Client]:
    """The clients as they are, or as they were at a position of the log: snapshot and tail, or the stream."""
    whole: list[str] = []
    clients: dict[str, Client] = {}
    fresh: list[str] = []
    for client_id, head in known.items():
        if until is not None and head.position > until:
            whole.append(client_id)
        elif head.snapshot_version:
            fresh.append(client_id)
        else:
            clients[client_id] = Client(client_id)
    packed = reader.get_many(rows.SNAPSHOTS, [bytes.fromhex(client_id) for client_id in fresh])
    for key, row in packed.items():
        client_id = key.hex()
        clients[client_id] = Client.of(client_id, rows.unpack_facts(row))
    ignored = Tally()
    stale = [client_id for client_id in clients if known[client_id].version > known[client_id].snapshot_version]
    short = [client_id for client_id in (*stale, *whole) if known[client_id].version <= SHORT_STREAM]
    streams = reader.read_streams([client_stream(client_id) for client_id in short]) if short else {}
    for client_id in (*stale, *whole):
        client = clients.setdefault(client_id, Client(client_id))
        after = 0 if client_id in whole else known[client_id].snapshot_version
        stream_id = client_stream(client_id)
        if known[client_id].version <= SHORT_STREAM:
            events = streams.get(stream_id, [])
        else:
            events = reader.read_stream(stream_id, after_version=after)
        for event in events:
            if event.version > after and (until is None or event.position <= until):
                evolve(client, event, ignored, NO_METRICS)
    return clients


def is_known(reader: Reader, client_id: str, position: int) -> bool:
    """Whether anything had been heard of the client at a position of the log."""
    first = reader.read_stream(client_stream(client_id), limit=1)
    return bool(first) and first[0].position <= position


def is_forgotten(reader: Reader, client_id: str, head: Head, position: int) -> bool:
    """Whether the client is forgotten, or was after the position: what was known of it then is gone."""
    if not head.forgotten:
        return False
    dropped = [event for event in reader.read_stream(client_stream(client_id)) if event.type == CLIENT_DROPPED]
    return bool(dropped) and (dropped[-1].position > position or not len(load(reader, {client_id: head})[client_id]))


def nobodys(reader: Reader, client: Client) -> list[str]:
    """Those of the client's contacts and answers that belong to somebody now who was forgotten."""
    contacts = [bytes.fromhex(each) for each in (*client.contacts, *client.staff, *client.apart.contacts)]
    answers = [bytes.fromhex(each) for each in (*client.feedback, *client.apart.feedback)]
    owners = {key: rows.unpack_owner(row)[0] for key, row in reader.get_many(rows.OWNERS, contacts).items()}
    owners |= {key: rows.unpack_feedback(row).owner for key, row in reader.get_many(rows.FEEDBACK, answers).items()}
    return [key.hex() for key, owner in owners.items() if owner == rows.NOBODY]


def client_ids(reader: Reader, after: str = "") -> Iterator[str]:
    """All clients ever heard of, by id, behind the given one."""
    for key, _ in reader.scan(rows.CLIENTS, after=bytes.fromhex(after)):
        yield key.hex()


class Changes(NamedTuple):
    """Clients whose stream went on after a position, and those of them that were forgotten after it."""

    clients: frozenset[str]
    dropped: frozenset[str]


def changes_since(reader: Reader, position: int) -> Changes:
    """Whom the log after the position is about."""
    clients: set[str] = set()
    dropped: set[str] = set()
    while events := reader.read(position, limit=PAGE):
        for event in events:
            if event.type in CLIENT_EVENTS:
                clients.add(client_of(event.payload))
            if event.type == CLIENT_DROPPED:
                dropped.add(client_of(event.payload))
        position = events[-1].position
    return Changes(frozenset(clients), frozenset(dropped))


def counters(reader: Reader, kind: int, subject: str | None = None) -> dict[Counter, int]:
    """The counters of a subject, or of all subjects of a kind."""
    prefix = rows.subject_prefix(kind, subject)
    return {
        rows.counter_of(table, key): int(row)
        for table in (rows.COUNTERS, rows.TIMES)
        for key, row in reader.scan(table, prefix=prefix)
    }


def case_ends(reader: Reader, case_ids: Collection[str]) -> dict[str, dict[str, Contact]]:
    """Each case's last contact per client."""
    found = reader.get_many(rows.CASE_ENDS, [case_id.encode() for case_id in case_ids])
    return {key.decode(): rows.unpack_ends(row) for key, row in found.items()}


def definitions(reader: Reader) -> dict[tuple[str, int], MetricDefinition]:
    """Every version of every metric of one's own."""
    found: dict[tuple[str, int], MetricDefinition] = {}
    for _, row in reader.scan(rows.METRICS):
        definition = definition_of(metrics_pb2.MetricDefinition.FromString(row))
        found[definition.metric, definition.version] = definition
    return found


def metric_stream(metric: str) -> bytes:
    """The stream of a metric's definitions."""
    return bytes.fromhex(hex_id("scoring.metric", metric))


def definitions_until(reader: Reader, position: int) -> dict[tuple[str, int], MetricDefinition]:
    """Every version of every metric of one's own that was defined up to the position."""
    streams = reader.read_streams({metric_stream(metric) for metric, _ in definitions(reader)})
    known = [
        definition_of(events_pb2.MetricDefined.FromString(event.payload).definition)
        for events in streams.values()
        for event in events
        if event.position <= position
    ]
    return {(definition.metric, definition.version): definition for definition in known}


def in_force(every: dict[tuple[str, int], MetricDefinition]) -> dict[str, MetricDefinition]:
    """The last version of each metric."""
    return {metric: every[metric, version] for metric, version in sorted(every)}
