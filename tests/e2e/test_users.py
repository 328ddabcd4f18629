"""The whole suite on a bus where each service has a user of its own, with the fewest subjects."""

from __future__ import annotations

from pathlib import Path

import pytest
from line import connect, identifier, interaction

from throughline.ingestion.v1 import interaction_pb2
from throughline.scoring.v1 import events_pb2, scoring_pb2
from throughline_client.endpoints import SERVICES
from throughline_client.suite.suite import Suite
from throughline_eventlog import Connection, all_rights, relayed_logs, server_lines, stream_name, user_of
from throughline_testkit import eventually

pytestmark = pytest.mark.e2e

PREFIX = "CRM"


@pytest.mark.timeout(180)
async def test_the_whole_suite_runs_with_a_user_for_each_service(tmp_path: Path) -> None:
    """From an interaction to a scorecard, with every log and its proofs on the bus, and the server refuses nobody
    anything: nothing is missing in what `throughline bus permissions` says.
    """
    lines = server_lines(all_rights(prefix=PREFIX), {service: f'"{service} secret"' for service in SERVICES})
    suite = Suite(
        tmp_path / "suite",
        bus_lines=lines.replace("  users: [\n", '  users: [\n    {user: sees, password: "everything"}\n'),
        environment={
            "THROUGHLINE_STREAM_PREFIX": PREFIX,
            "THROUGHLINE_CHECKPOINT_SECONDS": "0.2",
            **{f"{service.upper()}_NATS_USER": user_of(service, PREFIX) for service in SERVICES},
            **{f"{service.upper()}_NATS_PASSWORD": f"{service} secret" for service in SERVICES},
        },
    )
    with suite:
        async with connect(suite) as line:
            await line.register()
            said = interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_NPS, score=9, verbatim="late delivery")
            (result,) = await line.record(
                [interaction(1, identifier("email", "mira@post.eu"), kind="survey", feedback=[said])]
            )
            assert result.interaction_id
            await line.settled()
            card = await line.scoring.GetScorecard(
                scoring_pb2.GetScorecardRequest(subject_kind=events_pb2.SUBJECT_KIND_CHANNEL, subject="web")
            )
            assert any(score.n for score in card.scores)
        sees = Connection(suite.bus.url, name="sees", user="sees", password="everything")
        async with sees:
            await sees.ready()
            for service in SERVICES:
                for log in relayed_logs(service):
                    await eventually(lambda log=log: _filled(sees, stream_name(log, prefix=PREFIX)), why=log)
        said_no = [line for line in suite.log_file("nats").read_text().splitlines() if "Violation" in line]
        assert not said_no


async def _filled(connection: Connection, stream: str) -> bool:
    return (await connection.stream(stream)).last_sequence > 0
