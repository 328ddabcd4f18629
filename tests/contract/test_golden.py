"""Old events for ever: what was written in any version is read for ever, and says what it said."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from typing import Any

import pytest
from contract.golden import EVENT_FILES, event_types, missing, read, says
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from throughline_client.endpoints import SERVICES
from throughline_eventlog import SCHEMAS

KEPT = [
    (service, type_, int(version), golden)
    for service in EVENT_FILES
    for type_, versions in read(service).items()
    for version, golden in versions.items()
]
_TYPE = re.compile(r"throughline\.[a-z]+\.v1\.[A-Z][A-Za-z]+\Z")


@pytest.mark.parametrize("service", EVENT_FILES)
def test_every_event_has_golden_bytes_of_its_present_version(service: str) -> None:
    """A new event, or a new version of one, comes with its bytes: `make golden` writes them."""
    assert event_types(service)
    assert [f"{descriptor.full_name} {version}" for descriptor, version in missing(service)] == []


@pytest.mark.parametrize(("service", "type_", "version", "golden"), KEPT, ids=[f"{t}-{v}" for _, t, v, _ in KEPT])
def test_golden_bytes_are_read_as_they_were_meant(
    service: str, type_: str, version: int, golden: dict[str, Any]
) -> None:
    """Field for field, and written again they are the same bytes; older versions once they are brought up."""
    types: dict[str, Descriptor] = {each.full_name: each for each in event_types(service)}
    assert type_ in types, f"{type_} is in logs: a program that does not know it cannot read them"
    payload = bytes.fromhex(golden["payload"])
    message = GetMessageClass(types[type_]).FromString(SCHEMAS.upcast(type_, version, payload))
    assert says(message) == golden["says"]
    assert len(UnknownFieldSet(message)) == 0
    if version == SCHEMAS.present(type_):
        assert message.SerializeToString(deterministic=True) == payload


@pytest.mark.parametrize("service", SERVICES)
def test_every_event_a_service_names_is_one_of_the_contract(service: str) -> None:
    """The types in a service's code are those of its events.proto, or of another service's."""
    named: set[str] = set()
    package = importlib.import_module(service)
    for module in pkgutil.walk_packages(package.__path__, f"{service}."):
        if module.name.endswith("__main__"):
            continue
        for _, value in inspect.getmembers(importlib.import_module(module.name), lambda each: isinstance(each, str)):
            if _TYPE.match(value):
                named.add(value)
    known = {descriptor.full_name for each in SERVICES for descriptor in event_types(each)}
    assert any(each.startswith(f"throughline.{service}.") for each in named)
    assert {each for each in named if not each.endswith("Service")} <= known
