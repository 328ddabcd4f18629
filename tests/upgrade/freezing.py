"""Keeps this version's chart and an eventful data folder of it, for the next version to be installed over.

Run by `make freeze` when a version is out: what it writes into tests/upgrade/previous is what upgrades are tested from.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tarfile
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Final

import helm_python
from eventful import live
from line import connect

from throughline_client.suite.suite import Suite

ROOT: Final = Path(__file__).parents[2]
PREVIOUS: Final = Path(__file__).parent / "previous"
CHART: Final = "chart.tgz"
DATA: Final = "data.tar.xz"
DIGESTS: Final = "digests.json"
"""In the data folder: how each live state ended."""
SWEEPS: Final[tuple[str, ...]] = ("FEEDBACK_SWEEP_SECONDS", "IDENTITY_SWEEP_SECONDS", "JOURNEY_SWEEP_SECONDS")
KEPT: Final = ("*.db*", "*.json", "*.ndjson", "signing*")
PEOPLE: Final = 20
EVENTS: Final = 120


def freeze(chart: Path, into: Path) -> None:
    """Writes the chart, packed, and a packed data folder with the digests of its states."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        with helm_python.Chart.load(chart) as loaded:
            Path(loaded.save(place)).replace(into / CHART)
        folder = Path(place) / "data"
        folder.mkdir()
        # Everybody can read what is kept: these keys open nothing else.
        keys = {name: b64encode(name.encode()[:1] * 32).decode() for name in ("hash_key", "key_encryption_key")}
        (folder / "keys.json").write_text(json.dumps({**keys, "retired_key_encryption_keys": ""}))
        (folder / "keys.json").chmod(0o600)
        digests = asyncio.run(_lived(folder))
        (folder / DIGESTS).write_text(json.dumps(digests, indent=1))
        with tarfile.open(into / DATA, "w:xz") as packed:
            for file in sorted({file for pattern in KEPT for file in folder.glob(pattern)}):
                packed.add(file, file.name)


async def _lived(folder: Path) -> dict[str, str]:
    # Suites are started from the main thread, which lives as long as they do.
    with Suite(folder, environment=dict.fromkeys(SWEEPS, "0.1")) as suite:
        async with connect(suite) as line:
            await line.register()
            await live(line, people=PEOPLE, events=EVENTS)
    # Clocks decide no more: what is asked now is how it ended.
    with Suite(folder, environment=dict.fromkeys(SWEEPS, "3600")) as suite:
        async with connect(suite) as line:
            return await line.digests()


if __name__ == "__main__":
    freeze(ROOT / "charts" / "throughline", Path(sys.argv[1]) if len(sys.argv) > 1 else PREVIOUS)
