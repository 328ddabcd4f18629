"""The whole line under test: five services as processes on one bus, and what tests ask of them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from throughline.eventlog.v1 import eventlog_pb2, eventlog_pb2_grpc
from throughline.feedback.v1 import feedback_pb2_grpc
from throughline.identity.v1 import identity_pb2_grpc
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc, interaction_pb2
from throughline.journey.v1 import journey_pb2_grpc
from throughline.scoring.v1 import scoring_pb2_grpc
from throughline_client.endpoints import SERVICES
from throughline_client.sdk.settling import behind
from throughline_client.suite.suite import Suite
from throughline_rpc import open_channel
from throughline_testkit import eventually
from throughline_testkit.postgres import PostgresServer

CHANNELS = {
    "web": interaction_pb2.ChannelTraits(name="Web", group="site"),
    "store": interaction_pb2.ChannelTraits(name="Store", physical=True, assisted=True, group="store"),
    "phone": interaction_pb2.ChannelTraits(name="Phone", assisted=True, group="contact_centre"),
}
DAY = 86_400_000_000
START = 1_700_000_000_000_000
SETTLING = 60.0


@dataclass(frozen=True)
class Line:
    """Stubs to a running suite."""

    suite: Suite
    ingestion: ingestion_pb2_grpc.IngestionServiceStub
    identity: identity_pb2_grpc.IdentityServiceStub
    journey: journey_pb2_grpc.JourneyServiceStub
    feedback: feedback_pb2_grpc.FeedbackServiceStub
    scoring: scoring_pb2_grpc.ScoringServiceStub
    logs: dict[str, eventlog_pb2_grpc.EventLogServiceStub]

    async def register(self) -> None:
        """Registers the channels and the sources `web`, `till` and `telephony`."""
        for channel, traits in CHANNELS.items():
            await self.ingestion.RegisterChannel(ingestion_pb2.RegisterChannelRequest(channel=channel, traits=traits))
        for source in ("web", "till", "telephony"):
            await self.ingestion.RegisterSource(ingestion_pb2.RegisterSourceRequest(source=source, name=source))

    async def record(
        self, interactions: Iterable[interaction_pb2.Interaction], size: int = 500
    ) -> list[ingestion_pb2.InteractionResult]:
        """Records in batches; one result per interaction, in order."""
        offered = list(interactions)
        results: list[ingestion_pb2.InteractionResult] = []
        for start in range(0, len(offered), size):
            answer = await self.ingestion.RecordInteractions(
                ingestion_pb2.RecordInteractionsRequest(interactions=offered[start : start + size])
            )
            results.extend(answer.results)
        return results

    async def checkpoints(self, *, digest: bool = False) -> dict[str, eventlog_pb2.GetCheckpointResponse]:
        """Every service's checkpoint."""
        return {
            name: await stub.GetCheckpoint(eventlog_pb2.GetCheckpointRequest(digest=digest))
            for name, stub in self.logs.items()
        }

    async def settled(self, seconds: float = SETTLING) -> dict[str, eventlog_pb2.GetCheckpointResponse]:
        """Waits until everything recorded has reached everyone, then gives the checkpoints."""

        async def quiet() -> dict[str, eventlog_pb2.GetCheckpointResponse]:
            now = await self.checkpoints()
            return {} if behind(now) else now

        return await eventually(quiet, seconds, why="some service has not taken everything")

    async def digests(self) -> dict[str, str]:
        """The digest of every service's live state, once everything has reached everyone."""
        await self.settled()
        return {name: checkpoint.digest for name, checkpoint in (await self.checkpoints(digest=True)).items()}

    async def tallies(self) -> dict[str, eventlog_pb2.Tally]:
        """What each source offered and what became of it."""
        answer = await self.ingestion.GetTallies(ingestion_pb2.GetTalliesRequest())
        return {tally.source: tally for tally in answer.tallies}


class StartSuite(Protocol):
    """Starts a suite on a data folder of its own, with the keys of another where it is to be the same installation."""

    def __call__(self, name: str = "suite", *, keys_of: Suite | None = None) -> Suite: ...


@asynccontextmanager
async def connect(suite: Suite) -> AsyncIterator[Line]:
    """Stubs to a suite that runs."""
    async with AsyncExitStack() as channels:
        to = {
            name: await channels.enter_async_context(open_channel(suite.addresses[name], credentials=suite.credentials))
            for name in {*SERVICES, *suite.parts}
        }
        yield Line(
            suite,
            ingestion_pb2_grpc.IngestionServiceStub(to["ingestion"]),
            identity_pb2_grpc.IdentityServiceStub(to["identity"]),
            journey_pb2_grpc.JourneyServiceStub(to["journey"]),
            feedback_pb2_grpc.FeedbackServiceStub(to["feedback"]),
            scoring_pb2_grpc.ScoringServiceStub(to["scoring"]),
            {name: eventlog_pb2_grpc.EventLogServiceStub(to[name]) for name in suite.parts},
        )


