"""The keys of personas, in the vault, and the list of those who were forgotten."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from throughline_privacy import ForgottenClient, ForgottenList, IdentifierHasher, Vault


class VaultKeys:
    """Destroys keys, and drops identifiers that the hasher remembers in the clear.

    `forgotten` is the installation's list, None where it keeps none.
    """

    def __init__(self, vault: Vault, hasher: IdentifierHasher, forgotten: ForgottenList | None = None) -> None:
        self._vault = vault
        self._hasher = hasher
        self._forgotten = forgotten

    def destroy(self, key_ids: Collection[bytes]) -> int:
        """Answers how many were not destroyed before. Raises: UnavailableError."""
        return self._vault.destroy(key_ids) if key_ids else 0

    def destroy_remaining(self, key_ids: Collection[bytes]) -> int:
        """The same, for ids of which most are destroyed already. Raises: UnavailableError."""
        return self._vault.destroy_remaining(key_ids) if key_ids else 0

    def drop_cache(self) -> None:
        """Nothing in the clear stays in memory."""
        self._hasher.drop_cache()

    def note(self, clients: Sequence[ForgottenClient]) -> int:
        """Puts clients on the list; answers how many were not on it. Raises: UnavailableError."""
        return self._forgotten.add_clients(clients) if self._forgotten is not None and clients else 0

    def listed(self) -> list[ForgottenClient]:
        """Who is on the list, oldest first. Raises: UnavailableError, ForgottenListError."""
        return self._forgotten.clients() if self._forgotten is not None else []
