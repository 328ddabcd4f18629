"""The keys of personas, in the vault."""

from __future__ import annotations

from collections.abc import Collection

from throughline_privacy import IdentifierHasher, Vault


class VaultKeys:
    """Destroys keys, and drops identifiers that the hasher remembers in the clear."""

    def __init__(self, vault: Vault, hasher: IdentifierHasher) -> None:
        self._vault = vault
        self._hasher = hasher

    def destroy(self, key_ids: Collection[bytes]) -> int:
        """Answers how many were not destroyed before. Raises: UnavailableError."""
        return self._vault.destroy(key_ids) if key_ids else 0

    def drop_cache(self) -> None:
        """Nothing in the clear stays in memory."""
        self._hasher.drop_cache()
