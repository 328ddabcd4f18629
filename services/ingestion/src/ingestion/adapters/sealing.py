"""Who presents themselves in an interaction, and their values under lock and key."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Final, NamedTuple

from ingestion.adapters.codec import ASSURANCES, SHAPES, write_interaction, write_personal
from ingestion.application.ports import Presence, SealedBox, ToSeal
from ingestion.domain.interaction import Identifier
from throughline.ingestion.v1 import interaction_pb2
from throughline_privacy import (
    IdentifierHasher,
    KeyDestroyedError,
    Shape,
    Vault,
    persona_id,
    persona_of_interaction,
)

REMEMBERED: Final = 16_384
"""Sets of identifiers whose hashes are kept at hand: who comes once often comes again soon."""

# What says nothing about who somebody is must not make one persona of everybody who has it.
_NOBODY: Final = frozenset({Shape.BLANK, Shape.REPEATED, Shape.PLACEHOLDER})


class _Presented(NamedTuple):
    """What follows from the identifiers of an interaction alone; the serialised parts complete a message."""

    usable: list[tuple[str, bytes, int]]
    first_persona: bytes
    facts: bytes
    personal: bytes


class VaultSeal:
    """Hashes identifiers, names personas and seals, with the installation's keys. May be used from several threads."""

    def __init__(self, vault: Vault, hasher: IdentifierHasher) -> None:
        self._vault = vault
        self._hasher = hasher
        self._remembered: dict[tuple[Identifier, ...], _Presented] = {}
        self._lock = Lock()

    def seal(self, items: Sequence[ToSeal]) -> list[Presence]:
        """The persona of each and its sealed values, in order. All keys are durable on return.

        A persona that was forgotten begins anew, under its next generation: with the same identifiers, but nothing of
        what was.
        """
        presented = [self._presented(item.interaction.identifiers) for item in items]
        personas = [
            known.first_persona or self._persona(item, known, 0) for item, known in zip(items, presented, strict=True)
        ]
        plaintexts = [
            write_interaction(item.interaction) if item.whole else write_personal(item.interaction, known.personal)
            for item, known in zip(items, presented, strict=True)
        ]
        boxes: list[SealedBox | None] = [None] * len(items)
        wanted = [number for number, plaintext in enumerate(plaintexts) if plaintext]
        generations: dict[int, int] = {}
        while wanted:
            try:
                sealed = self._vault.seal_many([(personas[number], plaintexts[number]) for number in wanted])
            except KeyDestroyedError as error:
                for number in wanted:
                    if personas[number] in error.key_ids:
                        generations[number] = generations.get(number, 0) + 1
                        personas[number] = self._persona(items[number], presented[number], generations[number])
                continue
            for number, (key_id, box) in zip(wanted, sealed, strict=True):
                boxes[number] = SealedBox(key_id, box)
            break
        return [
            Presence(persona, known.facts, box) for persona, known, box in zip(personas, presented, boxes, strict=True)
        ]

    def open(self, boxes: Sequence[SealedBox]) -> list[bytes | None]:
        """The plaintext of each, None where the person was forgotten."""
        return self._vault.open_many(boxes)

    def forget(self, persona_ids: Sequence[bytes]) -> int:
        """Destroys the keys of these personas for good; answers how many there were."""
        destroyed = self._vault.destroy(persona_ids)
        self._hasher.drop_cache()
        with self._lock:
            self._remembered.clear()
        return destroyed

    def _presented(self, identifiers: tuple[Identifier, ...]) -> _Presented:
        known = self._remembered.get(identifiers)
        if known is None:
            known = self._present(identifiers)
            with self._lock:
                if len(self._remembered) >= REMEMBERED:
                    self._remembered.clear()
                self._remembered[identifiers] = known
        return known

    def _present(self, identifiers: tuple[Identifier, ...]) -> _Presented:
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
        return _Presented(
            usable,
            persona_id(usable) if usable else b"",
            facts.SerializeToString(),
            personal.SerializeToString(),
        )

    def _persona(self, item: ToSeal, presented: _Presented, generation: int) -> bytes:
        if presented.usable:
            return persona_id(presented.usable, generation)
        if item.interaction.session_id:
            return self._hasher.persona_of_session(item.interaction.source, item.interaction.session_id, generation)
        return persona_of_interaction(item.interaction_id, generation)
