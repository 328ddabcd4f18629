"""Law 10: no I/O, no clock, no randomness in `domain/`: time and ids arrive on the command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[2] / "services"
DOMAINS = sorted(SERVICES.glob("*/src/*/domain"))
# What a pure function can need. Everything else reads, waits, draws or talks.
PURE = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "hashlib",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "statistics",
    "string",
    "typing",
    "types",
    "unicodedata",
    "throughline_kernel",
}
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "breakpoint", "__import__"}


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name.partition(".")[0]) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").partition(".")[0]


def impurities(source: str, service: str) -> list[str]:
    """What in a domain file breaks the law."""
    tree = ast.parse(source)
    found = [f"line {line}: imports {package}" for line, package in imported(tree) if package not in PURE | {service}]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{service}."):
            layer = (node.module or "").split(".")[1]
            if layer != "domain":
                found.append(f"line {node.lineno}: reaches into {layer}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"line {node.lineno}: calls {node.func.id}")
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            found.append(f"line {node.lineno}: waits")
    return found


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.parent.name)
def test_law_10_the_domain_is_pure(domain: Path) -> None:
    """No domain file imports or calls anything that reads, waits, draws or talks."""
    service = domain.parent.name
    found = {
        str(file.relative_to(SERVICES)): broken
        for file in sorted(domain.rglob("*.py"))
        if (broken := impurities(file.read_text(), service))
    }
    assert found == {}


def test_every_service_has_a_domain() -> None:
    """The law is held against all five."""
    assert [domain.parent.name for domain in DOMAINS] == ["feedback", "identity", "ingestion", "journey", "scoring"]


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "def f():\n    import random",
        "from datetime import datetime",
        "from journey.adapters import store",
        "open('x')",
        "async def f(): ...",
    ],
)
def test_an_impure_line_is_seen(source: str) -> None:
    """The guard itself: each of these would be caught."""
    assert impurities(source, "journey")
