"""Personal values under lock and key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ingestion.adapters.personas import Personas
from ingestion.application.ports import Presence, SealedBox, ToSeal
from throughline_privacy import KeyDestroyedError, Vault


class VaultSeal:
    """Seals with the installation's keys. May be used from several threads.

    `forget_elsewhere` makes whoever else remembers values let go of them when somebody is forgotten.
    """

    def __init__(self, vault: Vault, personas: Personas, *, forget_elsewhere: Callable[[], None] | None = None) -> None:
        self._vault = vault
        self._personas = personas
        self._forget_elsewhere = forget_elsewhere

    def seal(self, items: Sequence[ToSeal]) -> list[Presence]:
        """The persona of each and its sealed values, in order. All keys are durable on return.

        A persona that was forgotten begins anew, under its next generation: with the same identifiers, but nothing of
        what was.
        """
        personas = [said.persona for said, _ in items]
        plaintexts = [said.whole if whole else said.personal for said, whole in items]
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
                        personas[number] = self._personas.again(items[number].said.whole, generations[number])
                continue
            for number, box in zip(wanted, sealed, strict=True):
                boxes[number] = SealedBox._make(box)
            break
        return list(map(Presence, personas, boxes))

    def open(self, boxes: Sequence[SealedBox]) -> list[bytes | None]:
        """The plaintext of each, None where the person was forgotten."""
        return self._vault.open_many(boxes)

    def forget(self, persona_ids: Sequence[bytes]) -> int:
        """Destroys the keys of these personas for good; answers how many there were."""
        destroyed = self._vault.destroy(persona_ids)
        self._personas.forget_remembered()
        if self._forget_elsewhere is not None:
            self._forget_elsewhere()
        return destroyed
