"""Seals personal values under one key per persona, so that destroying the key forgets the person (law 9)."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from threading import Lock
from typing import Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from throughline_kernel import UnavailableError
from throughline_privacy.forgotten import ForgottenList

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 16
NONCE_BYTES: Final = 12
_REWRAP_PAGE: Final = 1_000


class Sealed(NamedTuple):
    """A sealed value: the id of the key that opens it, and nonce (12 bytes), ciphertext and tag."""

    key_id: bytes
    box: bytes


class WrappedKey(NamedTuple):
    """A persona's key as it is stored: encrypted under the key-encryption key of this id."""

    kek_id: str
    wrapped: bytes


class KeyDestroyedError(Exception):
    """Nothing can be sealed under a key that was destroyed: take the persona's next generation."""

    def __init__(self, key_ids: frozenset[bytes]) -> None:
        super().__init__(f"destroyed for good: {', '.join(sorted(key_id.hex() for key_id in key_ids))}")
        self.key_ids = key_ids


class KeyUnknownError(LookupError):
    """The key store never held this key: it is not the store these values were sealed with."""


class BoxInvalidError(ValueError):
    """The box was not sealed under this key id, or was changed since."""


class KekUnknownError(LookupError):
    """A key is wrapped under a key-encryption key that was not given."""


class KekRetiredError(UnavailableError):
    """Nothing more is wrapped under a key-encryption key that was rotated out."""

    def __init__(self, kek_ids: Collection[str]) -> None:
        named = ", ".join(sorted(kek_ids))
        super().__init__(
            "LOG_UNAVAILABLE",
            f"key-encryption key {named} was rotated out; give this process the new one, then retry",
            {"cause": f"key store: key-encryption key {named} was rotated out"},
        )


class KeyWrapping(Protocol):
    """A key-encryption key, wherever it is kept. Safe to use from several threads."""

    @property
    def id(self) -> str:
        """Names it in the key store, for ever."""
        ...

    def wrap(self, keys: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Keys (32 bytes) by key id (16 bytes), encrypted and bound to their ids. Raises: UnavailableError."""
        ...

    def unwrap(self, wrapped: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """What `wrap` gave, decrypted.

        Raises: BoxInvalidError where one was changed or belongs to another id; UnavailableError.
        """
        ...


@dataclass(frozen=True, slots=True)
class KeyEncryptionKey:
    """Wraps the keys of personas in this process: 32 bytes. Its id follows from it, so the two cannot be mixed up.

    Raises: ValueError where the key is not 32 bytes.
    """

    key: bytes = field(repr=False)
    id: str = field(init=False)
    _cipher: AESGCM = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise ValueError(f"the key-encryption key has {len(self.key)} bytes; give {KEY_BYTES}")
        object.__setattr__(self, "id", blake2b(self.key, digest_size=8, person=b"kek id").hexdigest())
        object.__setattr__(self, "_cipher", AESGCM(self.key))

    def wrap(self, keys: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Each as nonce, ciphertext and tag, with its id as associated data."""
        encrypt = self._cipher.encrypt
        return {
            key_id: nonce + encrypt(nonce, key, key_id)
            for (key_id, key), nonce in zip(keys.items(), _random(NONCE_BYTES, len(keys)), strict=True)
        }

    def unwrap(self, wrapped: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """What `wrap` gave. Raises: BoxInvalidError."""
        decrypt = self._cipher.decrypt
        keys: dict[bytes, bytes] = {}
        for key_id, box in wrapped.items():
            try:
                keys[key_id] = decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], key_id)
            except (InvalidTag, ValueError) as error:
                raise BoxInvalidError(f"the stored key {key_id.hex()} was changed or belongs to another id") from error
        return keys


