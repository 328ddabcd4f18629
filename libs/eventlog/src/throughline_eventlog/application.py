"""The service's `eventsourcing` application: protobuf envelopes through a process recorder of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import InfrastructureFactory, Mapper, ProcessRecorder, StoredEvent
from eventsourcing.utils import Environment, EnvType


@dataclass(frozen=True, slots=True)
class StoredEnvelope:
    """An event as the library hands it about: the envelope under the full name of its message."""

    originator_id: UUID
    originator_version: int
    topic: str
    data: bytes


class ProtobufMapper(Mapper[UUID]):
    """Keeps protobuf bytes and full message names, so that no Python path is in any log."""

    def to_stored_event(self, domain_event: DomainEventProtocol[UUID]) -> StoredEvent:
        """The envelope as a row."""
        if not isinstance(domain_event, StoredEnvelope):
            raise TypeError(f"a log takes envelopes, not {type(domain_event).__name__}")
        return StoredEvent(
            domain_event.originator_id, domain_event.originator_version, domain_event.topic, domain_event.data
        )

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[UUID]:
        """The row as an envelope."""
        stream_id = stored_event.originator_id
        return StoredEnvelope(
            stream_id if isinstance(stream_id, UUID) else UUID(stream_id),
            stored_event.originator_version,
            stored_event.topic,
            stored_event.state,
        )


class EventLog(Application[UUID]):
    """One service's log: events, tables and the inbox commit together through its process recorder."""

    recorder: ProcessRecorder

    def __init__(self, service: str, environment: Mapping[str, str], factory: type[InfrastructureFactory[Any]]) -> None:
        self.name = service
        self._settings = dict(environment)
        self._factory = factory
        super().__init__()

    def construct_env(self, name: str, env: EnvType | None = None) -> Environment:
        """Only what was given: what else stands in the process's environment cannot change the log."""
        return Environment(name, self._settings)

    def construct_factory(self, env: Environment) -> InfrastructureFactory[Any]:
        """The factory whose recorders and connections keep what the log promises."""
        return self._factory(env)

    def construct_mapper(self) -> Mapper[UUID]:
        """Protobuf, whatever the environment says."""
        return ProtobufMapper(transcoder=self.factory.transcoder())

    def construct_recorder(self) -> ProcessRecorder:
        """Events and positions in one transaction."""
        return self.factory.process_recorder()
