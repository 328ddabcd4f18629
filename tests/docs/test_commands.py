"""Every command in the README and the guides works as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from line import StartSuite

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
        # Who was forgotten by the commands before.
        "$GONE": "$(throughline forgotten -o json | grep -o '[0-9a-f]\\{32\\}' | head -n 1)",
        # Not household 1, of which other pages tell.
        "$CLIENT": "$(throughline resolve -i loyalty_card=500 -o json | grep -o '[0-9a-f]\\{32\\}' | head -n 1)",
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
