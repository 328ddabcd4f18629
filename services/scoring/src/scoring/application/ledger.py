"""What is in the store, read in one consistent view: clients as they are or were, counters, definitions."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from scoring.application import rows
from scoring.application.messages import CLIENT_EVENTS, client_of, definition_of, evolve
from scoring.application.rows import Head
from scoring.domain.client import Client
from scoring.domain.facts import Contact
from scoring.domain.metrics import MetricDefinition, Metrics
from scoring.domain.tally import Counter, Tally
from throughline.scoring.v1 import metrics_pb2
from throughline_eventlog import Reader
from throughline_kernel import hex_id

NO_METRICS = Metrics()
# A tail longer than this is read by itself, not with the whole stream.
SHORT_STREAM = 256


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


def client_ids(reader: Reader, after: str = "") -> Iterator[str]:
    """All clients ever heard of, by id, behind the given one."""
    for key, _ in reader.scan(rows.CLIENTS, after=bytes.fromhex(after)):
        yield key.hex()


def changed_since(reader: Reader, position: int) -> set[str]:
    """Clients whose stream went on after the position."""
    return {client_of(event.payload) for event in reader.read(position) if event.type in CLIENT_EVENTS}


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


def in_force(every: dict[tuple[str, int], MetricDefinition]) -> dict[str, MetricDefinition]:
    """The last version of each metric."""
    return {metric: every[metric, version] for metric, version in sorted(every)}
