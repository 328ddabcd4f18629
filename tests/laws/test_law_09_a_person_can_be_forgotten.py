"""Law 9: a person can be forgotten and the log still reads: their keys are destroyed."""

from __future__ import annotations

import asyncio

import pytest
from line import DAY, START, Line, identifier, interaction

from throughline.eventlog.v1 import eventlog_pb2
from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline_portability import Installation, find_leftovers
from throughline_privacy import open_key_store_at
from throughline_replay import compare_with_live, make_folds, replay_log
from throughline_replay.sources import ServiceLog
from throughline_testkit import eventually

pytestmark = pytest.mark.e2e

EMAIL = "mirabella.quastenfloh@post.eu"
WORDS = "the zebra-striped umbrella broke"


async def test_law_09_a_person_can_be_forgotten(line: Line) -> None:
    """No file ever held them in the clear; once forgotten nothing opens, and every log replays as before."""
    feedback = interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_COMPLAINT, verbatim=WORDS)
    results = await line.record(
        [
            interaction(1, identifier("email", EMAIL), feedback=[feedback]),
            interaction(2, identifier("email", "other@post.eu")),
        ]
    )
    await line.settled()
    told = ingestion_pb2.GetInteractionRequest(interaction_id=results[0].interaction_id)
    opened = await line.ingestion.GetInteraction(told)
    assert opened.personal.identifiers[0].value == EMAIL
    assert opened.personal.verbatims[0] == WORDS
    for file in line.suite.folder.rglob("*"):
        if file.is_file():
            held = file.read_bytes().lower()
            assert EMAIL.encode() not in held, file
            assert WORDS.encode() not in held, file

    who = identity_pb2.ResolveClientRequest(identifiers=[identifier("email", EMAIL)])
    client_id = (await line.identity.ResolveClient(who)).client_id
    await line.identity.ForgetClient(
        identity_pb2.ForgetClientRequest(client_id=client_id, reason="asked for it", decided_by="test")
    )
    await line.settled()

    async def forgotten() -> bool:
        return (await line.ingestion.GetInteraction(told)).forgotten

    await eventually(forgotten)
    answer = await line.ingestion.GetInteraction(told)
    assert not answer.HasField("personal")

    (again,) = await line.record([interaction(3, identifier("email", EMAIL))])
    assert again.position
    await line.settled()
    newcomer = (await line.identity.ResolveClient(who)).client_id
    assert newcomer
    assert newcomer != client_id

    for service, fold in make_folds().items():
        with ServiceLog(service, line.suite.addresses[service]) as log:
            replayed = await asyncio.to_thread(replay_log, fold, log.read())
            compared = await asyncio.to_thread(compare_with_live, replayed, log, log)
        assert compared.equal, f"{service}: {compared.difference}"


PEOPLE = 60


def email(person: int) -> str:
    """An address that nothing else in a data folder looks like."""
    return f"quastenfloh.{person:04}@post.eu"


def words(person: int) -> str:
    """What one person alone said."""
    return f"the umbrella number {person:04} broke"


def history(person: int) -> list[interaction_pb2.Interaction]:
    """A person on three channels, with a complaint in words."""
    mail, card = identifier("email", email(person)), identifier("loyalty_card", f"9266{person:08}")
    complaint = interaction_pb2.Feedback(kind=interaction_pb2.FEEDBACK_KIND_COMPLAINT, verbatim=words(person))
    return [
        interaction(f"{person}-visit", mail, at=START + person * DAY),
        interaction(
            f"{person}-buy", card, source="till", channel="store", kind="purchase", at=START + person * DAY + 1
        ),
        interaction(f"{person}-login", mail, card, kind="login", at=START + person * DAY + 2),
        interaction(f"{person}-complain", mail, kind="survey", feedback=[complaint], at=START + person * DAY + 3),
    ]


async def digests(line: Line) -> dict[tuple[str, str], bytes]:
    """The digest of every aggregate of every service."""
    found: dict[tuple[str, str], bytes] = {}
    for service, stub in line.logs.items():
        token = ""
        while True:
            page = await stub.ListStateDigests(eventlog_pb2.ListStateDigestsRequest(page_token=token, page_size=500))
            found.update(((service, each.key), each.digest) for each in page.digests)
            token = page.next_page_token
            if not token:
                break
    return found


async def test_law_09_one_in_ten_is_forgotten_and_the_others_notice_nothing(line: Line) -> None:
    """No file holds a value or a key of theirs, nothing leads to them, and everyone else's state is as it was."""
    await line.record([each for person in range(PEOPLE) for each in history(person)])
    await line.settled()
    clients = {
        person: (
            await line.identity.ResolveClient(
                identity_pb2.ResolveClientRequest(identifiers=[identifier("email", email(person))])
            )
        ).client_id
        for person in range(PEOPLE)
    }
    assert len(set(clients.values())) == PEOPLE
    installation = Installation.in_folder(line.suite.folder)
    keys = open_key_store_at(installation.key_store)
    before, wrapped = await digests(line), keys.page(b"", 10_000)

    gone = range(0, PEOPLE, 10)
    for person in gone:
        await line.identity.ForgetClient(
            identity_pb2.ForgetClientRequest(client_id=clients[person], reason="asked for it", decided_by="test")
        )
    await line.settled()
    after = await digests(line)
    others = {clients[person] for person in range(PEOPLE) if person not in gone}
    theirs = {place: each for place, each in before.items() if any(client in place[1] for client in others)}
    assert {service for service, _ in theirs} >= {"identity", "journey", "feedback", "scoring"}
    assert {place: after.get(place) for place in theirs} == theirs

    destroyed = [each.wrapped for key_id, each in wrapped.items() if key_id not in keys.page(b"", 10_000)]
    keys.close()
    assert len(destroyed) == len(gone) * 3
    values = [value for person in gone for value in (email(person), words(person))]
    for file in line.suite.folder.rglob("*"):
        if file.is_file():
            held = file.read_bytes()
            assert not [each for each in destroyed if each in held], file
            assert not [each for each in values if each.encode() in held.lower()], file
    for person in gone:
        found = find_leftovers(
            installation,
            bytes.fromhex(clients[person]),
            values=[email(person), words(person)],
            folder=line.suite.folder,
        )
        assert [each for each in found if each.left] == []