def postgres_environment(server: PostgresServer, run: str) -> dict[str, str]:
    """What puts a suite's logs and key store into a PostgreSQL server, into schemas that begin with `run`."""
    environment = server.environment("")
    del environment["POSTGRES_SCHEMA"]
    place = f"postgresql://{server.user}@{server.host}:{server.port}/{server.dbname}"
    return {
        **environment,
        **{f"{service.upper()}_POSTGRES_SCHEMA": f"{run}_{service}" for service in SERVICES},
        "THROUGHLINE_KEY_STORE": place,
        "THROUGHLINE_KEY_STORE_SCHEMA": f"{run}_keys",
    }


def leave_gaps(server: PostgresServer, run: str) -> None:
    """As transactions do that took positions and were rolled back: before every event, two positions are nobody's."""
    with server.connect() as connection:
        named = connection.execute(
            "SELECT format('%%I.%%I', schemaname, sequencename) FROM pg_sequences WHERE schemaname LIKE %s",
            (f"{run}_%",),
        ).fetchall()
        for (sequence,) in named:
            connection.execute(f"ALTER SEQUENCE {sequence} INCREMENT BY 3".encode())


def drop_schemas(server: PostgresServer, run: str) -> None:
    """Deletes the schemas whose names begin with `run`."""
    with server.connect() as connection:
        named = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", (f"{run}_%",)).fetchall()
    for (schema,) in named:
        server.drop_schema(schema)


def identifier(kind: str, value: str, *, verified: bool = True) -> interaction_pb2.Identifier:
    """An identifier, verified unless said otherwise."""
    assurance = interaction_pb2.ASSURANCE_VERIFIED if verified else interaction_pb2.ASSURANCE_CLAIMED
    return interaction_pb2.Identifier(type=kind, value=value, assurance=assurance)


def interaction(
    number: int | str,
    *identifiers: interaction_pb2.Identifier,
    source: str = "web",
    channel: str = "web",
    kind: str = "visit",
    at: int = START,
    **more: object,
) -> interaction_pb2.Interaction:
    """A valid interaction with id `number` of its source."""
    return interaction_pb2.Interaction(
        source=source,
        source_interaction_id=str(number),
        channel=channel,
        kind=kind,
        occurred_at=at,
        identifiers=identifiers,
        **more,  # pyright: ignore[reportArgumentType] -- fields of Interaction
    )


def scattered_history(seed: int, people: int, events: int) -> list[interaction_pb2.Interaction]:
    """People seen on three channels under cookies, e-mails, phones and cards, with feedback, matters and purchases.

    Some devices are shared, some visits are anonymous, and several identifiers meet only late.
    """
    rng = random.Random(seed)
    made: list[interaction_pb2.Interaction] = []
    for number in range(events):
        person = rng.randrange(people)
        at = START + rng.randrange(60 * DAY)
        match rng.randrange(6):
            case 0:
                made.append(interaction(number, identifier("cookie", f"c{person}", verified=False), at=at))
            case 1:
                made.append(
                    interaction(
                        number,
                        identifier("cookie", f"c{person // 2}", verified=False),
                        identifier("email", f"p{person}@post.eu"),
                        at=at,
                        kind="login",
                    )
                )
            case 2:
                made.append(
                    interaction(
                        number,
                        identifier("loyalty_card", f"92{person:06}"),
                        source="till",
                        channel="store",
                        kind="purchase",
                        at=at,
                        value=interaction_pb2.Money(micros=rng.randrange(1, 90) * 1_000_000, currency="EUR"),
                    )
                )
            case 3:
                made.append(
                    interaction(
                        number,
                        identifier("phone", f"+49151{person:07}"),
                        source="telephony",
                        channel="phone",
                        kind="call",
                        at=at,
                        matter=rng.choice(["delivery", "invoice", "returns"]),
                        wait_time=rng.randrange(600) * 1_000_000,
                    )
                )
            case 4:
                made.append(
                    interaction(
                        number,
                        identifier("email", f"p{person}@post.eu"),
                        identifier("loyalty_card", f"92{person:06}"),
                        identifier("phone", f"+49151{person:07}"),
                        at=at,
                        kind="survey",
                        feedback=[
                            interaction_pb2.Feedback(
                                kind=interaction_pb2.FEEDBACK_KIND_NPS,
                                score=rng.randrange(11),
                                verbatim=rng.choice(["late delivery again", "all good", "wrong invoice", ""]),
                                solicited=True,
                            )
                        ],
                    )
                )
            case _:
                made.append(interaction(number, at=at))
    return made


def shuffled(
    seed: int, interactions: Sequence[interaction_pb2.Interaction], repeats: int
) -> list[interaction_pb2.Interaction]:
    """The same interactions in another order, some of them repeated."""
    rng = random.Random(seed)
    again = [*interactions, *rng.sample(list(interactions), repeats)]
    rng.shuffle(again)
    return again
