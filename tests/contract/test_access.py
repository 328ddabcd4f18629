"""What each method reads and changes and who may call for it: every method says so, and it all holds together."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor

from throughline.access.v1 import options_pb2
from throughline_rpc import ROLES
from throughline_rpc.permissions import Permission

ROOT = Path(__file__).parents[2]
CONTRACTS = [
    import_module(".".join(file.relative_to(ROOT / "proto").with_suffix("").parts) + "_pb2").DESCRIPTOR
    for file in sorted((ROOT / "proto").rglob("*.proto"))
]
METHODS: list[MethodDescriptor] = [
    method for contract in CONTRACTS for service in contract.services_by_name.values() for method in service.methods
]
READS = {number: name.removeprefix("READS_").lower() for name, number in options_pb2.Reads.items()}
ALL = [Permission.of(method) for method in METHODS]
# The most that a role may read; the contract may give it less.
READS_AT_MOST = {
    "channel": {"nothing", "client", "personal"},
    "agent": {"nothing", "client", "personal"},
    "analyst": {"nothing", "client"},
    "auditor": {"nothing", "client", "personal", "log", "access"},
    "operator": {"nothing", "client", "log"},
    "admin": {"nothing", "client", "personal", "log", "access"},
    "service": {"nothing", "client", "log"},
}


def of(role: str) -> list[Permission]:
    """What a role may call for."""
    return [permission for permission in ALL if role in permission.roles]


def test_there_are_methods() -> None:
    """Of every service, and those that all of them serve."""
    assert {method.containing_service.name for method in METHODS} >= {
        "IngestionService",
        "IdentityService",
        "JourneyService",
        "FeedbackService",
        "ScoringService",
        "EventLogService",
        "ProofService",
    }
    assert set(READS_AT_MOST) == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_reads_more_than_it_is_for(role: str) -> None:
    """An operator reads no verbatims; only auditors and admins read who read what."""
    assert {READS[permission.reads] for permission in of(role)} <= READS_AT_MOST[role]


def test_an_auditor_sees_everything_and_changes_nothing() -> None:
    """Whatever changes nothing is for auditors too, and nothing that changes is."""
    assert [each.path for each in ALL if each.changes == ("auditor" in each.roles)] == []


def test_another_service_changes_nothing() -> None:
    """They hear of each other over the bus. Partitions are of one service, and pass on what they were asked."""
    passed_on = {"RecordPart", "RegisterInPart", "RedrivePart"}
    assert {each.path for each in of("service") if each.changes} == {
        f"/throughline.ingestion.v1.PartitionService/{name}" for name in passed_on
    }


def test_an_admin_may_do_everything() -> None:
    """So there is nothing that nobody may do."""
    assert [each.path for each in ALL if "admin" not in each.roles] == []


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_a_read_of_clients_says_whom_of(method: MethodDescriptor) -> None:
    """By fields that are there and hold ids; what names a source names it by text."""
    permission = Permission.of(method)
    for message, paths in (
        (method.input_type, (*permission.asked, *permission.sources)),
        (method.output_type, permission.told),
    ):
        for *through, leaf in paths:
            found = message
            for name in through:
                found = found.fields_by_name[name].message_type
                assert found is not None
            assert found.fields_by_name[leaf].type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}
    if READS[permission.reads] in {"client", "personal"}:
        assert permission.asked or permission.told
    if READS[permission.reads] == "nothing":
        assert not permission.asked
        assert not permission.told


def test_what_a_channel_reports_says_for_which_source() -> None:
    """A caller that is bound to sources cannot report for another: wherever a request names a source, it is held to."""
    reported = [
        method.name
        for method in METHODS
        if Permission.of(method).changes and "channel" in Permission.of(method).roles and _names_source(method)
    ]
    assert set(reported) == {method.name for method in METHODS if Permission.of(method).sources}
    assert {"RecordInteraction", "RecordInteractions", "StreamInteractions", "SubmitFeedback"} <= set(reported)


def _names_source(method: MethodDescriptor) -> bool:
    fields = method.input_type.fields
    inner = [each for field in fields if field.message_type is not None for each in field.message_type.fields]
    return "source" in {field.name for field in (*fields, *inner)}


def test_the_page_says_who_may_call_for_what() -> None:
    """docs/access.md has the contract's table; what this prints where they differ belongs there."""
    page = (ROOT / "docs" / "access.md").read_text()
    assert table() in page, f"docs/access.md has another table; the contract's is:\n{table()}"


def table() -> str:
    """Methods by service: what they read and change, and who may call for them."""
    lines = [f"| method | reads | {' | '.join(ROLES)} |", f"|---|---|{'---|' * len(ROLES)}"]
    for method in METHODS:
        permission = Permission.of(method)
        mark = "changes" if permission.changes else "yes"
        may = (mark if role in permission.roles else "" for role in ROLES)
        service = method.containing_service.name.removesuffix("Service")
        lines.append(f"| {service} {method.name} | {READS[permission.reads]} | {' | '.join(may)} |")
    return "\n".join(lines) + "\n"
