"""`make demo`: starts the whole suite, imports a real year and a scripted client, shows it, checks it, stops.

Everything that is shown comes from the `throughline` command, printed above its output, so that each step can be
repeated by hand. What is checked is checked against the retailer's own tables and against a replay of the logs alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from throughline.ingestion.v1 import ingestion_pb2_grpc
from throughline_client.suite.suite import Suite, SuiteError
from throughline_demo.households import Truth, first_redeemer, write_households
from throughline_demo.story import PHONE, registrations, story
from throughline_rpc import open_channel

ALL_HOUSEHOLDS: Final = 2_469
SETTLING_SECONDS: Final = "1800"
console = Console(width=None if sys.stdout.isatty() else 140)


class DemoError(click.ClickException):
    """A step did not do what it should."""


_COMMAND = str(Path(sys.executable).with_name("throughline"))


@click.command()
@click.option("--households", default=300, show_default=True, help="How many of the retailer's households.")
@click.option("--all", "everyone", is_flag=True, help=f"All {ALL_HOUSEHOLDS:,} households.")
@click.option(
    "--data",
    default=Path(".throughline/demo"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the suite keeps its data; emptied first.",
)
def demo(households: int, everyone: bool, data: Path) -> None:
    """The whole suite on this machine: imports, shows, checks, stops. Exit code 1 where a check fails."""
    started = time.monotonic()
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    with _waiting("choosing households from a real retailer's year"):
        truth = write_households(data / "tables", ALL_HOUSEHOLDS if everyone else households)
    try:
        suite = Suite(data)
        with _waiting("starting nats-server (JetStream, fsync always) and five services on SQLite"):
            suite.start()
        try:
            _tell(suite, truth)
        finally:
            suite.stop()
    except SuiteError as error:
        raise DemoError(str(error)) from error
    console.print(f"\nAll checks passed; everything is stopped. {time.monotonic() - started:.0f} s. Data: {data}")


def _tell(suite: Suite, truth: Truth) -> None:
    _heading(f"1. Three channel systems report the year of {truth.households} households (real data)")
    _show(suite, "import", "--mapping", "complete_journey", str(suite.folder / "tables"))
    _heading("2. Six channels report one client (scripted by us, and marked as such)")
    asyncio.run(_register(suite))
    _show(suite, "record", str(_write_story(suite.folder)))
    _heading("3. What each source offered, and what became of it, once every service has taken everything")
    _show(suite, "status", "--wait", SETTLING_SECONDS)
    _check_account(suite, truth)

    mira = _resolve(suite, f"phone={PHONE}")
    _heading("4. The scripted client: eight interactions, five identifiers, one history over all five logs")
    _show(suite, "replay", "client", mira)
    _heading("5. What the call centre would be told now")
    _show(suite, "resume", "--identifier", f"phone={PHONE}", "--channel", "call_centre")
    card, household = _a_household(suite)
    _heading(f"6. One real household (card {card}): the beginning and the end of its year")
    _show(suite, "replay", "client", household, ends=9)
    _heading("7. Channels, the worst in the headline")
    _show(suite, "scorecards", "channel")
    _heading("8. Credit for purchases and redeemed coupons, over the touches before them")
    _show(suite, "attribution", ends=9)
    _heading("9. The live state, and the state replayed from the log files alone")
    _show(suite, "replay", "all", "--from-files")
    _check_sales(suite, truth)
    _heading("10. Evidence of the scripted client, and its verification, offline, by the keys that an auditor has")
    evidence, keys = str(suite.folder / "evidence.zip"), str(suite.folder / "verifier-keys")
    _show(suite, "audit", "client", mira, "--to", evidence)
    public = [_COMMAND, "signing", "public", str(suite.folder / "signing.keys")]
    Path(keys).write_text(subprocess.run(public, check=True, capture_output=True, text=True).stdout, encoding="utf-8")
    _show(None, "verify", evidence, "--key", keys)


def _throughline(suite: Suite | None, *arguments: str) -> list[str]:
    """The command line, on a suite's data where the command needs one."""
    return [_COMMAND, *arguments, *(() if suite is None else ("--data", str(suite.folder)))]


