"""`throughline replay`: histories told from the logs, and live states held against replayed ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
import grpc
from rich.console import Console
from rich.table import Table

from throughline_client.commands.running import as_of_option, caller_options, find_endpoints
from throughline_client.commands.showing import counting
from throughline_client.endpoints import EndpointError, Endpoints
from throughline_kernel import is_hex_id
from throughline_replay.comparing import Comparison
from throughline_replay.folding import Folded, Folding, fold_each
from throughline_replay.histories import HistoryEntry, client_history, interaction_history
from throughline_replay.replaying import make_folds
from throughline_replay.sources import ServiceLog, said
from throughline_replay.units import DerivationError, StoreAwayError
from throughline_rpc import Caller

UNAVAILABLE = 3
DIFFERENT = 4


def _replay_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        caller_options,
        as_of_option,
        click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True),
        click.option("--write", "target", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file."),
        click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder of the suite."),
        click.option(
            "--from-files",
            is_flag=True,
            help="Fold the logs from the data folder's files, not through the services; they tell of the live state.",
        ),
        click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 1, help="Logs at a time, if long."),
    ):
        command = option(command)
    return command


@click.group()
def replay() -> None:
    """Tell histories from the logs alone, and compare live states with replayed ones.

    Each log is folded from its beginning with the services' own domain functions. Exit code 4: a state differs.

    \b
    Examples:
      throughline replay client 4f0c2d6b8a1e4c3f9d2b7a6e5c4d3b2a
      throughline replay all --as-of 2017-05-03T14:00:00+02:00 --output json
      throughline replay all --data .throughline --from-files
    """


@replay.command("client")
@click.argument("client_id")
@_replay_options
def replay_client(
    client_id: str,
    *,
    as_of: int,
    output: str,
    target: Path | None,
    data: Path | None,
    from_files: bool,
    workers: int,
    caller: Caller,
) -> None:
    """One client's history over all five logs, and its state replayed and compared."""
    _check_id(client_id, "CLIENT_ID")
    with _logs(data, from_files, caller) as logs:
        client_id = logs.canonical(client_id)
        history = client_history(client_id, logs.services, make_folds(), as_of)
        comparisons = _compare(logs, as_of, workers, key=client_id)
    _report(history, comparisons, output, target, f"client {client_id}")


@replay.command("interaction")
@click.argument("interaction_id")
@_replay_options
def replay_interaction(
    interaction_id: str,
    *,
    as_of: int,
    output: str,
    target: Path | None,
    data: Path | None,
    from_files: bool,
    workers: int,
    caller: Caller,
) -> None:
    """What became of one interaction in all five logs, and every service's state compared."""
    _check_id(interaction_id, "INTERACTION_ID")
    with _logs(data, from_files, caller) as logs:
        history = interaction_history(interaction_id, logs.services, make_folds(), as_of)
        comparisons = _compare(logs, as_of, workers)
    _report(history, comparisons, output, target, f"interaction {interaction_id}")


@replay.command("all")
@_replay_options
def replay_all(
    *, as_of: int, output: str, target: Path | None, data: Path | None, from_files: bool, workers: int, caller: Caller
) -> None:
    """Every log folded from its beginning, and every live state compared at the same cut."""
    with _logs(data, from_files, caller) as logs:
        comparisons = _compare(logs, as_of, workers)
    _report(None, comparisons, output, target, "all logs")


class _Logs:
    """The running services, and where the events to fold come from."""

    def __init__(
        self, services: Mapping[str, ServiceLog], endpoints: Endpoints, files: Mapping[str, Path], caller: Caller
    ) -> None:
        self.services = services
        self._endpoints = endpoints
        self._files = files
        self._caller = caller

    def folding(self, log: str, position: int, as_of: int, key: str | None) -> Folding:
        """What folding one log needs."""
        kept = self._endpoints.folder / "replay" / f"{log}.state"
        address = self._endpoints.address(log)
        file, said = self._files.get(log), self._caller.metadata()
        credentials = self._endpoints.credentials(log)
        return Folding(log, address, position, kept, file, as_of, key, said, credentials)

    def canonical(self, client_id: str) -> str:
        """The id that the state is kept under: an alias leads there."""
        return self.services["identity"].canonical_client(client_id)


