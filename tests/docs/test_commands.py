"""Every command in the README and the guides works as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from line import StartSuite

from throughline_client.commands import main
from throughline_client.suite.suite import Suite
from throughline_demo.households import write_households

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Run elsewhere: this run is `make test`; the demo and `up` have tests of their own below.
ELSEWHERE = {"make demo", "make test", "throughline up --data .throughline &"}


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line in a `sh` block, comments left out."""
    found = [
        (page.name, line.partition(" # ")[0].strip())
        for page in PAGES
        for block in FENCE.findall(page.read_text())
        for line in block.splitlines()
    ]
    return [(page, command) for page, command in found if command and not command.startswith("#")]


def remembered(file: Path, command: str, field: str) -> str:
    """In a shell, the first id in this field of what the command said when it was first asked."""
    told = f'throughline {command} -o json | grep -o \'"{field}": *"[0-9a-f]*"\''
    find = f"{told} | grep -o '[0-9a-f]\\{{32\\}}' | head -n 1"
    return f"$(test -s {file} || {find} > {file}; cat {file})"


def leaves(command: click.Command, path: tuple[str, ...] = ("throughline",)) -> Iterator[str]:
    """Every command that does something, as it is typed."""
    if not isinstance(command, click.Group):
        yield " ".join(path)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


def test_every_command_stands_in_a_page() -> None:
    """In a block that the test below runs: whoever adds a command writes how it is used."""
    written = [f"{command} " for _, command in commands()]
    missing = [leaf for leaf in leaves(main) if not any(f"{leaf} " in command for command in written)]
    assert not missing


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of five real households, household 1 among them."""
    folder = tmp_path_factory.mktemp("tables")
    write_households(folder, 5)
    return folder


@pytest.mark.timeout(600)
def test_every_command_in_the_pages_works(start_suite: StartSuite, tables: Path) -> None:
    """In the order of the pages, against a suite that runs, each ends with exit code 0 and says something."""
    suite: Suite = start_suite()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "THROUGHLINE_DATA": str(suite.folder),
    }
    stand_for = {
        "TABLES": tables,
        "BACKUP": suite.folder / "backup",
        "RESTORED": suite.folder / "restored",
        "WHOLE": suite.folder / "whole",
        "REHEARSAL": suite.folder / "rehearsal",
        "RULES": suite.folder / "rules.json",
        "RETENTION": suite.folder / "retention.json",
        "CERTIFICATE": suite.folder / "certificate",
        "EVIDENCE.zip": suite.folder / "evidence.zip",
        "RANGE.zip": suite.folder / "range.zip",
        "ALL_ACCESS.zip": suite.folder / "all.zip",
        "ACCESS.zip": suite.folder / "access.zip",
        "SCORE.zip": suite.folder / "score.zip",
        "SCORE_ID": suite.folder / "score-id",
        "LATER.zip": suite.folder / "later.zip",
        "VERIFIER_KEYS": suite.folder / "verifier-keys",
        "CHECKPOINTS": suite.folder / "checkpoints",
        "VISITS": suite.folder / "visits",
        "HANDOFF": suite.folder / "handoff",
        "JOURNEY": suite.folder / "journey.json",
        "METRIC": suite.folder / "metric.json",
        "SIGNERS": suite.folder / "signers",
        "INTERACTION.zip": suite.folder / "interaction.zip",
        # Who was forgotten by the commands before.
        "$GONE": "$(throughline forgotten -o json | grep -o '[0-9a-f]\\{32\\}' | head -n 1)",
        # Not household 1, of which other pages tell.
        "$CLIENT": "$(throughline resolve -i loyalty_card=500 -o json | grep -o '[0-9a-f]\\{32\\}' | head -n 1)",
        "$ONE": remembered(suite.folder / "one", "resolve -i loyalty_card=77", "client_id"),
        "$OTHER": remembered(suite.folder / "other", "resolve -i loyalty_card=78", "client_id"),
        "$INTERACTION": remembered(suite.folder / "interaction", "history -i loyalty_card=77", "interaction_id"),
        "$CASE": remembered(suite.folder / "case", "inbox delivery", "case_id"),
        "$MERGE": remembered(suite.folder / "merge", f"client $(cat {suite.folder / 'one'})", "merge_id"),
        "$TOKEN": f"$(grep token {suite.folder / 'handoff'} | cut -d '\"' -f 4)",
        "$SCORE": "$(throughline scorecard all -o json | grep score_id | head -n 1 | cut -d '\"' -f 4)",
        ".throughline/keys.json": suite.folder / "keys.json",
        ".throughline/signing.keys": suite.folder / "signing.keys",
    }
    listed = commands()
    assert {command for _, command in listed} >= ELSEWHERE
    for page, command in listed:
        if command in ELSEWHERE:
            continue
        written = command
        for name, path in stand_for.items():
            written = written.replace(name, str(path))
        run = subprocess.run(
            ["/bin/bash", "-c", written],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert run.returncode == 0, f"{page}: {command}\n{run.stderr}"
        assert run.stdout.strip(), f"{page}: {command} says nothing"


@pytest.mark.timeout(300)
def test_the_demo_runs_and_checks_what_it_shows(tmp_path: Path) -> None:
    """A small demo imports, shows, compares with the tables and the logs, and ends with exit code 0."""
    run = subprocess.run(
        [sys.executable, "-m", "throughline_demo", "--households", "12", "--data", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert "DIFFERENT" not in run.stdout
    assert run.stdout.count("equal") >= 15
