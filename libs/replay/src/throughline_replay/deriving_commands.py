"""`throughline rederive` and `throughline whatif`: what the code at hand, or other rules, would have decided."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import click

from throughline_client.commands.running import (
    BAD_INPUT,
    DIFFERENCE,
    UNAVAILABLE,
    Failure,
    output_option,
    tell,
)
from throughline_client.commands.showing import counting, print_json, print_table
from throughline_client.endpoints import data_folder
from throughline_client.installation import KEYS_FILE, Installation
from throughline_eventlog import NewerLogError, SettingsError
from throughline_kernel import InvalidError, UnavailableError
from throughline_privacy import PrivacySettingsError
from throughline_replay.deriving import DerivationError, Derived, Unit, derivable
from throughline_replay.parallel import derive_all
from throughline_replay.states import Standing

FROM_ENVIRONMENT: Final = "The stores are those of the services' own settings (PERSISTENCE_MODULE, POSTGRES_* ...)."
LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class Place:
    """An installation's logs of one partition, the keys of it, and where it may be worked beside."""

    name: str
    installation: Installation
    env: Mapping[str, str]
    work: Path

    def unit(self, service: str, instead: bytes = b"", named: tuple[str, ...] = ()) -> Unit:
        """What deciding one service's log again needs."""
        file = self.work / f"{service}.db"
        return Unit(service, self.installation.stores, self.env, file, instead, named)


@click.command()
@click.argument("services", nargs=-1)
@click.option(
    "--data",
    "folders",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="Data folder of a suite (THROUGHLINE_DATA; else .throughline); once for each partition.",
)
@click.option("--from-environment", is_flag=True, help=FROM_ENVIRONMENT)
@click.option(
    "--work", type=click.Path(path_type=Path, file_okay=False), help="Where to work; else in the data folder."
)
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, help="Logs at a time; else one a core.")
@click.option("--fresh", is_flag=True, help="Begin anew what was interrupted, instead of going on with it.")
@output_option
def rederive(
    services: tuple[str, ...],
    *,
    folders: tuple[Path, ...],
    from_environment: bool,
    work: Path | None,
    workers: int,
    fresh: bool,
    output: str,
) -> None:
    """Decide again what services decided, with the code at hand, and name the first event that differs.

    Each service's own handlers take its upstream logs again, in the order in which its log proves that they were
    taken, in a store beside; events and states are compared. Nothing that sends is there. The suite may run. SERVICES:
    identity, journey, feedback, scoring; all where none is named. Ingestion decides on what it is offered: it has no
    upstream log.

    \b
    Examples:
      throughline rederive
      throughline rederive identity journey --data PARTITION0 --data PARTITION1
      throughline rederive --from-environment --output json

    \b
    Exit codes: 0 nothing differs; 2 a setting is wrong, or the log cannot be decided again; 3 a store is away;
    4 something was decided otherwise.
    """
    chosen = _services(services)
    with _failures():
        places = _places(folders, from_environment=from_environment, work=work, name="rederive")
        found = _derived(places, [place.unit(service) for place in places for service in chosen], workers, fresh=fresh)
    _report(places, found, output)
    if any(not each.same for each in found):
        raise SystemExit(DIFFERENCE)


def _services(named: Sequence[str]) -> tuple[str, ...]:
    known = derivable()
    if unknown := sorted(set(named) - set(known)):
        raise click.UsageError(f"{', '.join(unknown)}: nothing can be decided again; name some of {', '.join(known)}")
    return tuple(service for service in known if not named or service in named)


def _places(folders: Sequence[Path], *, from_environment: bool, work: Path | None, name: str) -> list[Place]:
    if from_environment:
        if work is None:
            raise click.UsageError("--from-environment: say where to work beside the stores, with --work FOLDER")
        return [Place("", Installation.from_env(), dict(os.environ), work / name)]
    places: list[Place] = []
    for number, folder in enumerate(folders or (data_folder(None),)):
        installation = Installation.in_folder(folder)
        if missing := installation.missing:
            raise Failure(f"{folder}: holds no log of {', '.join(missing)}: name a suite's data folder", BAD_INPUT)
        env = {
            **os.environ,
            "THROUGHLINE_KEYS_FILE": str(folder / KEYS_FILE),
            "THROUGHLINE_KEY_STORE": installation.key_store,
        }
        beside = folder / name if work is None else work / name / str(number)
        places.append(Place(str(folder) if len(folders) > 1 else "", installation, env, beside))
    return places


def _derived(places: Sequence[Place], units: Sequence[Unit], workers: int, *, fresh: bool) -> list[Derived]:
    """Decides all of it again, with a bar; what was worked with is gone when it is done."""
    for place in places:
        if fresh:
            shutil.rmtree(place.work, ignore_errors=True)
        place.work.mkdir(parents=True, exist_ok=True)
    with counting() as bar:
        tasks = [bar.add_task(f"deciding again {unit.service}", total=None) for unit in units]
        found = derive_all(units, workers, lambda index, count: bar.update(tasks[index], completed=count))
    for place in places:
        shutil.rmtree(place.work, ignore_errors=True)
    return found


def _report(places: Sequence[Place], found: Sequence[Derived], output: str) -> None:
    if output == "json":
        print_json({"services": [as_json(each) for each in found]})
        return
    per_place = len(found) // len(places)
    rows = [
        (
            " ".join(filter(None, (places[index // per_place].name, each.service))),
            each.events,
            each.derived,
            each.taken,
            *(() if each.standing is None else (each.standing.digest[:16], each.standing.derived_digest[:16])),
            "same" if each.same else "DIFFERENT",
        )
        for index, each in enumerate(found)
    ]
    columns = ("log", "events", "decided again", "taken", "state", "state decided again", "")
    print_table(columns, rows, title="Decided again from the upstream logs")
    for each in found:
        if each.first is not None:
            tell(f"{each.service}: the first of {each.differing} commits decided otherwise: {each.first}")
        if each.standing is not None and not each.standing.same:
            tell(f"{each.service}: {_counts(each.standing)}; the first: {each.standing.first}")


def _counts(standing: Standing) -> str:
    return (
        f"of {standing.alike + standing.changed + standing.gone} aggregates {standing.changed} would be others, "
        f"{standing.gone} would not be, and {standing.new} would be new"
    )


def as_json(found: Derived) -> dict[str, Any]:
    """What was found, as JSON values."""
    kinds = {name: {"logged": there, "derived": here} for name, (there, here) in sorted(found.kinds.items())}
    return {**asdict(found), "kinds": kinds, "same": found.same}


@contextmanager
def _failures() -> Generator[None]:
    try:
        yield
    except (DerivationError, SettingsError, NewerLogError, PrivacySettingsError, InvalidError) as error:
        raise Failure(str(error), BAD_INPUT) from error
    except UnavailableError as error:
        raise Failure(error.message, UNAVAILABLE) from error