class KeyStore(Protocol):
    """Keeps wrapped keys and tombstones. Whatever changes is durable on return; several processes share one
    store.
    """

    def fetch(self, key_ids: Collection[bytes]) -> dict[bytes, WrappedKey | None]:
        """What stands for each id: the wrapped key, None where destroyed, no entry where never seen."""
        ...

    def add(self, keys: Mapping[bytes, WrappedKey]) -> dict[bytes, WrappedKey | None]:
        """Stores keys for ids never seen, in one commit; answers what now stands for every id, as `fetch`
        does.

        Raises: KekRetiredError, with nothing stored, where one is wrapped under what was rotated out.
        """
        ...

    def destroy(self, key_ids: Collection[bytes]) -> int:
        """Deletes keys and leaves tombstones, also for ids never seen; answers how many were not destroyed
        before.
        """
        ...

    def destroyed_after(self, sequence: int) -> list[tuple[int, bytes]]:
        """(sequence, key id) of the tombstones after a sequence, in order; sequences become visible in order."""
        ...

    def last_destroyed(self) -> int:
        """Sequence of the newest tombstone, 0 where there is none."""
        ...

    def page(self, after: bytes, limit: int) -> dict[bytes, WrappedKey]:
        """Up to `limit` keys in the order of their ids, behind one (empty: from the first)."""
        ...

    def wrapped_otherwise(self, kek_id: str, limit: int) -> dict[bytes, WrappedKey]:
        """Up to `limit` keys that are not wrapped under this key-encryption key."""
        ...

    def replace(self, keys: Mapping[bytes, WrappedKey]) -> int:
        """Stores new wrappings of keys that still stand, in one commit; answers how many."""
        ...

    def rotate_to(self, kek_id: str, others: Collection[str]) -> None:
        """From now on no key is added under these, or any other key-encryption key that was ever in use here."""
        ...

    def keks(self) -> dict[str, int]:
        """How many keys are wrapped under each key-encryption key: 0 for those rotated out that wrap none."""
        ...

    def close(self) -> None:
        """Gives back what the store holds open."""
        ...