def _show(suite: Suite | None, *arguments: str, ends: int = 0) -> None:
    """Runs the command as a person would; with `ends`, shows that many lines of its beginning and of its end."""
    console.print(f"\n[bold]$ throughline {shlex.join(arguments)}[/bold]", highlight=False)
    environment = {**os.environ, "COLUMNS": str(console.width)}
    if ends:
        run = subprocess.run(
            _throughline(suite, *arguments), env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
        lines = run.stdout.splitlines()
        if len(lines) > 2 * ends:
            left_out = len(lines) - 2 * ends
            lines = [*lines[:ends], f"  ... {left_out} more lines ...", *lines[-ends:]]
        click.echo("\n".join(lines))
    else:
        sys.stdout.flush()
        run = subprocess.run(_throughline(suite, *arguments), env=environment, check=False)
    if run.returncode:
        raise DemoError(f"`throughline {' '.join(arguments)}` ended with exit code {run.returncode}")


def _ask(suite: Suite, *arguments: str) -> Any:
    run = subprocess.run(
        _throughline(suite, *arguments, "--output", "json"), stdout=subprocess.PIPE, text=True, check=False
    )
    if run.returncode:
        raise DemoError(f"`throughline {' '.join(arguments)}` ended with exit code {run.returncode}")
    return json.loads(run.stdout)


async def _register(suite: Suite) -> None:
    channels, sources = registrations()
    async with open_channel(suite.addresses["ingestion"]) as channel:
        ingestion = ingestion_pb2_grpc.IngestionServiceStub(channel)
        for request in channels:
            await ingestion.RegisterChannel(request)
        for request in sources:
            await ingestion.RegisterSource(request)


def _write_story(folder: Path) -> Path:
    file = folder / "story.ndjson"
    lines: list[str] = []
    for interaction in story(time.time_ns() // 1_000):
        attributes = json.loads(interaction.attributes)
        interaction.ClearField("attributes")
        told = MessageToDict(interaction, preserving_proto_field_name=True)
        lines.append(json.dumps({**told, "attributes": attributes}))
    file.write_text("\n".join(lines) + "\n")
    return file


def _resolve(suite: Suite, identifier: str) -> str:
    return str(_ask(suite, "resolve", "--identifier", identifier)["client_id"])


def _a_household(suite: Suite) -> tuple[int, str]:
    """The first household that redeemed a coupon: it has all three channels in its year."""
    card = first_redeemer(suite.folder / "tables")
    return card, _resolve(suite, f"loyalty_card={card}")


def _check_account(suite: Suite, truth: Truth) -> None:
    tallies = {tally["source"]: tally for tally in _ask(suite, "status")["tallies"]}
    ends = ("recorded", "duplicate", "conflict", "quarantined", "refused")
    _check(
        "offered = recorded + duplicate + conflict + quarantined + refused, for every source",
        [(name, int(tally["offered"]), sum(int(tally[end]) for end in ends)) for name, tally in tallies.items()],
    )
    story_at_the_till = 1
    _check(
        "recorded, against the retailer's own tables",
        [
            (
                "till: baskets (and one purchase of the story)",
                tallies["till"]["recorded"],
                truth.baskets + story_at_the_till,
            ),
            ("direct_mail: mailings", tallies["direct_mail"]["recorded"], truth.mailings),
            ("checkout: redemptions", tallies["checkout"]["recorded"], truth.redemptions),
        ],
    )


def _check_sales(suite: Suite, truth: Truth) -> None:
    scores = _ask(suite, "scorecard", "source", "till")["scores"]
    dollars = next(score for score in scores if score["metric"] == "value" and score["unit"] == "USD")
    _check(
        "sales to the cent, against the retailer's own tables",
        [("till: sales in cents", round(float(dollars["value"]) * 100), truth.sales_cents)],
    )


def _check(what: str, rows: Sequence[tuple[str, Any, Any]]) -> None:
    """Prints what was found beside what is true. Raises DemoError where a row differs."""
    table = Table(title=f"Check: {what}", title_justify="left")
    for column, justify in (("", "left"), ("Throughline", "right"), ("should be", "right"), ("", "left")):
        table.add_column(column, justify="right" if justify == "right" else "left")
    wrong = [name for name, found, true in rows if int(found) != int(true)]
    for name, found, true in rows:
        table.add_row(name, f"{int(found):,}", f"{int(true):,}", "DIFFERENT" if name in wrong else "equal")
    console.print()
    console.print(table)
    if wrong:
        raise DemoError(f"{what}: {', '.join(wrong)}")


def _heading(text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}", align="left")


def _waiting(text: str) -> Progress:
    progress = Progress(
        SpinnerColumn(), TextColumn(text), BarColumn(pulse_style="cyan"), TimeElapsedColumn(), console=console
    )
    progress.add_task(text, total=None)
    return progress


if __name__ == "__main__":
    demo()
