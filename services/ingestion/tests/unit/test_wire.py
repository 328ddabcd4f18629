"""A batch of which a part cannot be decoded: what can be read is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ingestion_offers import NOW

from ingestion.adapters.wire import Batch, read_request, read_single_request, read_stream_request
from ingestion.application.ports import UnreadableInteraction
from throughline.ingestion.v1 import ingestion_pb2, interaction_pb2
from throughline_kernel import InvalidError


def event(number: int, matter: str = "fine") -> interaction_pb2.Interaction:
    """A valid interaction."""
    return interaction_pb2.Interaction(
        source="till",
        source_interaction_id=f"r{number}",
        channel="store",
        kind="purchase",
        occurred_at=NOW,
        matter=matter,
        identifiers=[
            interaction_pb2.Identifier(type="email", value="before"),
            interaction_pb2.Identifier(value=matter),
        ],
    )


def batch(*matters: str) -> bytes:
    """A serialised batch; `BROKEN` becomes bytes that are not UTF-8."""
    events = [event(number, matter) for number, matter in enumerate(matters)]
    raw = ingestion_pb2.RecordInteractionsRequest(interactions=events).SerializeToString()
    return raw.replace(b"BROKEN", b"BR\xffKEN")


def test_a_readable_batch_is_read_whole() -> None:
    """The common way."""
    read = read_request(batch("a", "b"))
    assert isinstance(read, Batch)
    assert read.interactions == [event(0, "a"), event(1, "b")]


def test_text_that_is_not_utf_8_spoils_its_own_event_alone() -> None:
    """Every broken field is named by its path, and so is the event."""
    read = read_request(batch("a", "BROKEN", "c"))
    assert isinstance(read, Batch)
    first, broken, last = read.interactions
    assert (first, last) == (event(0, "a"), event(2, "c"))
    assert isinstance(broken, UnreadableInteraction)
    assert (broken.source, broken.source_interaction_id) == ("till", "r1")
    assert {violation.field for violation in broken.violations} == {"matter", "identifiers[1].value"}
    assert {violation.rule for violation in broken.violations} == {"valid UTF-8"}


def test_a_stream_batch_keeps_its_id() -> None:
    """The answer must find its question."""
    raw = ingestion_pb2.StreamInteractionsRequest(batch_id="b-7", interactions=[event(0, "BROKEN")])
    read = read_stream_request(raw.SerializeToString().replace(b"BROKEN", b"BR\xffKEN"))
    assert isinstance(read, Batch)
    assert read.batch_id == "b-7"
    assert isinstance(read.interactions[0], UnreadableInteraction)
    whole = read_stream_request(raw.SerializeToString())
    assert isinstance(whole, Batch)
    assert (whole.batch_id, whole.interactions) == ("b-7", [event(0, "BROKEN")])


def test_a_single_event_is_a_batch_of_one() -> None:
    """Also where it is left out, and where it is broken."""
    empty = read_single_request(b"")
    assert isinstance(empty, Batch)
    assert empty.interactions == [interaction_pb2.Interaction()]
    raw = ingestion_pb2.RecordInteractionRequest(interaction=event(0, "BROKEN")).SerializeToString()
    read = read_single_request(raw.replace(b"BROKEN", b"BR\xffKEN"))
    assert isinstance(read, Batch)
    assert isinstance(read.interactions[0], UnreadableInteraction)


def test_an_event_of_another_shape_is_refused_alone() -> None:
    """Bytes that are no message are one refused event."""
    raw = ingestion_pb2.RecordInteractionsRequest(interactions=[event(0)]).SerializeToString() + b"\x0a\x03\x0a\xff\xff"
    read = read_request(raw)
    assert isinstance(read, Batch)
    assert read.interactions[0] == event(0)
    assert isinstance(read.interactions[1], UnreadableInteraction)


def test_a_batch_that_is_cut_off_is_refused_whole() -> None:
    """Nothing says what the rest would have been."""
    for raw in (batch("a", "b")[:-3], b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"):
        read = read_request(raw)
        assert isinstance(read, InvalidError)
        assert read.violations[0].field == "request"


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(raw: bytes) -> None:
    """Whatever comes in, reading it ends in a batch or in a refusal."""
    for read in (read_request, read_stream_request, read_single_request):
        assert isinstance(read(raw), Batch | InvalidError)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_never_passes_for_another_count_of_events(place: int, value: int) -> None:
    """A damaged batch is refused, or every event of it is answered."""
    raw = bytearray(batch("a", "b", "c"))
    raw[place % len(raw)] = value
    read = read_request(bytes(raw))
    assert isinstance(read, InvalidError) or len(read.interactions) <= len(raw)