class Vault:
    """Seals and opens personal values. Safe to use from several threads.

    Unwrapped keys are kept in memory, at most `cache_size` (about 250 bytes each; the cipher made of one would take ten
    times that). Every call first asks the store for tombstones that came since the last one, in one indexed read: a key
    destroyed by any process opens nothing and seals nothing in a call that begins after its destruction was committed.

    `reread` gives the key-encryption keys as they are now, the current one first: asked where a key is met that was
    wrapped under one not known here, and where the one known was rotated out, so that a rotation restarts nobody.

    What is destroyed is put on the list of the `forgotten` first. Whatever key store is found here, a restored one too,
    has no key of what is on the list once the vault is there.
    """

    def __init__(
        self,
        store: KeyStore,
        kek: KeyWrapping,
        *,
        retired: Iterable[KeyWrapping] = (),
        reread: Callable[[], Sequence[KeyWrapping]] | None = None,
        forgotten: ForgottenList | None = None,
        cache_size: int = 100_000,
    ) -> None:
        self._store = store
        self._kek = kek
        self._keks = {each.id: each for each in (*retired, kek)}
        self._reread = reread
        self._forgotten = forgotten
        self._cache_size = cache_size
        self._keys: OrderedDict[bytes, bytes] = OrderedDict()
        self._tombstone = store.last_destroyed()
        self._lock = Lock()
        if forgotten is not None:
            self._destroy_remaining(forgotten.keys())

    def seal_many(self, items: Sequence[tuple[bytes, bytes]]) -> list[Sealed]:
        """Seals each (key id, plaintext), in order. Keys never seen are made, all in one durable commit
        before this returns.

        Raises: KeyDestroyedError, with every destroyed id among them and nothing sealed.
        """
        keys = self._keys_to_seal({key_id for key_id, _ in items})
        return [
            Sealed(key_id, nonce + AESGCM(keys[key_id]).encrypt(nonce, plaintext, key_id))
            for (key_id, plaintext), nonce in zip(items, _random(NONCE_BYTES, len(items)), strict=True)
        ]

    def seal(self, key_id: bytes, plaintext: bytes) -> Sealed:
        """Seals one value. Raises: KeyDestroyedError."""
        return self.seal_many([(key_id, plaintext)])[0]

    def open(self, key_id: bytes, box: bytes) -> bytes | None:
        """The plaintext, or None where the key was destroyed. Raises: BoxInvalidError, KeyUnknownError."""
        return self.open_many([(key_id, box)])[0]

    def open_many(self, items: Sequence[tuple[bytes, bytes]]) -> list[bytes | None]:
        """The plaintext of each (key id, box), in order; None where its key was destroyed.

        Raises: BoxInvalidError, KeyUnknownError, KekUnknownError.
        """
        keys = self._standing({key_id for key_id, _ in items})
        opened: list[bytes | None] = []
        for key_id, box in items:
            if key_id not in keys:
                raise KeyUnknownError(f"no key {key_id.hex()} was ever in this key store")
            key = keys[key_id]
            if key is None:
                opened.append(None)
                continue
            try:
                opened.append(AESGCM(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], key_id))
            except (InvalidTag, ValueError) as error:
                raise BoxInvalidError(f"not sealed under key {key_id.hex()}, or changed since") from error
        return opened

    def destroy(self, key_ids: Collection[bytes]) -> int:
        """Destroys keys for good, durably, in this and every other process; answers how many were not
        destroyed before.

        An id never seen is destroyed too: nothing will ever be sealed under it. Raises: UnavailableError.
        """
        if self._forgotten is not None:
            self._forgotten.add_keys(key_ids)
        destroyed = self._store.destroy(set(key_ids))
        with self._lock:
            self._drop(key_ids)
        return destroyed

    def destroy_remaining(self, key_ids: Collection[bytes]) -> int:
        """As `destroy`, for ids of which most are destroyed already; answers how many were not."""
        if self._forgotten is not None:
            self._forgotten.add_keys(key_ids)
        return self._destroy_remaining(key_ids)

    def is_destroyed(self, key_id: bytes) -> bool:
        """Tells whether the key was destroyed, by any process."""
        return bool(self.destroyed([key_id]))

    def destroyed(self, key_ids: Collection[bytes]) -> set[bytes]:
        """Those of the ids whose keys were destroyed."""
        return {key_id for key_id, key in self._standing(set(key_ids)).items() if key is None}

    def rotate(self, kek: KeyWrapping, told: Callable[[int], None] = lambda _: None) -> int:
        """Wraps every key under another key-encryption key, which alone is used from here on, by every process;
        answers how many were wrapped anew, and tells of each page.

        No box and no log is touched. Can be stopped and run again. Other processes must be able to reread the key, or
        have it already (as retired), else they cannot read what was wrapped anew.
        """
        with self._lock:
            self._keks[kek.id] = self._kek = kek
        # First: what another process adds meanwhile is under the new key already.
        self._store.rotate_to(kek.id, [kek_id for kek_id in self._keks if kek_id != kek.id])
        rewrapped = 0
        while page := self._store.wrapped_otherwise(kek.id, _REWRAP_PAGE):
            replaced = self._store.replace(self._wrap(self._unwrap(page)))
            rewrapped += replaced
            told(replaced)
        return rewrapped

    def close(self) -> None:
        """Drops the keys in memory and closes the store."""
        with self._lock:
            self._keys.clear()
        self._store.close()

    def _destroy_remaining(self, key_ids: Collection[bytes]) -> int:
        remaining = set(key_ids) - {key_id for _, key_id in self._store.destroyed_after(0)}
        return self._store.destroy(remaining) if remaining else 0

    def _keys_to_seal(self, key_ids: set[bytes]) -> Mapping[bytes, bytes]:
        standing = self._standing(key_ids)
        as_of = self._tombstone
        missing = key_ids - standing.keys()
        if missing:
            for key_id in missing:
                if len(key_id) != KEY_ID_BYTES:
                    raise ValueError(f"a key id has {KEY_ID_BYTES} bytes, not {len(key_id)}: {key_id.hex()}")
            made = dict(zip(missing, _random(KEY_BYTES, len(missing)), strict=True))
            wrapped, stored = self._add(made)
            # Another process may have been first: its key stands.
            others = {key_id: key for key_id, key in stored.items() if key is not None and key != wrapped[key_id]}
            theirs = self._unwrap(others) if others else {}
            for key_id, stands in stored.items():
                standing[key_id] = None if stands is None else theirs.get(key_id, made[key_id])
            self._remember({key_id: key for key_id in missing if (key := standing[key_id]) is not None}, as_of)
        usable = {key_id: key for key_id, key in standing.items() if key is not None}
        if len(usable) != len(key_ids):
            raise KeyDestroyedError(frozenset(key_ids - usable.keys()))
        return usable

    def _standing(self, key_ids: set[bytes]) -> dict[bytes, bytes | None]:
        """Unwrapped keys by id, None where destroyed, no entry where never seen."""
        as_of = self._catch_up()
        found: dict[bytes, bytes | None] = {}
        with self._lock:
            cached, touch = self._keys, self._keys.move_to_end
            for key_id in key_ids:
                if (key := cached.get(key_id)) is not None:
                    touch(key_id)
                    found[key_id] = key
        if len(found) < len(key_ids):
            fetched = self._store.fetch(key_ids - found.keys())
            unwrapped = self._unwrap({key_id: key for key_id, key in fetched.items() if key is not None})
            self._remember(unwrapped, as_of)
            found.update(dict.fromkeys(fetched))
            found.update(unwrapped)
        return found

    def _catch_up(self) -> int:
        tombstones = self._store.destroyed_after(self._tombstone)
        with self._lock:
            if tombstones:
                self._drop([key_id for _, key_id in tombstones])
                self._tombstone = max(self._tombstone, tombstones[-1][0])
            return self._tombstone

    def _remember(self, keys: Mapping[bytes, bytes], as_of: int) -> None:
        """Caches keys read when tombstone `as_of` was the newest known."""
        with self._lock:
            if self._tombstone != as_of:
                return  # one of them may be destroyed by now, and its tombstone already passed
            self._keys.update(keys)
            while len(self._keys) > self._cache_size:
                self._keys.popitem(last=False)

    def _drop(self, key_ids: Iterable[bytes]) -> None:
        for key_id in key_ids:
            self._keys.pop(key_id, None)

    def _add(self, made: Mapping[bytes, bytes]) -> tuple[dict[bytes, WrappedKey], dict[bytes, WrappedKey | None]]:
        """Stores new keys; gives them as they were wrapped, and what stands."""
        wrapped = self._wrap(made)
        try:
            return wrapped, self._store.add(wrapped)
        except KekRetiredError:
            if not self._renew():
                raise
        wrapped = self._wrap(made)
        return wrapped, self._store.add(wrapped)

    def _wrap(self, keys: Mapping[bytes, bytes]) -> dict[bytes, WrappedKey]:
        kek = self._kek
        return {key_id: WrappedKey(kek.id, wrapped) for key_id, wrapped in kek.wrap(keys).items()}

    def _unwrap(self, wrapped: Mapping[bytes, WrappedKey]) -> dict[bytes, bytes]:
        by_kek: dict[str, dict[bytes, bytes]] = {}
        for key_id, key in wrapped.items():
            by_kek.setdefault(key.kek_id, {})[key_id] = key.wrapped
        unwrapped: dict[bytes, bytes] = {}
        for kek_id, keys in by_kek.items():
            if kek_id not in self._keks:
                self._renew()
            kek = self._keks.get(kek_id)
            if kek is None:
                raise KekUnknownError(
                    f"key {min(keys).hex()} is wrapped under key-encryption key {kek_id}; "
                    f"given: {', '.join(self._keks)}"
                )
            unwrapped.update(kek.unwrap(keys))
        return unwrapped

    def _renew(self) -> bool:
        """Reads the key-encryption keys again; tells whether another one is the current one now."""
        if self._reread is None:
            return False
        keks = self._reread()
        with self._lock:
            before = self._kek.id
            self._kek = keks[0]
            self._keks.update((each.id, each) for each in keks)
            return self._kek.id != before


def _random(size: int, count: int) -> Iterator[bytes]:
    """So many random strings of `size` bytes, asked of the system at once."""
    drawn = os.urandom(size * count)
    return (drawn[start : start + size] for start in range(0, len(drawn), size))
