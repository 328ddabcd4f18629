"""Personal values: what may be told of them, under which key they are sealed, and how a person is forgotten."""

from throughline_privacy.hashing import (
    HashedIdentifier,
    IdentifierHasher,
    persona_id,
    persona_of_interaction,
    persona_of_session,
)
from throughline_privacy.identifiers import PHONE_TYPES, Shape, normalise, shape
from throughline_privacy.postgres_key_store import PostgresKeyStore
from throughline_privacy.settings import (
    KEY_STORE,
    KEY_STORE_SCHEMA,
    PrivacySettings,
    PrivacySettingsError,
    create_keys,
    open_key_store,
    open_key_store_at,
    open_vault,
    read_hash_key,
)
from throughline_privacy.sqlite_key_store import SqliteKeyStore
from throughline_privacy.vault import (
    KEY_ID_BYTES,
    BoxInvalidError,
    KekUnknownError,
    KeyDestroyedError,
    KeyEncryptionKey,
    KeyStore,
    KeyUnknownError,
    Sealed,
    Vault,
    WrappedKey,
)

__all__ = [
    "KEY_ID_BYTES",
    "KEY_STORE",
    "KEY_STORE_SCHEMA",
    "PHONE_TYPES",
    "BoxInvalidError",
    "HashedIdentifier",
    "IdentifierHasher",
    "KekUnknownError",
    "KeyDestroyedError",
    "KeyEncryptionKey",
    "KeyStore",
    "KeyUnknownError",
    "PostgresKeyStore",
    "PrivacySettings",
    "PrivacySettingsError",
    "Sealed",
    "Shape",
    "SqliteKeyStore",
    "Vault",
    "WrappedKey",
    "create_keys",
    "normalise",
    "open_key_store",
    "open_key_store_at",
    "open_vault",
    "persona_id",
    "persona_of_interaction",
    "persona_of_session",
    "read_hash_key",
    "shape",
]
