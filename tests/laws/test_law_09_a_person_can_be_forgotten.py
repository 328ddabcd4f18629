"""Law 9: a person can be forgotten and the log still reads: their keys are destroyed."""

from __future__ import annotations

import asyncio

import pytest
from line import Line, identifier, interaction

from throughline.identity.v1 import identity_pb2
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
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
