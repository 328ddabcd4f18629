"""The installation's keys and where the key store is, from the environment or from a key file."""

from __future__ import annotations

import base64
import binascii
import json
import os
import secrets
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from throughline_privacy.forgotten import open_forgotten_list
from throughline_privacy.hashing import HASH_KEY_BYTES, IdentifierHasher
from throughline_privacy.postgres_key_store import PostgresKeyStore
from throughline_privacy.sqlite_key_store import SqliteKeyStore
from throughline_privacy.vault import KEY_BYTES, KeyEncryptionKey, KeyStore, KeyWrapping, Vault

HASH_KEY: Final = "THROUGHLINE_HASH_KEY"
KEY_ENCRYPTION_KEY: Final = "THROUGHLINE_KEY_ENCRYPTION_KEY"
KMS: Final = "THROUGHLINE_KMS"
KMS_GROUP: Final = "throughline.kms"
"""Entry points: functions of the environment that give key-encryption keys, the current one first."""
RETIRED_KEYS: Final = "THROUGHLINE_RETIRED_KEY_ENCRYPTION_KEYS"
KEYS_FILE: Final = "THROUGHLINE_KEYS_FILE"
KEY_STORE: Final = "THROUGHLINE_KEY_STORE"
KEY_STORE_SCHEMA: Final = "THROUGHLINE_KEY_STORE_SCHEMA"
FORGOTTEN_LIST: Final = "THROUGHLINE_FORGOTTEN_LIST"
DEFAULT_SCHEMA: Final = "throughline_keys"

_NO_KEY_STORE: Final = f"{KEY_STORE} is not set; give the path of the key store's SQLite file or a postgresql:// URL"


class PrivacySettingsError(ValueError):
    """The environment does not say which keys to use or where they are kept; the message names the variable
    and the remedy.
    """


OpenKeks = Callable[[Mapping[str, str]], "tuple[KeyWrapping, ...]"]
"""The key-encryption keys that an environment names: the current one, then those still needed to read."""


@dataclass(frozen=True, slots=True)
class PrivacySettings:
    """The installation's hash key and key-encryption keys, and the key store: a path or a `postgresql://`
    URL. `reread` gives the key-encryption keys as they are now, the current one first. `forgotten_list` is where
    the list of the forgotten is, a path or URL too; empty keeps none.
    """

    hash_key: bytes = field(repr=False)
    key_encryption_key: KeyWrapping
    key_store: str = field(repr=False)  # a URL may carry a password
    key_store_schema: str = DEFAULT_SCHEMA
    retired: tuple[KeyWrapping, ...] = ()
    reread: Callable[[], tuple[KeyWrapping, ...]] | None = field(default=None, repr=False, compare=False)
    forgotten_list: str = field(default="", repr=False)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> PrivacySettings:
        """Reads the settings. Each variable has a form ending in `_FILE` that names a file holding the value.

        Keys are 32 bytes in base64: THROUGHLINE_HASH_KEY, THROUGHLINE_KEY_ENCRYPTION_KEY, and retired
        key-encryption keys, separated by commas, in THROUGHLINE_RETIRED_KEY_ENCRYPTION_KEYS.
        THROUGHLINE_KEYS_FILE names a file made by `create_keys` and serves those that are not set.
        THROUGHLINE_KMS names an entry point of the group `throughline.kms` that gives the key-encryption keys instead.
        THROUGHLINE_KEY_STORE is a file path or a `postgresql://` URL; its schema is
        THROUGHLINE_KEY_STORE_SCHEMA. THROUGHLINE_FORGOTTEN_LIST is where the list of the forgotten is.
        Raises: PrivacySettingsError, which names the variable.
        """
        key_store = _read(env, KEY_STORE)
        if not key_store:
            raise PrivacySettingsError(_NO_KEY_STORE)
        open_keks = _kms(env)
        current, *retired = open_keks(env)
        return cls(
            hash_key=read_hash_key(env),
            key_encryption_key=current,
            key_store=key_store,
            key_store_schema=env.get(KEY_STORE_SCHEMA) or DEFAULT_SCHEMA,
            retired=tuple(retired),
            reread=lambda: open_keks(env),
            forgotten_list=_read(env, FORGOTTEN_LIST),
        )

    def hasher(self) -> IdentifierHasher:
        """The hasher under this installation's hash key."""
        return IdentifierHasher(self.hash_key)


def read_hash_key(env: Mapping[str, str] = os.environ) -> bytes:
    """The hash key alone, for services that resolve identifiers and seal nothing.

    Raises: PrivacySettingsError, which names the variable.
    """
    return _decode(_read(env, HASH_KEY) or _from_keys_file(env).get("hash_key", ""), HASH_KEY, HASH_KEY_BYTES)


def local_keks(env: Mapping[str, str] = os.environ) -> tuple[KeyWrapping, ...]:
    """The key-encryption keys of the environment, of files or of the keys file: the current one, then those retired.

    The entry point `local`, which is taken where THROUGHLINE_KMS names no other.
    Raises: PrivacySettingsError, which names the variable.
    """
    from_file = _from_keys_file(env)
    kek = _read(env, KEY_ENCRYPTION_KEY) or from_file.get("key_encryption_key", "")
    retired = _read(env, RETIRED_KEYS) or from_file.get("retired_key_encryption_keys", "")
    return (
        KeyEncryptionKey(_decode(kek, KEY_ENCRYPTION_KEY, KEY_BYTES)),
        *(KeyEncryptionKey(_decode(key.strip(), RETIRED_KEYS, KEY_BYTES)) for key in retired.split(",") if key.strip()),
    )


