"""`throughline partitions show` and `throughline partitions set`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click

from throughline_client.commands.running import output_option, tell
from throughline_client.commands.showing import print_json, print_table
from throughline_client.endpoints import SERVICES, data_folder
from throughline_client.installation import Installation, write_partitioning
from throughline_client.suite import hold_folder
from throughline_client.suite.suite import SIGNING_KEYS_FILE
from throughline_eventlog import PARTITIONS, PARTITIONS_FILE, Partitioning, open_store
from throughline_eventlog.partitions import MOST_PARTITIONS, listed
from throughline_portability.commands import Bar, data_options, existing, failures
from throughline_portability.parting import Changed, PartitionsError, change_partitions
from throughline_proof import SigningKeys


@click.group()
def partitions() -> None:
    """In how many partitions each service's log stands, and how to change that (docs/partitions.md).

    \b
    Examples:
      throughline partitions show
      throughline partitions set ingestion 2
    """


@partitions.command()
@data_options
@output_option
def show(*, data: Path | None, from_environment: bool, output: str) -> None:
    """Show every service's logs: those in force, and those that were followed by others and are kept.

    \b
    Examples:
      throughline partitions show
      throughline partitions show --from-environment --output json

    \b
    Exit codes: 0 shown; 2 no installation, or a setting is wrong; 3 a store is away.
    """
    with failures():
        installation = Installation.from_env() if from_environment else existing(data_folder(data))
        logs = list(_logs(installation))
    text = installation.partitioning.write()
    if output == "json":
        print_json({"partitions": text, "logs": logs})
        return
    print_table(
        ["service", "partition", "", "events", "last position"],
        [[log["service"], log["partition"], _standing(log), log["events"], log["position"]] for log in logs],
        title=f"{PARTITIONS}={text}" if text else "every service has one partition",
    )


@partitions.command("set")
@click.argument("service", type=click.Choice(SERVICES))
@click.argument("number", type=click.IntRange(1, MOST_PARTITIONS))
@data_options
@output_option
def set_number(service: str, number: int, *, data: Path | None, from_environment: bool, output: str) -> None:
    """Change in how many partitions the log of SERVICE stands, to NUMBER. Nothing is lost, and nothing is rewritten.

    The service must be stopped, and identity must have taken everything. New logs are made of the old ones and checked
    against them, source by source; then the old ones are sealed, and kept for reading and proving. Whatever ends this
    before the seal leaves everything as it was; ended after it, the same command does the rest.

    \b
    Examples:
      throughline partitions set ingestion 2 --data REHEARSAL
      throughline partitions set ingestion 2 --from-environment

    \b
    Exit codes: 0 changed; 1 the service still writes; 2 it cannot be changed so, or not now; 3 a store is away.
    """
    with Bar("partitions:") as bar, failures():
        if from_environment:
            changed = change_partitions(
                Installation.from_env(), service, number, keys=SigningKeys.from_env, told=bar.moved, keep=_nothing
            )
        else:
            folder = data_folder(data)
            existing(folder)
            with hold_folder(folder):
                changed = change_partitions(
                    existing(folder),
                    service,
                    number,
                    keys=_keys_in(folder),
                    told=bar.moved,
                    keep=partial(_keep, folder),
                )
    _report(changed, output, from_environment=from_environment)


def _keys_in(folder: Path) -> Callable[[], SigningKeys]:
    file = folder / SIGNING_KEYS_FILE
    return (lambda: SigningKeys.of_file(file)) if file.exists() else SigningKeys.from_env


def _nothing(_: Partitioning) -> None:
    """Who runs the services tells them."""


def _keep(folder: Path, partitioning: Partitioning) -> None:
    """Writes the data folder's file."""
    try:
        write_partitioning(folder, partitioning)
    except OSError as error:
        raise PartitionsError(
            f"{folder / PARTITIONS_FILE} cannot be written: {error.strerror}. The logs are made and the old ones "
            "sealed: mend that, and give the same command again"
        ) from error


def _logs(installation: Installation) -> Iterator[dict[str, object]]:
    for service in SERVICES:
        in_force = installation.partitioning.in_force(service)
        for number in installation.partitioning.numbers(service):
            settings = installation.store(service, number)
            file = settings.environment.get("SQLITE_DBNAME")
            if file and not Path(file).exists():
                raise PartitionsError(f"{file}: is missing; bring the log of partition {number} back from a backup")
            store = open_store(settings)
            try:
                with store.snapshot() as reader:
                    events, position = reader.count_events(), reader.last_position()
                yield {
                    "service": service,
                    "partition": number,
                    "in_force": number in in_force,
                    "followed_by": store.sealed(),
                    "events": events,
                    "position": position,
                }
            finally:
                store.close()


def _standing(log: dict[str, object]) -> str:
    if log["followed_by"]:
        return f"sealed, followed by {log['followed_by']}" + (" (to be ended: set)" if log["in_force"] else "")
    return "in force" if log["in_force"] else "not sealed"


def _report(changed: Changed, output: str, *, from_environment: bool) -> None:
    text = changed.partitioning.write()
    if output == "json":
        print_json(
            {
                "service": changed.service,
                "partitions": text,
                "opened": [
                    {"partition": each.number, "events": each.events, "position": each.position, "state": each.digest}
                    for each in changed.opened
                ],
                "sealed": list(changed.followed),
                "begins": dict(changed.positions),
            }
        )
    else:
        print_table(
            ["partition", "events", "opened at position", "state"],
            [[each.number, each.events, each.position, each.digest[:16]] for each in changed.opened],
            title=f"{changed.service} has {listed([each.number for each in changed.opened])}",
        )
    if from_environment:
        tell(f"start the services with {PARTITIONS}={text}, and each partition with its THROUGHLINE_PARTITION")
