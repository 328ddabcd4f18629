"""`throughline import`: any table of data to interactions."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from throughline_client.client import Throughline
from throughline_client.commands.running import (
    BAD_INPUT,
    REFUSED,
    caller_options,
    connection_options,
    find_endpoints,
    is_terminal,
    output_option,
    tell,
)
from throughline_client.commands.showing import plain, print_json, print_table
from throughline_client.endpoints import data_folder
from throughline_client.importer.mapping import load_mapping, shipped_mappings
from throughline_client.importer.producing import find_files
from throughline_client.importer.running import ImportOptions, ImportReport, count_only, run_import
from throughline_client.sdk.recording import Verdicts
from throughline_rpc import Caller, RemoteRefusal


class Bars:
    """A progress bar per import on standard error, where a person is looking."""

    def __init__(self, *, shown: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[answered]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def began(self, name: str, size: int, resumed: int) -> None:
        self._tasks[name] = self._progress.add_task(name, total=size or 1, answered="")
        if resumed:
            self._say(f"{name}: goes on after {resumed:,} interactions that were acknowledged before")

    def moved(self, name: str, done: int, verdicts: Verdicts) -> None:
        answered = f"{verdicts.offered:,} acknowledged" if verdicts.offered else ""
        self._progress.update(self._tasks[name], completed=done, answered=answered)

    def interrupted(self, name: str, refusal: RemoteRefusal) -> None:
        self._say(f"{name}: waits for ingestion ({refusal})")

    def ended(self, name: str) -> None:
        task = self._tasks[name]
        self._progress.update(task, completed=self._progress.tasks[task].total)

    def _say(self, message: str) -> None:
        if self._shown:
            self._progress.console.print(message)
        else:
            tell(message)


class NamedFile(click.ParamType[tuple[str, Path]]):
    """NAME=FILE."""

    name = "name=file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value  # pyright: ignore[reportUnknownVariableType] -- converted already
        name, separator, file = str(value).partition("=")
        if not separator or not name or not file:
            self.fail(f"{value!r} is no file of the mapping; write NAME=FILE", param, ctx)
        return name, Path(file)


def _list_mappings(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        print_table(["mapping", "for"], shipped_mappings().items())
        ctx.exit(0)


@click.command("import")
@click.option(
    "--mapping",
    "mapping_file",
    help="A mapping file, or the name of one that ships (--list shows them). Not for an export, which needs none.",
)
@click.argument("data_path", metavar="[DATA]", type=click.Path(path_type=Path), required=False)
@click.option("--set", "named", type=NamedFile(), multiple=True, help="A file of the mapping, by its name there.")
@click.option("--only", multiple=True, metavar="IMPORT", help="Only this import of the mapping; may be repeated.")
@click.option(
    "--dry-run", is_flag=True, help="Map everything, send nothing, show the first interaction of each import."
)
@click.option("--restart", is_flag=True, help="Begin again instead of going on where a stopped run was.")
@click.option("--replace", is_flag=True, help="Let the mapping's channels and sources replace others registered so.")
@click.option("--rejects", type=click.Path(path_type=Path, dir_okay=False), help="Where to report rows not recorded.")
@click.option(
    "--patience", type=float, default=60.0, show_default=True, help="Seconds to wait while ingestion is away."
)
@click.option("--progress/--no-progress", default=None, help="Show a bar (where a person is looking).")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_mappings, help="List mappings.")
@connection_options
@caller_options
@output_option
@click.pass_context
def import_command(
    ctx: click.Context,
    *,
    mapping_file: str | None,
    data_path: Path | None,
    named: tuple[tuple[str, Path], ...],
    only: tuple[str, ...],
    dry_run: bool,
    restart: bool,
    replace: bool,
    rejects: Path | None,
    patience: float,
    progress: bool | None,
    data: Path | None,
    addresses: tuple[tuple[str, str], ...],
    caller: Caller,
    output: str,
) -> None:
    """Turn CSV, NDJSON or Parquet (.gz) into interactions; or put an export into an empty installation.

    DATA is a file, or a folder that holds the files of the mapping. Rows that cannot be offered are reported with file,
    row, column, rule and remedy, and harm no other. A stopped import goes on where it was; a second run finds
    duplicates.

    \b
    Examples:
      throughline import --mapping boston311 requests.csv.gz
      throughline import --mapping complete_journey FOLDER --only baskets
      throughline import --mapping mine.yaml sales.parquet --dry-run
      throughline import --mapping mine.yaml --set sales=a.csv --set shops=b.csv
      throughline import BACKUP --data NEW       (as `throughline restore`, for a folder made by `throughline export`)

    \b
    Exit codes: 0 all recorded or known before; 1 ingestion refused, quarantined or found in conflict some;
    2 rows were rejected, or mapping or file are wrong; 3 ingestion cannot be reached.
    """
    if mapping_file is None:
        _restore(ctx, data_path, data, output)
        return
    mapping = load_mapping(mapping_file)
    files = find_files(mapping, data_path, dict(named))
    folder = data_folder(data) / "imports"
    report_to = rejects or folder / f"{mapping.name}.rejects.ndjson"
    shown = is_terminal() if progress is None else progress
    with Bars(shown=shown) as bars:
        if dry_run:
            report, examples = count_only(mapping, files, report_to, only, bars)
        else:
            options = ImportOptions(folder, report_to, only, replace, restart, patience)

            async def main() -> ImportReport:
                async with Throughline(endpoints=find_endpoints(addresses, data), caller=caller) as client:
                    return await run_import(client.ingestion, mapping, files, options, bars)

            report, examples = asyncio.run(main()), []
    if output == "json":
        print_json({**report.as_dict(), **({"examples": [plain(each) for each in examples]} if dry_run else {})})
    else:
        _print_report(report, dry_run=dry_run)
        for example in examples:
            print_json(plain(example))
    if report.rejects_file:
        tell(f"what was not recorded, and why: {report.rejects_file}")
    if report.rejected:
        raise click.exceptions.Exit(BAD_INPUT)
    if report.troubled:
        raise click.exceptions.Exit(REFUSED)


def _restore(ctx: click.Context, folder: Path | None, data: Path | None, output: str) -> None:
    """What `throughline restore` does, which another package brings."""
    if folder is None or not (folder / "manifest.json").is_file():
        raise click.UsageError(
            "name a --mapping (--list shows those that ship), or a folder made by `throughline export`"
        )
    group = ctx.find_root().command
    command = group.get_command(ctx, "restore") if isinstance(group, click.Group) else None
    if command is None:
        raise click.UsageError("exports are put back by `throughline restore`, which is not installed here")
    ctx.invoke(command, folder=folder, keys_file=None, data=data, from_environment=False, output=output)


def _print_report(report: ImportReport, *, dry_run: bool) -> None:
    columns = ["import", "rows", "filtered", "rejected", "interactions"]
    ends = [] if dry_run else [name for name in Verdicts().as_dict() if name != "offered"]
    print_table(
        [*columns, *ends],
        [
            [
                each.name,
                each.counts.rows,
                each.counts.filtered,
                each.counts.rejected,
                each.counts.interactions,
                *(getattr(each.verdicts, end) for end in ends),
            ]
            for each in report.imports
        ],
        title=f"{report.mapping}: {'mapped, nothing sent' if dry_run else 'what became of it'}",
    )
