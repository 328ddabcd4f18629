"""What a fresh machine relies on: one lock, complete, hashed, and tied to no place."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted([*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])


def _toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _declared(*groups: str) -> Iterator[str]:
    table = _toml(ROOT / "pyproject.toml")["dependency-groups"]
    for group in groups:
        for entry in table[group]:
            if isinstance(entry, str):
                yield _name(entry)
            else:
                yield from _declared(entry["include-group"])


def _locked() -> dict[str, str]:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE))
    return {_name(entry): entry for entry in entries}


def test_every_declared_dependency_is_locked_with_hashes() -> None:
    """What pyproject.toml asks for, requirements.lock pins to bytes."""
    locked = _locked()
    assert set(_declared("dev")) <= set(locked)
    assert [name for name, entry in locked.items() if "--hash=sha256:" not in entry] == []


def test_the_lock_names_no_index_and_no_machine() -> None:
    """Anyone's package index serves the lock."""
    for path in (ROOT / "requirements.lock", ROOT / ".config" / "uv.txt"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", text)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.parent.name)
def test_a_package_depends_only_on_what_is_declared_once(package: Path) -> None:
    """No package pins a version of its own or brings a dependency the workspace does not know."""
    declared = _toml(package)["project"].get("dependencies", [])
    requirements = [entry.split(";")[0].strip() for entry in declared]
    known = {*_declared("dev"), *(_name(_toml(path)["project"]["name"]) for path in PACKAGES)}
    assert {_name(requirement) for requirement in requirements} <= known
    assert [requirement for requirement in requirements if re.search(r"[<>=!~]", requirement)] == []
