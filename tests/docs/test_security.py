"""What the page on security says is defended is defended: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"\| `(test_\w+)` \|$", re.MULTILINE)


def test_every_test_that_the_page_names_exists() -> None:
    """Once, and the table leaves no row without one."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    table = page.partition("| defended | test |")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    named = NAMED.findall(table)
    sources = [
        *ROOT.glob("tests/**/test_*.py"),
        *ROOT.glob("libs/*/tests/**/*.py"),
        *ROOT.glob("services/*/tests/**/*.py"),
    ]
    there = set(re.findall(r"def (test_\w+)\(", "\n".join(each.read_text(encoding="utf-8") for each in sources)))
    assert len(named) == len(rows) >= 20
    assert not set(named) - there
