"""`throughline rederive`, `whatif` and `rebuild`: what the code at hand, or other rules, would have decided, and tables
made anew from it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from google.protobuf.message import Message

from throughline.feedback.v1 import routes_pb2
from throughline.identity.v1 import rules_pb2
from throughline.journey.v1 import definitions_pb2
from throughline_client.commands.definitions import read_definition
from throughline_client.commands.running import (
    BAD_INPUT,
    DIFFERENCE,
    LOG,
    UNAVAILABLE,
    Failure,
    data_option,
    output_option,
    tell,
)
from throughline_client.commands.showing import counting, print_json, print_table
from throughline_client.endpoints import SERVICES, data_folder
from throughline_client.installation import KEYS_FILE, Installation
from throughline_eventlog import SettingsError
from throughline_eventlog.partitions import service_of
from throughline_kernel import is_hex_id
from throughline_replay.comparing import Difference
from throughline_replay.deriving import Progress, derive
from throughline_replay.divergences import Derived
from throughline_replay.parallel import each_apart
from throughline_replay.projecting import projectable
from throughline_replay.rebuilding import Rebuilt, rebuild
from throughline_replay.states import Standing, family_of
from throughline_replay.units import DerivationError, StoreAwayError, Unit, derivable
from throughline_replay.whatif import what_if

R = TypeVar("R")

FROM_ENVIRONMENT: Final = "The stores are those of the services' own settings (PERSISTENCE_MODULE, POSTGRES_* ...)."
LISTED: Final = 20
FEW: Final = 5


@dataclass(frozen=True, slots=True)
class Place:
    """An installation's logs, the keys of it, and where it may be worked beside."""

    installation: Installation
    env: Mapping[str, str]
    work: Path

    def unit(self, log: str, instead: bytes = b"", named: tuple[str, ...] = ()) -> Unit:
        """What deciding one log again needs."""
        return Unit(log, self.installation.logs, self.env, self.work / f"{log}.db", instead, named)


def _place_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--from-environment", is_flag=True, help=FROM_ENVIRONMENT),
        click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Where to work; else in --data."),
        click.option("--fresh", is_flag=True, help="Begin anew what was interrupted, instead of going on with it."),
    ):
        command = option(command)
    return output_option(command)


def _deciding_options(command: Callable[..., None]) -> Callable[..., None]:
    workers = click.option(
        "--workers", type=click.IntRange(1), default=os.cpu_count() or 1, help="Logs at a time; else one a core."
    )
    return _place_options(data_option(workers(command)))


