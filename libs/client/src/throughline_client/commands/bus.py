"""`throughline bus`: what who runs NATS gives to the services."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Final

import click

from throughline_client.commands.running import BAD_INPUT, Failure
from throughline_client.commands.showing import print_json, print_table
from throughline_client.endpoints import SERVICES
from throughline_eventlog import (
    PARTITIONS,
    BusRights,
    BusSettings,
    Partitioning,
    SettingsError,
    rights_of,
    server_lines,
)
from throughline_eventlog.bus_settings import STREAM_PREFIX

_FORMS: Final = ("table", "json", "nats-server", "nsc")


@click.group()
def bus() -> None:
    """What services need of NATS.

    \b
    Example:
      throughline bus permissions --output nats-server
    """


@bus.command()
@click.option(
    "--service",
    "services",
    type=click.Choice(SERVICES),
    multiple=True,
    help="Only this service's user; all of them where left out.",
)
@click.option(
    "--prefix", help="What the names of streams begin with; THROUGHLINE_STREAM_PREFIX, or TL, where left out."
)
@click.option(
    "--partitions",
    envvar=PARTITIONS,
    default="",
    help=f"In how many partitions logs stand, as {PARTITIONS} has it, which counts where left out: e.g. ingestion=1:2.",
)
@click.option("--account", default="throughline", show_default=True, help="Account of the users, for nsc.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(_FORMS),
    default="table",
    show_default=True,
    help="For people, for programs, as configuration of nats-server, or as commands of nsc.",
)
def permissions(*, services: tuple[str, ...], prefix: str | None, partitions: str, account: str, output: str) -> None:
    """Say what each service's user of NATS has to be allowed: the fewest subjects, and nothing else.

    Of partitions those in force count: give users the new ones before a change of their number is put to use.

    Each fills the streams of its own logs, reads those of the services that it takes from, and is answered below an
    inbox that no other may listen to. Reads no bus. In the configuration the passwords are variables of the server's
    environment, `$IDENTITY_NATS_PASSWORD` and so on.

    \b
    Example:
      throughline bus permissions --prefix CRM --output nsc

    \b
    Exit codes: 0; 2 a prefix or partitions that are none.
    """
    try:
        asked = BusSettings.from_env(os.environ if prefix is None else {STREAM_PREFIX: prefix}).prefix
        numbers = Partitioning.parse(partitions, "--partitions").numbers_in_force(SERVICES)
    except SettingsError as error:
        raise Failure(str(error), BAD_INPUT) from error
    rights = [rights_of(service, prefix=asked, partitions=numbers) for service in services or SERVICES]
    match output:
        case "json":
            print_json(
                [
                    {
                        "service": each.service,
                        "user": each.user,
                        "publish": list(each.publish),
                        "subscribe": list(each.subscribe),
                    }
                    for each in rights
                ]
            )
        case "nats-server":
            passwords = {each.service: f"${each.service.upper()}_NATS_PASSWORD" for each in rights}
            click.echo(server_lines(rights, passwords), nl=False)
        case "nsc":
            for each in rights:
                click.echo(shlex.join(_nsc(each, account)))
        case _:
            print_table(["user", "may", "subject"], [[*row] for each in rights for row in _rows(each)])


def _rows(rights: BusRights) -> list[tuple[str, str, str]]:
    return [
        *((rights.user, "publish", subject) for subject in rights.publish),
        *((rights.user, "subscribe", subject) for subject in rights.subscribe),
    ]


def _nsc(rights: BusRights, account: str) -> Sequence[str]:
    publish, subscribe = ",".join(rights.publish), ",".join(rights.subscribe)
    return (
        *("nsc", "add", "user", "--account", account, "--name", rights.user),
        *("--allow-pub", publish, "--allow-sub", subscribe),
    )
