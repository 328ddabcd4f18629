"""How much is measured."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make bench ARGS='--bench-size full --interactions 1000000'`."""
    parser.addoption("--bench-size", choices=["tiny", "small", "full"], default="small", help="How much of each load.")
    parser.addoption(
        "--interactions", type=int, default=0, help="Interactions in the logs when memory and replay are measured."
    )
    parser.addoption("--only", action="append", default=[], help="Only this section; may be repeated.")
