"""Who presents themselves in an interaction."""

from __future__ import annotations

from threading import Lock
from typing import Final, NamedTuple

from ingestion.adapters.codec import ASSURANCES, SHAPES, read_interaction
from ingestion.domain.interaction import Identifier, Interaction, interaction_id_of
from throughline.ingestion.v1 import interaction_pb2
from throughline_privacy import IdentifierHasher, Shape, persona_id, persona_of_interaction

REMEMBERED: Final = 16_384
"""Sets of identifiers whose hashes are kept at hand: who comes once often comes again soon."""

# What says nothing about who somebody is must not make one persona of everybody who has it.
_NOBODY: Final = frozenset({Shape.BLANK, Shape.REPEATED, Shape.PLACEHOLDER})


class Presented(NamedTuple):
    """What follows from the identifiers of an interaction alone; the serialised parts complete a message.

    `persona` is that of the first generation, empty where no identifier says who it is. `facts` is the identifiers'
    part of an InteractionFacts, `personal` that of a PersonalValues.
    """

    usable: list[tuple[str, bytes, int]]
    persona: bytes
    facts: bytes
    personal: bytes


class Personas:
    """Hashes identifiers and names personas, with the installation's key. May be used from several threads."""

    def __init__(self, hasher: IdentifierHasher, *, remembered: int = REMEMBERED) -> None:
        self._hasher = hasher
        self._most = remembered
        self._remembered: dict[tuple[Identifier, ...], Presented] = {}
        self._lock = Lock()

    def presented(self, identifiers: tuple[Identifier, ...]) -> Presented:
        """What follows from these identifiers."""
        known = self._remembered.get(identifiers)
        if known is None:
            known = self._present(identifiers)
            with self._lock:
                if len(self._remembered) >= self._most:
                    self._remembered.clear()
                self._remembered[identifiers] = known
        return known

    def persona(self, interaction_id: str, interaction: Interaction, presented: Presented) -> bytes:
        """The persona of a valid interaction, 16 bytes: of its identifiers, its session, or itself alone."""
        return presented.persona or self._persona(interaction_id, interaction, presented, 0)

    def again(self, whole: bytes, generation: int) -> bytes:
        """The persona of a later generation, for a valid Interaction as it was offered, serialised."""
        interaction = read_interaction(interaction_pb2.Interaction.FromString(whole), [])
        interaction_id = interaction_id_of(interaction.source, interaction.source_interaction_id)
        return self._persona(interaction_id, interaction, self.presented(interaction.identifiers), generation)

    def forget_remembered(self) -> None:
        """Lets go of every value kept at hand: after somebody was forgotten none of theirs stays in memory."""
        self._hasher.drop_cache()
        with self._lock:
            self._remembered.clear()

    def _present(self, identifiers: tuple[Identifier, ...]) -> Presented:
        identify = self._hasher.identify
        hashed = sorted(
            {
                (type_, (found := identify(type_, value)).hash, assurance, int(found.shape))
                for type_, value, assurance in identifiers
            }
        )
        usable = [(type_, hash_, assurance) for type_, hash_, assurance, shape in hashed if shape not in _NOBODY]
        facts = interaction_pb2.InteractionFacts(
            identifiers=[
                interaction_pb2.IdentifierHash(
                    type=type_, hash=hash_, assurance=ASSURANCES[assurance], shape=SHAPES[shape]
                )
                for type_, hash_, assurance, shape in hashed
            ]
        )
        personal = interaction_pb2.PersonalValues(
            identifiers=[
                interaction_pb2.Identifier(type=type_, value=value, assurance=ASSURANCES[assurance])
                for type_, value, assurance in identifiers
            ]
        )
        return Presented(
            usable, persona_id(usable) if usable else b"", facts.SerializeToString(), personal.SerializeToString()
        )

    def _persona(self, interaction_id: str, interaction: Interaction, presented: Presented, generation: int) -> bytes:
        if presented.usable:
            return persona_id(presented.usable, generation)
        if interaction.session_id:
            return self._hasher.persona_of_session(interaction.source, interaction.session_id, generation)
        return persona_of_interaction(interaction_id, generation)