def open_key_store(settings: PrivacySettings) -> KeyStore:
    """Opens the key store, making its tables where absent. Raises: UnavailableError."""
    return open_key_store_at(settings.key_store, settings.key_store_schema)


def open_key_store_at(place: str, schema: str = "") -> KeyStore:
    """The same, without the keys that open what is in it; `schema` (empty: the usual one) counts in PostgreSQL.

    Raises: UnavailableError; PrivacySettingsError where no place is named.
    """
    if not place:
        raise PrivacySettingsError(_NO_KEY_STORE)
    if place.startswith(("postgresql://", "postgres://")):
        return PostgresKeyStore(place, schema or DEFAULT_SCHEMA)
    return SqliteKeyStore(Path(place))


def open_vault(settings: PrivacySettings) -> Vault:
    """Opens the vault on the key store that the settings name; nobody on the list of the forgotten has a key then.

    Raises: UnavailableError, ForgottenListError.
    """
    return Vault(
        open_key_store(settings),
        settings.key_encryption_key,
        retired=settings.retired,
        reread=settings.reread,
        forgotten=open_forgotten_list(settings.forgotten_list) if settings.forgotten_list else None,
    )


def create_keys(path: Path) -> None:
    """Makes new keys in a JSON file that only its owner can read (mode 0600), whole or not at all.

    Raises: FileExistsError where there is a file already: other keys would make everything sealed unreadable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = {
        "hash_key": _new_key(HASH_KEY_BYTES),
        "key_encryption_key": _new_key(KEY_BYTES),
        "retired_key_encryption_keys": "",
    }
    with _draft_of(path, keys) as draft:
        # A link, unlike a rename, never replaces what is there.
        os.link(draft, path)


def renew_keys(path: Path) -> None:
    """Makes another key-encryption key the current one of a keys file, and the one before it a retired one; whole or
    not at all.

    Raises: PrivacySettingsError.
    """
    keys = _read_keys_file(path)
    before = [keys["key_encryption_key"], *filter(None, keys.get("retired_key_encryption_keys", "").split(","))]
    renewed = {"key_encryption_key": _new_key(KEY_BYTES), "retired_key_encryption_keys": ",".join(before)}
    with _draft_of(path, keys | renewed) as draft:
        draft.replace(path)


def drop_retired_keys(path: Path, kek_ids: Collection[str]) -> int:
    """Takes retired key-encryption keys out of a keys file, for good; answers how many.

    Raises: PrivacySettingsError.
    """
    keys = _read_keys_file(path)
    retired = [key for key in keys.get("retired_key_encryption_keys", "").split(",") if key]
    kept = [key for key in retired if KeyEncryptionKey(_decode(key, RETIRED_KEYS, KEY_BYTES)).id not in kek_ids]
    if len(kept) < len(retired):
        with _draft_of(path, keys | {"retired_key_encryption_keys": ",".join(kept)}) as draft:
            draft.replace(path)
    return len(retired) - len(kept)


def _new_key(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode()


@contextmanager
def _draft_of(path: Path, keys: Mapping[str, str]) -> Generator[Path]:
    """A file beside `path` that holds the keys, on disk; what the block makes of it is on disk at its end."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(keys, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _kms(env: Mapping[str, str]) -> OpenKeks:
    name = env.get(KMS, "") or "local"
    found = entry_points(group=KMS_GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry_points(group=KMS_GROUP).names))
        raise PrivacySettingsError(f"{KMS} names {name!r}, which is not installed; known here: {known}")
    open_keks: OpenKeks = next(iter(found)).load()
    return open_keks


def _read(env: Mapping[str, str], name: str) -> str:
    value, file = env.get(name, ""), env.get(f"{name}_FILE", "")
    if value and file:
        raise PrivacySettingsError(f"both {name} and {name}_FILE are set; give one of them")
    if not file:
        return value.strip()
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PrivacySettingsError(f"{name}_FILE names {file}, which cannot be read: {error}") from error


def _from_keys_file(env: Mapping[str, str]) -> dict[str, str]:
    keys_file = env.get(KEYS_FILE, "")
    return _read_keys_file(Path(keys_file)) if keys_file else {}


def _read_keys_file(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_mode & 0o077:
            raise PrivacySettingsError(f"{KEYS_FILE} {path} can be read by others; run: chmod 600 {path}")
        keys: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, PrivacySettingsError):
            raise
        raise PrivacySettingsError(f"{KEYS_FILE} names {path}, which cannot be read: {error}") from error
    if not isinstance(keys, dict):
        raise PrivacySettingsError(f"{KEYS_FILE} {path} holds no JSON object; restore it from its backup")
    return {str(name): str(value) for name, value in keys.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- JSON


def _decode(text: str, name: str, size: int) -> bytes:
    if not text:
        raise PrivacySettingsError(f"{name} is not set; give {size} random bytes in base64, or set {KEYS_FILE}")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PrivacySettingsError(f"{name} is not base64; give {size} random bytes in base64") from error
    if len(key) != size:
        raise PrivacySettingsError(f"{name} has {len(key)} bytes; give {size} random bytes in base64")
    return key
