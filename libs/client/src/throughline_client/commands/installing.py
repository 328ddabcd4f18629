"""`throughline preflight` and `throughline prepare`: before an installation is entrusted with anything."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import click

from throughline_client.commands.running import BAD_INPUT, REFUSED, UNAVAILABLE, Failure, output_option, tell
from throughline_client.commands.showing import print_json, print_table
from throughline_client.endpoints import SERVICES
from throughline_client.installation import Installation
from throughline_client.preparing import Admin, prepare_schemas
from throughline_eventlog import PARTITIONS, BusSettings, Partitioning, SettingsError, StoreSettings, rights_of
from throughline_eventlog.durability import (
    AwayError,
    Finding,
    bus_findings,
    server_findings,
    store_findings,
)
from throughline_kernel import UnavailableError
from throughline_privacy.settings import DEFAULT_SCHEMA

MONITORS: Final = "THROUGHLINE_NATS_MONITORS"
ADMIN_PASSWORD: Final = "POSTGRES_ADMIN_PASSWORD"  # noqa: S105 -- the name of a variable
_AGAIN_SECONDS: Final = 1.0

service_option = click.option(
    "--service",
    "services",
    type=click.Choice(SERVICES),
    multiple=True,
    help="Only what this service needs; all of them where left out.",
)


@click.command()
@service_option
@click.option(
    "--monitor",
    "monitors",
    multiple=True,
    help=f"Monitoring address of NATS, http://HOST:8222; {MONITORS}, separated by commas, where left out.",
)
@click.option("--least-standbys", type=click.IntRange(min=0), default=0, help="Standbys that PostgreSQL must have.")
@click.option(
    "--wait", "seconds", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for who does not answer yet."
)
@click.option("--bus-may-be-away", is_flag=True, help="Only tell of a bus that is away: services start without.")
@click.option(
    "--bus-by-monitoring",
    is_flag=True,
    help="Read the bus's monitoring alone, and sign in nowhere: for who is no user of it.",
)
@output_option
def preflight(
    *,
    services: tuple[str, ...],
    monitors: tuple[str, ...],
    least_standbys: int,
    seconds: float,
    bus_may_be_away: bool,
    bus_by_monitoring: bool,
    output: str,
) -> None:
    """Read what NATS and PostgreSQL really do with what they acknowledge, and refuse what may lose it.

    Where they are is said by the services' own settings (POSTGRES_..., THROUGHLINE_NATS_...). Refused are: JetStream
    that syncs later than it acknowledges, fewer servers or replicas than THROUGHLINE_NATS_REPLICAS, streams that
    forget, a user of NATS who may not do what the service needs; PostgreSQL with fsync, synchronous_commit or
    full_page_writes off, a standby, a role that cannot sign in.

    \b
    Example:
      throughline preflight --monitor http://nats:8222 --wait 60

    \b
    Exit codes: 0 all is kept; 1 something may be lost, or cannot be known; 2 a setting is wrong;
    3 somebody does not answer.
    """
    with _settings_as_failures():
        asked = services or SERVICES
        buses = [BusSettings.from_env(service=service) for service in asked]
        stores = [StoreSettings.from_env(service) for service in asked]
        partitioning = Partitioning.parse(os.environ.get(PARTITIONS, ""))
    places = monitors or tuple(each.strip() for each in os.environ.get(MONITORS, "").split(",") if each.strip())
    replicas = max(bus.replicas for bus in buses)
    reading = _Reading(
        [] if bus_by_monitoring else buses, replicas, stores, places, least_standbys, partitioning=partitioning
    )
    deadline = time.monotonic() + seconds
    with _settings_as_failures():
        findings, away = reading.all()
        while any(reading.counts(each, bus_may_be_away) for each in away) and time.monotonic() < deadline:
            time.sleep(_AGAIN_SECONDS)
            findings, away = reading.all()
    _tell_findings(findings, output)
    for each in away:
        tell(f"no answer: {each.error}")
    flaws = [each for each in findings if each.flaw]
    if flaws:
        raise Failure("\n".join(f"{each.thing}: {each.flaw}" for each in flaws), REFUSED)
    if any(reading.counts(each, bus_may_be_away) for each in away):
        raise Failure("who does not answer may lose what it acknowledges: nothing was entrusted to it", UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class _Away:
    error: AwayError
    bus: bool


class _Reading:
    def __init__(
        self,
        buses: Sequence[BusSettings],
        replicas: int,
        stores: Sequence[StoreSettings],
        monitors: Sequence[str],
        least_standbys: int,
        *,
        partitioning: Partitioning,
    ) -> None:
        self._buses = buses
        self._partitioning = partitioning
        self._replicas = replicas
        self._stores = stores
        self._monitors = monitors
        self._least_standbys = least_standbys

    def all(self) -> tuple[list[Finding], list[_Away]]:
        """What was read, and who did not answer. Raises: ValueError for a monitoring address that is none."""
        found: list[Finding] = []
        away: list[_Away] = []
        for store in self._stores:
            try:
                found += store_findings(store, self._least_standbys)
            except AwayError as error:
                away.append(_Away(error, bus=False))
        for told in asyncio.run(_of_the_buses(self._buses, self._partitioning)):
            if isinstance(told, AwayError):
                away.append(_Away(told, bus=True))
            else:
                found += told
        for monitor in self._monitors:
            try:
                found += server_findings(monitor, self._replicas)
            except AwayError as error:
                away.append(_Away(error, bus=True))
        if not self._monitors:
            unknown = f"only the servers' monitoring says whether they sync: give --monitor, or set {MONITORS}"
            found.append(Finding("NATS servers", "unknown", unknown))
        return found, away

    @staticmethod
    def counts(away: _Away, bus_may_be_away: bool) -> bool:
        """Whether what cannot be read keeps the installation back."""
        return not (away.bus and bus_may_be_away)


async def _of_the_buses(buses: Sequence[BusSettings], partitioning: Partitioning) -> list[list[Finding] | AwayError]:
    """What each service's user is answered, all of them at once."""
    numbers = partitioning.numbers_in_force(SERVICES)

    async def of(bus: BusSettings) -> list[Finding] | AwayError:
        async with bus.connect(f"{bus.service}-preflight") as connection:
            rights = rights_of(bus.service, prefix=bus.prefix, partitions=numbers)
            try:
                return await bus_findings(connection, rights, bus.prefix, bus.replicas)
            except AwayError as error:
                return error

    return await asyncio.gather(*map(of, buses))


