"""Reads what is offered, from bytes to what deciding and logging need."""

from __future__ import annotations

from ingestion.adapters.codec import read_interaction, write_facts, write_personal
from ingestion.adapters.content import ContentMac
from ingestion.adapters.personas import Personas
from ingestion.adapters.wire import READ
from ingestion.application.ports import Received, Request, RequestRead, UnreadableInteraction
from ingestion.domain.deciding import Offer, Said, batch_size_error, refused
from ingestion.domain.interaction import interaction_id_of
from ingestion.domain.validation import is_name, is_source_interaction_id, validate
from throughline.ingestion.v1 import interaction_pb2
from throughline_kernel import InvalidError, Violation


class ContractReader:
    """Reads offers from `ingestion.v1.Interaction`: validates them, names them and their content, and who is meant."""

    def __init__(self, content_mac: ContentMac, personas: Personas) -> None:
        self._mac = content_mac.of
        self._personas = personas

    def request(self, kind: Request, raw: bytes, now: int) -> RequestRead:
        """Reads a whole request as of `now`. Refuses nothing: violations stand in the offers, or in what is read."""
        batch = READ[kind](raw)
        if isinstance(batch, InvalidError):
            return RequestRead("", [], batch.violations)
        size = batch.size or len(batch.interactions)
        wrong = batch_size_error(size)
        if wrong is None:
            offers = [self.offer(each, now) for each in batch.interactions]
        else:
            offers = [_refused(each, wrong.violations) for each in batch.interactions]
        return RequestRead(batch.batch_id, offers, size=size)

    def offer(self, received: Received, now: int) -> Offer:
        """Reads one event as of `now`."""
        if isinstance(received, UnreadableInteraction):
            return _refused(received, received.violations)
        violations: list[Violation] = []
        interaction = read_interaction(received, violations)
        violations += validate(interaction, now)
        if violations:
            return _refused(received, tuple(violations))
        source = interaction.source
        interaction_id = interaction_id_of(source, interaction.source_interaction_id)
        presented = self._personas.presented(interaction.identifiers)
        said = Said(
            interaction.channel,
            interaction.occurred_at,
            self._personas.persona(interaction_id, interaction, presented),
            write_facts(interaction_id, interaction) + presented.facts,
            write_personal(interaction, presented.personal),
            received.SerializeToString(),
        )
        return Offer(source, interaction_id, bytes.fromhex(interaction_id), self._mac(interaction), said)

    def offer_again(self, whole: bytes, now: int) -> Offer:
        """Reads an Interaction that was kept whole, serialised, as of `now`."""
        return self.offer(interaction_pb2.Interaction.FromString(whole), now)


def _refused(received: Received, violations: tuple[Violation, ...]) -> Offer:
    source, source_interaction_id = received.source, received.source_interaction_id
    if not is_name(source):
        # What cannot name a source is accounted under no name, all of it together.
        return refused("", violations)
    named = is_source_interaction_id(source_interaction_id)
    return refused(source, violations, interaction_id_of(source, source_interaction_id) if named else "")
