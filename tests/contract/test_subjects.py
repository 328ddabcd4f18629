"""Every event that names a client says so to the proofs: else a list of the client's events could not be complete."""

from __future__ import annotations

from importlib import import_module

import pytest

from throughline.accesslog.v1.events_pb2 import AccessRecorded
from throughline.eventlog.v1 import subject_pb2
from throughline_client.endpoints import SERVICES

# Names that a client's id has in an event; ingestion knows personas alone.
CLIENTS = ("client_id", "previous_client_id", "merged_client_id", "other_client_id", "restored_client_id")
# The id that a caller stated may be an alias, or nobody's: the event is the client's that it was found to mean.
STATED = {"throughline.feedback.v1.FeedbackReceived.stated_client_id"}


@pytest.mark.parametrize("service", SERVICES)
def test_every_client_id_of_an_event_names_a_subject(service: str) -> None:
    """By the option of its field in the contract."""
    contract = import_module(f"throughline.{service}.v1.events_pb2").DESCRIPTOR
    fields = [
        field
        for message in contract.message_types_by_name.values()
        for field in message.fields
        if field.name.endswith("client_id") and field.full_name not in STATED
    ]
    assert bool(fields) == (service != "ingestion")
    assert {field.name for field in fields} <= set(CLIENTS)
    unmarked = [field.full_name for field in fields if not field.GetOptions().Extensions[subject_pb2.subject]]
    assert unmarked == []


def test_everybody_whose_data_was_read_is_a_subject_of_the_read() -> None:
    """Whatever kind of id it was read by."""
    marked = [
        field.name for field in AccessRecorded.DESCRIPTOR.fields if field.GetOptions().Extensions[subject_pb2.subject]
    ]
    assert marked == ["ids"]
