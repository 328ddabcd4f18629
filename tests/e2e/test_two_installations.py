"""Two installations on one bus and in one database, told apart by their prefixes alone, as two releases may be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from line import Line, StartSuite, connect, identifier, interaction, postgres_environment, scattered_history

from throughline_client.endpoints import SERVICES
from throughline_client.suite.suite import Suite
from throughline_testkit.postgres import PostgresServer

pytestmark = pytest.mark.e2e


@pytest.fixture
def both(tmp_path: Path, postgres: PostgresServer, postgres_schema: str) -> Iterator[tuple[Suite, Suite]]:
    """Each with schemas and streams of its own name; the second has no bus but the first one's."""
    names = [f"{postgres_schema}_{name}" for name in ("one", "two")]
    first, second = (
        Suite(
            tmp_path / name,
            environment={**postgres_environment(postgres, name), "THROUGHLINE_STREAM_PREFIX": name.upper()},
        )
        for name in names
    )
    try:
        with first:
            second.environment = {**second.environment, "THROUGHLINE_NATS_URL": first.bus.url}
            with second:
                yield first, second
    finally:
        for name in names:
            for service in SERVICES:
                postgres.drop_schema(f"{name}_{service}")
                postgres.drop_schema(f"{name}_{service}_access")
            postgres.drop_schema(f"{name}_keys")


def replayed(suite: Suite) -> int:
    """Exit code of a replay through the services: 0 where every live state is that of its log."""
    script = "from throughline_client.commands import main; main()"
    asked = [sys.executable, "-c", script, "replay", "all", "--data", str(suite.folder)]
    return subprocess.run(asked, check=False, capture_output=True).returncode


async def test_two_installations_do_not_disturb_each_other(both: tuple[Suite, Suite], start_suite: StartSuite) -> None:
    """The same ids in both are no conflict; what one records, kills and catches up changes nothing in the other, whose
    state is what it would be alone.
    """
    first, second = both
    history = scattered_history(4, 20, 300)
    async with connect(first) as one, connect(second) as two:
        for line in (one, two):
            await line.register()
        await one.record(history)
        before = await one.digests()

        # Ids that the first has with other content, by somebody whom it knows under other identifiers.
        somebody = identifier("email", "p1@post.eu")
        other = [interaction(number, somebody, kind="search") for number in range(300)]
        await two.record(other[:150])
        first.kill("identity")
        await two.record(other[150:])
        await two.settled()
        first.restart("identity")

        assert await one.digests() == before
        assert await _told(one) == {"recorded": len(history), "conflict": 0}
        assert await _told(two) == {"recorded": len(other), "conflict": 0}
        after = await two.digests()
        await one.record([interaction("later", somebody)])
        await one.settled()
        assert await two.digests() == after
    assert [replayed(suite) for suite in both] == [0, 0]
    async with connect(start_suite("alone", keys_of=second)) as alone:
        await alone.register()
        await alone.record(other)
        assert await alone.digests() == after


async def _told(line: Line) -> dict[str, int]:
    tallies = (await line.tallies()).values()
    assert all(
        each.offered == each.recorded + each.duplicate + each.conflict + each.quarantined + each.refused
        for each in tallies
    )
    return {
        "recorded": sum(each.recorded for each in tallies),
        "conflict": sum(each.conflict for each in tallies),
    }
