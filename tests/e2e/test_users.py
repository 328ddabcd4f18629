"""The whole suite with the fewest rights: each service a user of the bus and a role in PostgreSQL of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner
from line import connect, drop_schemas, identifier, interaction, postgres_environment
from psycopg import sql

from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import interaction_pb2
from throughline.scoring.v1 import events_pb2, scoring_pb2
from throughline_client.commands import main
from throughline_client.endpoints import SERVICES
from throughline_client.suite.suite import Suite
from throughline_eventlog import Connection, all_rights, relayed_logs, server_lines, stream_name, user_of
from throughline_testkit import eventually
from throughline_testkit.postgres import PostgresServer

pytestmark = pytest.mark.e2e

PREFIX = "CRM"


@contextmanager
def prepared(server: PostgresServer) -> Iterator[tuple[dict[str, str], dict[str, dict[str, str]]]]:
    """Roles and schemas as `throughline prepare --make-roles` makes them: what all services are told of the stores, and
    what each is told besides.
    """
    run = f"t_{uuid4().hex[:12]}"
    roles = {service: f"{run}_{service}" for service in SERVICES}
    of_all = {name: value for name, value in postgres_environment(server, run).items() if "USER" not in name}
    own = {
        service: {
            "POSTGRES_USER": role,
            "POSTGRES_PASSWORD": f"{service} secret",
            "PGPASSWORD": f"{service} secret",
            "THROUGHLINE_KEY_STORE": f"postgresql://{role}@{server.host}:{server.port}/{server.dbname}",
        }
        for service, role in roles.items()
    }
    passwords = {
        f"{service.upper()}_{name}": value
        for service, told in own.items()
        for name, value in told.items()
        if name.startswith("POSTGRES_")
    }
    told = {**of_all, **passwords, "POSTGRES_ADMIN_PASSWORD": server.password}
    try:
        made = CliRunner().invoke(main, ["prepare", "--admin", server.user, "--make-roles"], env=told)
        assert made.exit_code == 0, made.output
        yield of_all, own
    finally:
        drop_schemas(server, run)
        with server.connect() as connection:
            for role in roles.values():
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


@pytest.mark.timeout(240)
async def test_the_whole_suite_runs_with_the_fewest_rights(tmp_path: Path, postgres: PostgresServer) -> None:
    """From an interaction to a scorecard, and to a client who is forgotten, with every log and its proofs on the bus;
    neither server refuses anybody anything: nothing is missing in what `throughline bus permissions` says.
    """
    lines = server_lines(all_rights(prefix=PREFIX), {service: f'"{service} secret"' for service in SERVICES})
    with prepared(postgres) as (stores, own):
        suite = Suite(
            tmp_path / "suite",
            bus_lines=lines.replace("  users: [\n", '  users: [\n    {user: sees, password: "everything"}\n'),
            environment={
                **stores,
                "THROUGHLINE_STREAM_PREFIX": PREFIX,
                "THROUGHLINE_CHECKPOINT_SECONDS": "0.2",
                "IDENTITY_SWEEP_SECONDS": "0.1",
                **{f"{service.upper()}_NATS_USER": user_of(service, PREFIX) for service in SERVICES},
                **{f"{service.upper()}_NATS_PASSWORD": f"{service} secret" for service in SERVICES},
            },
            own_environment=own,
        )
        with suite:
            await _live(suite)
            sees = Connection(suite.bus.url, name="sees", user="sees", password="everything")
            async with sees:
                await sees.ready()
                for log in (log for service in SERVICES for log in relayed_logs(service)):
                    await eventually(lambda log=log: _filled(sees, stream_name(log, prefix=PREFIX)), why=log)
            # Streams that are there already are looked into, which a start on an empty bus does not do.
            suite.restart("journey")
            said_no = [line for line in suite.log_file("nats").read_text().splitlines() if "Violation" in line]
            assert not said_no


async def _live(suite: Suite) -> None:
    mail = identifier("email", "mira@post.eu")
    async with connect(suite) as line:
        await line.register()
        said = interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_NPS, score=9, verbatim="late delivery")
        (result,) = await line.record([interaction(1, mail, kind="survey", feedback=[said])])
        assert result.interaction_id
        await line.settled()
        card = await line.scoring.GetScorecard(
            scoring_pb2.GetScorecardRequest(subject_kind=events_pb2.SUBJECT_KIND_CHANNEL, subject="web")
        )
        assert any(score.n for score in card.scores)
        found = await line.identity.ResolveClient(identity_pb2.ResolveClientRequest(identifiers=[mail]))
        await line.identity.ForgetClient(
            identity_pb2.ForgetClientRequest(client_id=found.client_id, decided_by="test", reason="asked")
        )
        await line.settled()


async def _filled(connection: Connection, stream: str) -> bool:
    return (await connection.stream(stream)).last_sequence > 0
