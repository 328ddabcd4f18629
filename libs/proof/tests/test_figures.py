"""The verifier of scores stands alone, and reads what protobuf writes; scoring's tests hold its figures against
scoring's.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.ingestion.v1 import interaction_pb2 as interaction
from throughline.scoring.v1 import events_pb2 as pb
from throughline_proof import figures
from throughline_proof.figures import Fact, ScoreTold, recompute

VOLUME = ScoreTold(
    subject_kind=pb.SUBJECT_KIND_CHANNEL,
    subject="web",
    metric="volume",
    aspect="",
    formula="count",
    formula_version=1,
    position=9,
    value=1.0,
    low=None,
    high=None,
    n=1,
    parts={},
    unit="count",
    note="",
)
EVENT_ID = "a" * 32


def noted(**fields: object) -> pb.ContactNoted:
    facts = {"interaction_id": EVENT_ID, "channel": "web", "kind": "visit"} | fields
    return pb.ContactNoted(client_id="c" * 32, interaction=interaction.InteractionFacts(**facts))  # pyright: ignore[reportArgumentType]


def recomputed(payload: bytes, told: ScoreTold = VOLUME) -> list[str]:
    return recompute(told, [EVENT_ID], [Fact(3, pb.ContactNoted.DESCRIPTOR.full_name, payload)])


def test_it_needs_nothing_but_the_standard_library() -> None:
    """It runs without site packages, in a process that knows nothing of this repository."""
    assert figures.__file__ is not None
    subprocess.run([sys.executable, "-I", "-S", figures.__file__], check=True, timeout=60)


def test_fields_are_read_as_protobuf_reads_them() -> None:
    """The last one of a field wins, messages in one field are merged, what is unknown or of another type is skipped."""
    web, phone = noted().SerializeToString(), noted(channel="phone").SerializeToString()
    assert recomputed(web) == []
    assert recomputed(phone + web) == []
    assert "n is told as 1, and the events make it 0" in "".join(recomputed(web + phone))
    # Fields 900 to 902 of this and that wire type, and a client id that is a number.
    unknown = b"\xa0\x38\x01" + b"\xa9\x38" + bytes(8) + b"\xb5\x38" + bytes(4) + b"\x08\x07"
    assert recomputed(unknown + web) == []
    staff = noted(subject_type=interaction.SUBJECT_TYPE_STAFF, sequence=-3).SerializeToString()
    assert "the part staff is told as None, and the events make it 1" in "".join(recomputed(staff))


def test_the_aspect_overall_is_no_aspect() -> None:
    """Logs of any age say so in either way."""
    fact = interaction.FeedbackFact(kind=interaction.FEEDBACK_KIND_NPS, score=9, aspect="overall")
    scored = pb.FeedbackScored(client_id="c" * 32, feedback_id=EVENT_ID, channel="web", fact=fact)
    told = VOLUME._replace(metric="nps", formula="nps", value=None, note="1 answer, at least 10 are needed")
    assert recompute(told, [EVENT_ID], [Fact(3, scored.DESCRIPTOR.full_name, scored.SerializeToString())]) == []


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"\x0a\x05abc", "field 1 has 5 bytes, and 3 are left"),
        (b"\x08", "the bytes end within a number"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "has more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "has more than 64 bits"),
        (b"\x0b", "field 1 has the wire type 3"),
        (b"\x02\x00", "the number 0"),
        (b"\x0a\x01\xff", "invalid start byte"),
    ],
)
def test_bytes_that_are_no_message_are_refused_with_their_position(payload: bytes, said: str) -> None:
    """Whoever reads the refusal can find the event."""
    with pytest.raises(ValueError, match=rf"ContactNoted at position 3 is no such message: .*{said}"):
        recomputed(payload)


@given(st.binary(max_size=60))
def test_whatever_the_bytes_it_answers_or_refuses(payload: bytes) -> None:
    """No bytes make it fail in another way, and none but the right ones agree."""
    try:
        differences = recomputed(payload)
    except ValueError:
        return
    assert differences
