"""What bus and store really do with what they acknowledge, as they say themselves when asked."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import psycopg

from throughline_eventlog.bus import BusError, BusForbiddenError, Connection, StreamGoneError
from throughline_eventlog.rights import BusRights
from throughline_eventlog.settings import POSTGRES, StoreSettings
from throughline_eventlog.streams import stream_flaw, stream_name, subject_name

TIMEOUT: Final = 5.0
_POSTGRES_SETTINGS: Final = ("fsync", "synchronous_commit", "full_page_writes", "default_transaction_read_only")
_NEEDED: Final = {
    "fsync": ("on",),
    "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
    "full_page_writes": ("on",),
    "default_transaction_read_only": ("off",),
}


class AwayError(Exception):
    """Nobody answered, so that nothing is known; the message says who."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was read of one thing, and what is wrong with it: "" where nothing is. A flaw says what to do."""

    thing: str
    read: str
    flaw: str = ""


def store_findings(settings: StoreSettings, least_standbys: int = 0) -> list[Finding]:
    """Signs in as the service does, and reads what the server does with a commit. Raises: AwayError."""
    if settings.module != POSTGRES:
        return [Finding(f"store of {settings.service}", "SQLite, synced with every commit")]
    given = settings.environment
    place = f"{given['POSTGRES_HOST']}:{given.get('POSTGRES_PORT') or 5432}/{given['POSTGRES_DBNAME']}"
    thing = f"PostgreSQL of {settings.service}, as {given['POSTGRES_USER']}"
    try:
        with closing(_connect(given)) as connection:
            rows = connection.execute(
                "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_POSTGRES_SETTINGS),)
            ).fetchall()
            row = connection.execute(
                "SELECT pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_replication)"
            ).fetchone()
    except psycopg.OperationalError as error:
        raise AwayError(f"{thing}, at {place}: {str(error).partition(chr(10))[0]}") from error
    recovering, standbys = row or (False, 0)
    read = {str(name): str(value) for name, value in rows}
    flaw = postgres_flaw(read, recovering=recovering, standbys=standbys, least_standbys=least_standbys)
    said = ", ".join(f"{name}={read[name]}" for name in _POSTGRES_SETTINGS[:3] if name in read)
    return [Finding(thing, f"{said}, {standbys} standbys", flaw)]


def postgres_flaw(settings: Mapping[str, str], *, recovering: bool, standbys: int, least_standbys: int) -> str:
    """Why a server would lose what it acknowledged, or takes nothing; "" where it keeps it."""
    if recovering:
        return "it is a standby and takes nothing: give the address of the primary"
    for name, values in _NEEDED.items():
        if settings.get(name, values[0]) not in values:
            return f"{name} is {settings[name]}: set it to {values[0]}, or what was acknowledged is lost when it stops"
    if standbys < least_standbys:
        return f"{standbys} of {least_standbys} standbys are connected: its disk is the only one that has the logs"
    return ""


async def bus_findings(
    connection: Connection, rights: BusRights, prefix: str, least_replicas: int, timeout: float = TIMEOUT
) -> list[Finding]:
    """What JetStream answers a service's user: whether it may do all that it needs, and what those of its streams are
    that are there already.

    Raises: AwayError.
    """
    thing = f"JetStream at {connection.places}, for {rights.service} as {connection.who}"
    found: list[Finding] = []
    try:
        await connection.ready_within(timeout)
        try:
            refused = await connection.refused(rights.publish)
            for log, number in rights.logs:
                finding = await _stream_finding(connection, log, number, prefix, least_replicas)
                if finding is not None:
                    found.append(finding)
        except BusForbiddenError as error:
            return [Finding(thing, "answers", str(error))]
    except BusError as error:
        raise AwayError(f"{thing}: {error}") from error
    allowed = f"answers, lets it do {len(rights.publish) - len(refused)} of {len(rights.publish)} things"
    remedy = f"`throughline bus permissions --service {rights.service}` lists what its user needs"
    missing = f"it may not publish to {', '.join(refused)}: {remedy}" if refused else ""
    return [Finding(thing, allowed, missing), *found]


async def _stream_finding(
    connection: Connection, log: str, number: int, prefix: str, least_replicas: int
) -> Finding | None:
    name = stream_name(log, number, prefix)
    try:
        state = await connection.stream(name)
    except StreamGoneError:
        return None
    flaw = stream_flaw(state.config, subject_name(log, number, prefix), least_replicas)
    told = f"{state.config.get('num_replicas', 1)} replicas, {state.last_sequence} messages"
    return Finding(f"stream {name}", told, f"{flaw}: correct it (`nats stream edit {name}`)" if flaw else "")


Address: TypeAlias = tuple[str, int]


def server_findings(monitor: str, least_replicas: int, timeout: float = TIMEOUT) -> list[Finding]:
    """What every server behind a monitoring address (`http://nats:8222`) says of its own JetStream.

    A name that stands for several servers is asked for all of them. Raises: AwayError, ValueError for no such address.
    """
    parts = urlsplit(monitor)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{monitor!r} is no monitoring address: write http://HOST:8222")
    port = parts.port or 8222
    try:
        resolved = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise AwayError(f"NATS server at {monitor}: {error}") from error
    addresses = dict.fromkeys(str(entry[4][0]) for entry in resolved)
    return [_server_finding((address, port), least_replicas, timeout) for address in addresses]


def _server_finding(address: Address, least_replicas: int, timeout: float) -> Finding:
    about = _ask(address, "/varz", timeout)
    cluster: Mapping[str, Any] = _ask(address, "/jsz", timeout).get("meta_cluster", {})
    name = f"NATS server {about.get('server_name') or about.get('server_id', '')} at {address[0]}:{address[1]}"
    return Finding(name, *server_flaw(about, cluster, least_replicas))


def server_flaw(about: Mapping[str, Any], cluster: Mapping[str, Any], least_replicas: int) -> tuple[str, str]:
    """(what a server's `/varz` and the cluster of its `/jsz` say, why it would lose what it acknowledged or "")."""
    jetstream: Mapping[str, Any] = about.get("jetstream", {})
    config: Mapping[str, Any] = jetstream.get("config", {})
    if not config:
        return "no JetStream", "JetStream is off: add `jetstream {}` to its configuration"
    size = int(cluster.get("cluster_size", 1))
    interval = int(config.get("sync_interval", 0)) / 1e9
    synced = bool(config.get("sync_always"))
    read = f"synced {'always' if synced else f'every {interval:.0f} s'}, cluster of {size}"
    flaw = ""
    if not synced:
        flaw = f'it acknowledges {interval:.0f} s before it syncs: set `sync_interval: "always"` under jetstream'
    elif size < least_replicas:
        flaw = f"its cluster has {size} servers, too few for streams of {least_replicas} replicas: add servers"
    return read, flaw


def _ask(address: Address, path: str, timeout: float) -> dict[str, Any]:
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("GET", path)
        answer: Any = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AwayError(f"NATS server at {address[0]}:{address[1]}{path}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    return answer


def _connect(given: Mapping[str, str]) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=given["POSTGRES_HOST"],
        port=given.get("POSTGRES_PORT") or "5432",
        dbname=given["POSTGRES_DBNAME"],
        user=given["POSTGRES_USER"],
        password=given.get("POSTGRES_PASSWORD", ""),
        connect_timeout=int(TIMEOUT),
        autocommit=True,
    )
