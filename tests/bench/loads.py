"""A retailer's traffic over five channels, made fast and the same every time, and kept as requests ready to send."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2

CHANNELS: Final = {
    "web": interaction_pb2.ChannelTraits(name="Web shop", group="site"),
    "app": interaction_pb2.ChannelTraits(name="App", group="site"),
    "store": interaction_pb2.ChannelTraits(name="Store", physical=True, assisted=True, group="store"),
    "phone": interaction_pb2.ChannelTraits(name="Call centre", assisted=True, group="contact_centre"),
    "email": interaction_pb2.ChannelTraits(name="E-mail", group="mail"),
}
SOURCES: Final = ("web_shop", "app", "till", "telephony", "mailer", "surveys")
PER_CLIENT: Final = 10
START: Final = 1_735_689_600_000_000
STEP: Final = 60_000_000
CLAIMED: Final = interaction_pb2.ASSURANCE_CLAIMED
VERIFIED: Final = interaction_pb2.ASSURANCE_VERIFIED
MATTERS: Final = ("delivery", "invoice", "returns", "opening_hours")
WORDS: Final = ("late again", "all good", "wrong invoice", "friendly staff", "the site was slow")

_LENGTH: Final = struct.Struct("<I")

Identifier = interaction_pb2.Identifier
Interaction = interaction_pb2.Interaction
Money = interaction_pb2.Money


def email_of(seed: int, person: int) -> str:
    """The e-mail address of a client of a load."""
    return f"p{seed}.{person}@post.eu"


def clients_of(events: int) -> int:
    """How many clients a load of that many events has."""
    return max(1, events // PER_CLIENT)


def load(seed: int, events: int) -> Iterator[Interaction]:
    """About ten interactions of each client, in time but for a few that come late; one in twenty carries feedback."""
    rng = random.Random(seed)
    people = clients_of(events)
    draw, below = rng.random, rng.randrange
    for number in range(events):
        person = below(people)
        at = START + number * STEP + below(STEP)
        if draw() < 0.02:
            at -= below(3_600_000_000)
        key = f"{rng.getrandbits(96):024x}"
        # People have habits: six of ten contacts are of the kind that is theirs.
        kind = person * 0.618_034 % 1 if draw() < 0.6 else draw()
        if kind < 0.35:
            yield _visit(key, at, seed, person, signed_in=draw() < 0.4)
        elif kind < 0.60:
            yield _purchase(key, at, seed, person, below(1, 20_000) * 10_000)
        elif kind < 0.70:
            yield _call(key, at, seed, person, matter=MATTERS[below(4)], wait=below(600) * 1_000_000)
        elif kind < 0.80:
            yield _app(key, at, seed, person)
        elif kind < 0.95:
            yield _mailing(key, at, seed, person, below(40))
        else:
            yield _survey(key, at, seed, person, score=below(11), words=WORDS[below(5)])


def probe(seed: int, person: int, number: int) -> Interaction:
    """One more visit of a client that is watched."""
    return Interaction(
        source="web_shop",
        source_interaction_id=f"probe-{seed}-{person}-{number}",
        channel="web",
        kind="visit",
        occurred_at=START + number * STEP,
        identifiers=[Identifier(type="email", value=email_of(seed, person), assurance=VERIFIED)],
    )


def _visit(key: str, at: int, seed: int, person: int, *, signed_in: bool) -> Interaction:
    identifiers = [Identifier(type="cookie", value=f"c-{seed}-{person}", assurance=CLAIMED)]
    if signed_in:
        identifiers.append(Identifier(type="email", value=email_of(seed, person), assurance=VERIFIED))
    return Interaction(
        source="web_shop",
        source_interaction_id=key,
        channel="web",
        touchpoint="product_page",
        kind="visit",
        occurred_at=at,
        identifiers=identifiers,
        session_id=key[:12],
        attributes=b'{"device":"phone","pages":4}',
    )


def _purchase(key: str, at: int, seed: int, person: int, micros: int) -> Interaction:
    return Interaction(
        source="till",
        source_interaction_id=key,
        channel="store",
        touchpoint="till",
        kind="purchase",
        occurred_at=at,
        identifiers=[Identifier(type="loyalty_card", value=f"9{seed:03}{person:08}", assurance=VERIFIED)],
        location_id=f"store-{person % 50}",
        staff_id=f"staff-{person % 211}",
        outcome="completed",
        value=Money(micros=micros, currency="EUR"),
        attributes=b'{"lines":7}',
    )


def _call(key: str, at: int, seed: int, person: int, *, matter: str, wait: int) -> Interaction:
    return Interaction(
        source="telephony",
        source_interaction_id=key,
        channel="phone",
        touchpoint="inbound_call",
        kind="call",
        occurred_at=at,
        identifiers=[Identifier(type="phone", value=f"+49151{seed % 10}{person:07}", assurance=VERIFIED)],
        conversation_id=key[:16],
        matter=matter,
        outcome="resolved",
        staff_id=f"agent-{person % 97}",
        wait_time=wait,
        handling_time=240_000_000,
        cost=Money(micros=4_200_000, currency="EUR"),
        exchanges=[
            interaction_pb2.Exchange(
                question="order_number", answer=key[:8], sensitivity=interaction_pb2.SENSITIVITY_OPERATIONAL
            )
        ],
    )


def _app(key: str, at: int, seed: int, person: int) -> Interaction:
    return Interaction(
        source="app",
        source_interaction_id=key,
        channel="app",
        touchpoint="home",
        kind="visit",
        occurred_at=at,
        identifiers=[
            Identifier(type="device", value=f"d-{seed}-{person}", assurance=CLAIMED),
            Identifier(type="email", value=email_of(seed, person), assurance=VERIFIED),
        ],
        session_id=key[:12],
    )


def _mailing(key: str, at: int, seed: int, person: int, campaign: int) -> Interaction:
    return Interaction(
        source="mailer",
        source_interaction_id=key,
        channel="email",
        touchpoint="newsletter",
        kind="campaign_sent",
        occurred_at=at,
        identifiers=[Identifier(type="email", value=email_of(seed, person), assurance=CLAIMED)],
        campaign_id=f"campaign-{campaign}",
    )


def _survey(key: str, at: int, seed: int, person: int, *, score: int, words: str) -> Interaction:
    return Interaction(
        source="surveys",
        source_interaction_id=key,
        channel="email",
        touchpoint="after_contact",
        kind="survey",
        occurred_at=at,
        identifiers=[
            Identifier(type="email", value=email_of(seed, person), assurance=VERIFIED),
            Identifier(type="loyalty_card", value=f"9{seed:03}{person:08}", assurance=VERIFIED),
            Identifier(type="phone", value=f"+49151{seed % 10}{person:07}", assurance=VERIFIED),
        ],
        feedback=[
            interaction_pb2.Feedback(
                kind=interaction_pb2.FEEDBACK_KIND_NPS, score=score, verbatim=words, solicited=True
            )
        ],
    )


def write_requests(path: Path, interactions: Iterable[Interaction], size: int) -> int:
    """Writes requests of `size` interactions each (0: one per unary call), serialised, each behind its length.

    Answers how many interactions there are.
    """
    count = 0
    with path.open("wb") as file:
        batch: list[Interaction] = []
        for each in interactions:
            count += 1
            if not size:
                _put(file, ingestion_pb2.RecordInteractionRequest(interaction=each).SerializeToString())
                continue
            batch.append(each)
            if len(batch) == size:
                _put(file, ingestion_pb2.RecordInteractionsRequest(interactions=batch).SerializeToString())
                batch = []
        if batch:
            _put(file, ingestion_pb2.RecordInteractionsRequest(interactions=batch).SerializeToString())
    return count


def read_requests(path: Path) -> Iterator[bytes]:
    """The serialised requests of a file, in order."""
    with path.open("rb") as file:
        while length := file.read(_LENGTH.size):
            yield file.read(_LENGTH.unpack(length)[0])


def _put(file: BinaryIO, request: bytes) -> None:
    file.write(_LENGTH.pack(len(request)))
    file.write(request)
