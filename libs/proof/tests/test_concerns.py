"""Whom an event concerns is what its contract says."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.message import Message

from throughline.identity.v1 import events_pb2 as identity
from throughline.ingestion.v1 import events_pb2 as ingestion
from throughline.ingestion.v1 import interaction_pb2
from throughline.journey.v1 import events_pb2 as journey
from throughline.scoring.v1 import events_pb2 as scoring
from throughline_eventlog import Codec, LoggedRow, NewerLogError, NewEvent
from throughline_proof import subjects_of

ONE, OTHER = bytes(range(16)), bytes(range(16, 32))


def row(message: Message, type_: str = "") -> LoggedRow:
    """The message, logged."""
    event = NewEvent(bytes(16), 1, type_ or message.DESCRIPTOR.full_name, message.SerializeToString(), 1)
    return LoggedRow(1, event.stream_id, 1, event.type, Codec("test").encode(event, 1, ""))


@pytest.mark.parametrize(
    ("event", "subjects"),
    [
        (journey.StageReached(client_id=ONE.hex()), [ONE]),
        (journey.JourneyDefined(), []),
        (identity.ClientsMerged(client_id=OTHER.hex(), merged_client_id=ONE.hex()), [ONE, OTHER]),
        (identity.InteractionReattributed(client_id=ONE.hex(), previous_client_id=ONE.hex()), [ONE]),
        (
            ingestion.InteractionRecorded(facts=interaction_pb2.InteractionFacts(persona_id=ONE, source="web")),
            [ONE],
        ),
        (ingestion.InteractionQuarantined(offered=interaction_pb2.Sealed(key_id=OTHER)), [OTHER]),
        (ingestion.InteractionQuarantined(), []),
        (scoring.ScoreComputed(score=scoring.Score(subject=ONE.hex())), [ONE]),
        (scoring.ScoreComputed(score=scoring.Score(subject="phone")), []),
    ],
)
def test_subjects_stand_in_the_contract(event: Message, subjects: list[bytes]) -> None:
    """By hex id or bytes, on the event or deeper, each once."""
    assert subjects_of([row(event)]) == [subjects]


def test_the_answer_does_not_hang_on_what_was_imported() -> None:
    """A process that imported no contract of journey finds journey's subjects."""
    code = (
        "from throughline_eventlog import LoggedRow\n"
        "from throughline_proof import subjects_of\n"
        f"row = LoggedRow(*{tuple(row(journey.StageReached(client_id=ONE.hex())))!r})\n"
        f"assert subjects_of([row]) == [[{ONE!r}]]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_events_that_this_code_does_not_know_are_refused() -> None:
    """Types of a newer version could concern anybody; types of no contract concern nobody."""
    with pytest.raises(NewerLogError, match=r"throughline\.journey\.v1\.StageLeft"):
        subjects_of([row(journey.StageReached(), "throughline.journey.v1.StageLeft")])
    assert subjects_of([row(journey.StageReached(client_id=ONE.hex()), "throughline.testing.v1.Noted")]) == [[]]