def _tell_findings(findings: Sequence[Finding], output: str) -> None:
    if output == "json":
        print_json([{"thing": each.thing, "read": each.read, "flaw": each.flaw} for each in findings])
    else:
        print_table(
            ["thing", "read", ""], [[each.thing, each.read, "WRONG" if each.flaw else "ok"] for each in findings]
        )


@contextmanager
def _settings_as_failures() -> Generator[None]:
    try:
        yield
    except (SettingsError, ValueError) as error:
        raise Failure(str(error), BAD_INPUT) from error


@click.command()
@service_option
@click.option("--admin", required=True, envvar="POSTGRES_ADMIN_USER", help="Role that may make schemas.")
@click.option("--make-roles", is_flag=True, help="Make the services' roles too, with the passwords that they are told.")
@click.option(
    "--wait", "seconds", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for PostgreSQL to answer."
)
@output_option
def prepare(*, services: tuple[str, ...], admin: str, make_roles: bool, seconds: float, output: str) -> None:
    """Make the services' schemas in PostgreSQL ahead, as somebody who may, for roles that may not.

    Each service's role (POSTGRES_USER, or <SERVICE>_POSTGRES_USER ...) gets its own schema and those beside it, and no
    other's; those that seal personal values share the key store's tables. The admin's password is in
    POSTGRES_ADMIN_PASSWORD. What is there stays; it may be run again. With --make-roles each role that is absent is
    made, may sign in with POSTGRES_PASSWORD (or <SERVICE>_POSTGRES_PASSWORD) and nothing else, and owns the tables in
    its schemas. Partitions that THROUGHLINE_PARTITIONS names have theirs.

    \b
    Example:
      POSTGRES_ADMIN_PASSWORD=... throughline prepare --admin postgres

    \b
    Exit codes: 0 all is there; 1 PostgreSQL refuses; 2 a setting is wrong; 3 PostgreSQL does not answer.
    """
    with _settings_as_failures():
        installation = Installation.from_env()
        asked = services or SERVICES
        stores = [installation.stores[service] for service in asked]
    deadline = time.monotonic() + seconds
    while True:
        try:
            made = prepare_schemas(
                stores,
                Admin(admin, os.environ.get(ADMIN_PASSWORD, "")),
                installation.key_store_schema or DEFAULT_SCHEMA,
                partitioning=installation.partitioning,
                make_roles=make_roles,
            )
            break
        except UnavailableError as error:
            if time.monotonic() >= deadline:
                raise Failure(error.message, UNAVAILABLE) from error
            time.sleep(_AGAIN_SECONDS)
        except SettingsError as error:
            raise Failure(str(error), BAD_INPUT) from error
    if output == "json":
        print_json([{"schema": schema, "roles": list(roles)} for schema, roles in made.items()])
    else:
        print_table(["schema", "roles"], [[schema, list(roles)] for schema, roles in made.items()])
