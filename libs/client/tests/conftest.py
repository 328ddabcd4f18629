"""One suite for the whole run, and the command run against it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

import pytest
from click.testing import CliRunner, Result

from throughline.ingestion.v1 import interaction_pb2
from throughline_client import Throughline
from throughline_client.commands import main
from throughline_client.suite import Suite
from throughline_testkit import eventually_sync

START = 1_700_000_000_000_000
HOUR = 3_600_000_000

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """Five real services on a real bus. A test that ends one of them starts it again."""
    with Suite(tmp_path_factory.mktemp("suite")) as started:
        yield started


@pytest.fixture
async def client(suite: Suite) -> AsyncIterator[Throughline]:
    """A client of the suite, with the channels `web` and `phone` and the source `desk` registered."""
    async with Throughline(data=suite.folder) as connected:
        await connected.ingestion.register_channel("web", interaction_pb2.ChannelTraits(name="Web", group="site"))
        await connected.ingestion.register_channel("phone", interaction_pb2.ChannelTraits(name="Phone", assisted=True))
        await connected.ingestion.register_source("desk", "Desk")
        yield connected


@pytest.fixture
def run(suite: Suite) -> Run:
    """Runs `throughline` with the suite's data folder; an unexpected exception fails the test."""

    def invoke(*arguments: str, text: str | None = None) -> Result:
        environment = {"THROUGHLINE_DATA": str(suite.folder), "COLUMNS": "200"}
        return CliRunner().invoke(main, list(arguments), input=text, env=environment, catch_exceptions=False)

    return invoke


@pytest.fixture
def run_until(run: Run) -> Callable[..., Result]:
    """Runs a command until it ends with 0: what was recorded just now reaches the other services in its own time."""

    def invoke(*arguments: str) -> Result:
        def attempt() -> Result | None:
            result = run(*arguments)
            assert result.exit_code == 0, result.output
            return result

        result = eventually_sync(attempt, 60.0, why=" ".join(arguments))
        assert result is not None
        return result

    return invoke


class MakeVisit(Protocol):
    """Makes a small interaction of the source `desk`."""

    def __call__(
        self, number: int, *, mail: str = "", channel: str = "web", **fields: object
    ) -> interaction_pb2.Interaction: ...


@pytest.fixture(scope="session")
def visit() -> MakeVisit:
    """Makes a small interaction of the source `desk`, by whom the mail address says."""

    def make(number: int, *, mail: str = "", channel: str = "web", **fields: object) -> interaction_pb2.Interaction:
        made = interaction_pb2.Interaction(
            source="desk",
            source_interaction_id=f"{mail or 'anonymous'}-{number}",
            channel=channel,
            kind="visit",
            occurred_at=START + number * HOUR,
            **fields,  # pyright: ignore[reportArgumentType] -- fields of the message
        )
        if mail:
            made.identifiers.add(type="email", value=mail, assurance=interaction_pb2.ASSURANCE_VERIFIED)
        return made

    return make
