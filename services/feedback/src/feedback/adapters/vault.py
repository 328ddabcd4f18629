"""The client's own words, sealed in the vault under their persona's key."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from feedback.application.ports import Hashed, SealedWords
from throughline.ingestion.v1.interaction_pb2 import PersonalValues
from throughline_privacy import KeyDestroyedError, Vault, persona_id, persona_of_interaction


class VaultWords:
    """Opens and seals words. Safe to use from several threads."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def open_many(self, sealed: Sequence[tuple[SealedWords, int]]) -> list[str | None]:
        """The words of each box's entry; None where the person was forgotten.

        Raises: BoxInvalidError, KeyUnknownError where the box is not one of this key store's.
        """
        if not sealed:
            return []
        opened = self._vault.open_many([(each.key_id, each.box) for each, _ in sealed])
        return [
            None if plain is None else _words(PersonalValues.FromString(plain), entry)
            for plain, (_, entry) in zip(opened, sealed, strict=True)
        ]

    def seal_many(self, items: Sequence[tuple[str, Sequence[Hashed], str]]) -> list[SealedWords]:
        """Seals each (feedback id, identifiers, words) under its persona's key, or the item's own.

        A persona that was forgotten begins anew under its next generation.
        """
        if not items:
            return []
        generations = [0] * len(items)
        while True:
            keys = [
                _persona(feedback_id, hashed, generation)
                for (feedback_id, hashed, _), generation in zip(items, generations, strict=True)
            ]
            plain = [PersonalValues(verbatims=[words]).SerializeToString() for _, _, words in items]
            try:
                sealed = self._vault.seal_many(list(zip(keys, plain, strict=True)))
            except KeyDestroyedError as destroyed:
                generations = [
                    generation + (key in destroyed.key_ids) for key, generation in zip(keys, generations, strict=True)
                ]
            else:
                return [SealedWords(each.key_id, each.box) for each in sealed]

    def destroy(self, key_ids: Collection[bytes]) -> None:
        """Destroys keys for good."""
        if key_ids:
            self._vault.destroy(key_ids)


def _persona(feedback_id: str, hashed: Sequence[Hashed], generation: int) -> bytes:
    if not hashed:
        return persona_of_interaction(feedback_id, generation)
    return persona_id([(each.type, each.hash, each.assurance) for each in hashed], generation)


def _words(values: PersonalValues, entry: int) -> str:
    return values.verbatims[entry] if entry < len(values.verbatims) else ""