@contextmanager
def _logs(data: Path | None, from_files: bool, caller: Caller) -> Generator[_Logs]:
    with ExitStack() as open_things:
        try:
            endpoints = find_endpoints(data=data)
            services = {
                log: open_things.enter_context(
                    ServiceLog(log, endpoints.address(log), caller.metadata(), endpoints.credentials(log))
                )
                for log in endpoints.logs
            }
            files = {log: _file(endpoints.folder, log) for log in endpoints.logs} if from_files else {}
            yield _Logs(services, endpoints, files, caller)
        except (EndpointError, StoreAwayError) as error:
            raise _AwayError(str(error)) from error
        except DerivationError as error:
            raise click.ClickException(str(error)) from error
        except grpc.RpcError as error:
            raise _AwayError(said(error)) from error


def _file(folder: Path, log: str) -> Path:
    file = folder / f"{log}.db"
    if not file.exists():
        raise click.UsageError(f"--from-files: there is no log of {log} at {file}: name the suite's --data folder")
    return file


def _compare(logs: _Logs, as_of: int, workers: int, key: str | None = None) -> list[Comparison | Folded]:
    """Folds each log and compares it with the live state, or only folds where a past instant is asked for."""
    cuts = {service: log.checkpoint() for service, log in logs.services.items()}
    asked = [logs.folding(service, cut.position, as_of, key) for service, cut in cuts.items()]
    with counting() as bar:
        tasks = [bar.add_task(f"replaying {service}", total=cut.events) for service, cut in cuts.items()]
        events = sum(cut.events for cut in cuts.values())
        found = fold_each(asked, events, workers, lambda index, count: bar.update(tasks[index], completed=count))
        for task, cut in zip(tasks, cuts.values(), strict=True):
            bar.update(task, completed=cut.events)
    return found


def _report(
    history: list[HistoryEntry] | None,
    comparisons: list[Comparison | Folded],
    output: str,
    target: Path | None,
    title: str,
) -> None:
    if output == "json":
        text = json.dumps(
            {
                **({} if history is None else {"history": [entry.as_json() for entry in history]}),
                "services": [_as_json(comparison) for comparison in comparisons],
            },
            indent=2,
        )
        _write(text + "\n", target)
    else:
        # Wide enough for a sentence where nobody's window sets the width.
        console = Console(record=True, width=None if target is None else 160, quiet=target is not None)
        if history is not None:
            console.print(_history_table(history, title))
        console.print(_digest_table(comparisons))
        if target is not None:
            target.write_text(console.export_text())
    for comparison in comparisons:
        if isinstance(comparison, Comparison) and not comparison.equal:
            click.echo(f"{comparison.service} differs: {comparison.difference}", err=True)
    if any(isinstance(comparison, Comparison) and not comparison.equal for comparison in comparisons):
        raise SystemExit(DIFFERENT)


def _history_table(history: list[HistoryEntry], title: str) -> Table:
    table = Table(title=f"History of {title}: {len(history)} events")
    table.add_column("when (UTC)", no_wrap=True)
    for name in ("log", "event", "what happened"):
        table.add_column(name, overflow="fold")
    for entry in history:
        table.add_row(_moment(entry.occurred_at), entry.service, entry.type, entry.summary)
    return table


def _digest_table(comparisons: list[Comparison | Folded]) -> Table:
    table = Table(title="Replayed from the logs alone")
    for name, justify in (("log", "left"), ("position", "right"), ("events", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    for name in ("live state", "replayed state", ""):
        table.add_column(name, no_wrap=True)
    for comparison in comparisons:
        if isinstance(comparison, Folded):
            table.add_row(
                comparison.service,
                str(comparison.position),
                str(comparison.events),
                "(of now: not compared)",
                comparison.digest[:16],
                "",
            )
        else:
            table.add_row(
                comparison.service,
                str(comparison.position),
                str(comparison.events),
                comparison.live_digest[:16] or "(nothing)",
                comparison.replayed_digest[:16] or "(nothing)",
                "equal" if comparison.equal else "DIFFERENT",
            )
    return table


def _as_json(comparison: Comparison | Folded) -> dict[str, object]:
    if isinstance(comparison, Folded):
        return {
            "service": comparison.service,
            "position": comparison.position,
            "events": comparison.events,
            "replayed_digest": comparison.digest,
        }
    return {**asdict(comparison), "equal": comparison.equal}


def _moment(micros: int) -> str:
    return datetime.fromtimestamp(micros // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _check_id(text: str, name: str) -> None:
    if not is_hex_id(text):
        raise click.BadParameter(
            f"{text!r} is no id: ids are 32 lowercase hex digits, as `throughline resolve` and `record` print them",
            param_hint=name,
        )


def _write(text: str, target: Path | None) -> None:
    if target is None:
        click.echo(text, nl=False)
    else:
        target.write_text(text)


class _AwayError(click.ClickException):
    """A service is away."""

    exit_code = UNAVAILABLE