@click.command("rederive")
@click.argument("services", nargs=-1)
@_deciding_options
def rederive_command(
    services: tuple[str, ...],
    *,
    data: Path | None,
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
      throughline rederive identity journey --data COPY
      throughline rederive --from-environment --output json

    \b
    Exit codes: 0 nothing differs; 2 a setting is wrong, or the log cannot be decided again; 3 a store is away;
    4 something was decided otherwise.
    """
    chosen = _services(services, derivable(), "decided again")
    with _failures():
        place = _place(data, from_environment=from_environment, work=work, name="rederive")
        found = _done(derive, place, [place.unit(service) for service in chosen], workers, fresh=fresh)
    _report(found, output)
    if any(not each.same for each in found):
        raise SystemExit(DIFFERENCE)


def _services(named: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    if unknown := sorted(set(named) - set(known)):
        raise click.UsageError(f"{', '.join(unknown)}: nothing can be {what}; name some of {', '.join(known)}")
    return tuple(service for service in known if not named or service in named)


def _place(data: Path | None, *, from_environment: bool, work: Path | None, name: str) -> Place:
    if from_environment:
        if work is None:
            raise click.UsageError("--from-environment: say where to work beside the stores, with --work FOLDER")
        return Place(Installation.from_env(), dict(os.environ), work / name)
    folder = data_folder(data)
    installation = Installation.in_folder(folder)
    if missing := installation.missing:
        raise Failure(f"{folder}: holds no log of {', '.join(missing)}: name a suite's data folder", BAD_INPUT)
    env = {
        **os.environ,
        "THROUGHLINE_KEYS_FILE": str(folder / KEYS_FILE),
        "THROUGHLINE_KEY_STORE": installation.key_store,
    }
    return Place(installation, env, (work or folder) / name)


def _done(
    work: Callable[[Unit, Progress], R], place: Place, units: Sequence[Unit], workers: int, *, fresh: bool
) -> list[R]:
    """Does it for each unit, with a bar; what was worked with is gone when it is done."""
    if fresh:
        shutil.rmtree(place.work, ignore_errors=True)
    place.work.mkdir(parents=True, exist_ok=True)
    with counting() as bar:
        tasks = [bar.add_task(f"deciding again {unit.log}", total=None) for unit in units]
        found = each_apart(work, units, workers, lambda index, count: bar.update(tasks[index], completed=count))
    shutil.rmtree(place.work, ignore_errors=True)
    return found


def _report(found: Sequence[Derived], output: str) -> None:
    if output == "json":
        print_json({"services": [as_json(each) for each in found]})
        return
    rows = [
        (
            each.service,
            each.events,
            each.derived,
            each.taken,
            *(() if each.standing is None else (each.standing.digest[:16], each.standing.derived_digest[:16])),
            "same" if each.same else "DIFFERENT",
        )
        for each in found
    ]
    columns = ("log", "events", "decided again", "taken", "state", "state decided again", "")
    print_table(columns, rows, title="Decided again from the upstream logs")
    for each in found:
        if each.first is not None:
            tell(f"{each.service}: the first of {each.differing} commits decided otherwise: {each.first}")
        if each.standing is not None and not each.standing.same:
            tell(f"{each.service}: {_counts(each.standing)}; the first: {each.standing.first}")


def _counts(standing: Standing) -> str:
    every = standing.families.values()
    changed, gone, new = (sum(getattr(each, name) for each in every) for name in ("changed", "gone", "new"))
    before = changed + gone + sum(each.alike for each in every)
    return f"of {before} aggregates {changed} would be others, {gone} would not be, and {new} would be new"


def as_json(found: Derived) -> dict[str, Any]:
    """What was found, as JSON values."""
    kinds = {name: {"logged": there, "derived": here} for name, (there, here) in sorted(found.kinds.items())}
    return {**asdict(found), "kinds": kinds, "same": found.same}


@click.group()
def whatif() -> None:
    """Decide a whole history again under other rules, and say who would change.

    The rules given hold from the beginning of the log in the place of those that were published; everything else, what
    people asked for included, happens as it did. What would come of it is carried on: other identities to feedback,
    journeys and scores, other routes to journeys and scores, another journey to scores. Nothing is written, and nothing
    that sends is there.

    \b
    Examples:
      throughline whatif identity RULES.yaml
      throughline whatif journey DEFINITION.yaml --client 4f0c2d6b8a1e4c3f9d2b7a6e5c4d3b2a
      throughline whatif feedback ROUTES.yaml --output json

    \b
    Exit codes: 0 told; 2 the file or a setting is wrong, or the log cannot be decided again; 3 a store is away.
    """


def _whatif_options(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--client", default="", help="Tell of this client alone, all that would change.")(command)
    command = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))(command)
    return _deciding_options(command)


@whatif.command("identity")
@_whatif_options
def whatif_identity(file: Path, **asked: Any) -> None:
    """Other identity rules: FILE has a RuleSet in YAML or JSON."""
    _whatif("identity", read_definition(file, rules_pb2.RuleSet()), **asked)


@whatif.command("journey")
@_whatif_options
def whatif_journey(file: Path, **asked: Any) -> None:
    """A new journey, or another definition of one: FILE has a JourneyDefinition, as for `journeys define`."""
    _whatif("journey", read_definition(file, definitions_pb2.JourneyDefinition()), **asked)


@whatif.command("feedback")
@_whatif_options
def whatif_feedback(file: Path, **asked: Any) -> None:
    """Other routes: FILE has a RouteSet, as the routes file of the feedback service."""
    _whatif("feedback", read_definition(file, routes_pb2.RouteSet()), **asked)


def _whatif(
    service: str,
    rules: Message,
    *,
    client: str,
    data: Path | None,
    from_environment: bool,
    work: Path | None,
    workers: int,
    fresh: bool,
    output: str,
) -> None:
    if client and not is_hex_id(client):
        raise click.BadParameter(f"{client!r} is no id: ids are 32 lowercase hex digits", param_hint="--client")
    instead, named = rules.SerializeToString(deterministic=True), (client,) if client else ()
    with _failures():
        place = _place(data, from_environment=from_environment, work=work, name="whatif")
        (found,) = _done(what_if, place, [place.unit(service, instead, named)], workers, fresh=fresh)
    if client and not any(each.standing is not None and each.standing.families for each in found):
        raise Failure(f"nothing is kept under the id {client}, and nothing would be", BAD_INPUT)
    if output == "json":
        first, *rest = found
        print_json({**as_json(first), "carried": [as_json(each) for each in rest]})
        return
    _tell_whatif(found, LISTED if client else FEW)


def _tell_whatif(told: Sequence[Derived], most: int) -> None:
    """What would be otherwise; of each kind of aggregate the first so many."""
    kinds = [
        (each.service, name.rpartition(".")[2], *counts)
        for each in told
        for name, counts in sorted(each.kinds.items())
        if len({*counts}) > 1
    ]
    columns = ("service", "event", "logged", "would be")
    print_table(columns, kinds, title="What would have been decided more or less often")
    standings = [(each.service, each.standing) for each in told if each.standing is not None]
    counts = [
        (service, kind, each.alike, each.changed, each.gone, each.new)
        for service, standing in standings
        for counted in (standing.families, standing.parts)
        for kind, each in sorted(counted.items())
    ]
    columns = ("service", "kind", "as it is", "would change", "would not be", "would be new")
    print_table(columns, counts, title="Who and what would change")
    listed = [
        (each.key, _spoken(each.path) or "(whole)", each.live, each.replayed)
        for _, standing in standings
        for each in _first_of_each(standing, most)
    ]
    print_table(("what", "where", "stands", "would stand"), listed)
    if refused := sum(each.refused for each in told):
        tell(f"{refused} requests of people that were carried out would be refused")


def _first_of_each(standing: Standing, most: int) -> Iterator[Difference]:
    for _, family in groupby(standing.listed, key=lambda each: family_of(each.key)):
        yield from islice(family, most)


def _spoken(path: str) -> str:
    """A path without what separates the parts of a counter's name."""
    return path.replace("\x1f", " ").strip()


@click.command("rebuild")
@click.argument("log", type=LOG)
@click.option("--check", is_flag=True, help="Only compare; leave the tables as they are.")
@click.option("--repair", is_flag=True, help="Switch also where the live state differs, once the whole log was proved.")
@_place_options
@data_option
def rebuild_command(
    log: str,
    *,
    check: bool,
    repair: bool,
    data: Path | None,
    from_environment: bool,
    work: Path | None,
    fresh: bool,
    output: str,
) -> None:
    """Rebuild a service's tables beside the live ones, compare at one cut, and switch to them.

    The tables beside the log are made anew by deciding the whole log again, ingestion's out of its own log; the service
    may run. Where an event would be decided otherwise, or the live state differs from the rebuilt one, nothing is
    switched, and the first difference is named. LOG: ingestion (of several partitions ingestion-101, ...), identity,
    journey, feedback or scoring; a log that others followed can be compared with --check (ingestion-0).

    \b
    Examples:
      throughline rebuild journey --check
      throughline rebuild scoring
      throughline rebuild identity --repair

    \b
    Exit codes: 0 switched, or with --check the same; 2 a setting is wrong, or the log cannot be decided again; 3 a
    store is away; 4 refused: something differs.
    """
    _services((service_of(log),), (*derivable(), *projectable()), "rebuilt")
    with _failures():
        place = _place(data, from_environment=from_environment, work=work, name="rebuild")
        chosen = place.installation.partitioning.log(log, SERVICES, earlier=True)
        doing = partial(rebuild, check=check, repair=repair)
        (found,) = _done(doing, place, [place.unit(chosen)], 1, fresh=fresh)
    _report_rebuilt(found, output, check=check)
    if found.refused:
        raise SystemExit(DIFFERENCE)


def _report_rebuilt(found: Rebuilt, output: str, *, check: bool) -> None:
    if output == "json":
        told = {"switched": found.switched, "refused": found.refused, "rows": dict(found.rows)}
        print_json({**told, "derived": as_json(found.derived)})
        return
    columns = ("table", "rows replaced" if found.switched else "rows that differ")
    print_table(columns, sorted(found.rows.items()))
    standing, service = found.derived.standing, found.derived.service
    if found.refused:
        tell(f"{service} was not switched: {found.refused}")
    elif standing is not None:
        what = "nothing was switched, as was asked" if check else "its tables are those that were rebuilt"
        tell(f"{service}: state {standing.derived_digest[:16]} at position {found.derived.position}; {what}")


@contextmanager
def _failures() -> Generator[None]:
    try:
        yield
    except StoreAwayError as error:
        raise Failure(str(error), UNAVAILABLE) from error
    except (DerivationError, SettingsError) as error:
        raise Failure(str(error), BAD_INPUT) from error
