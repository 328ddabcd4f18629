"""The keys that an installation signs with, and the notes it signs."""

from __future__ import annotations

import binascii
import os
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from throughline_eventlog import SettingsError
from throughline_proof.verifier import NoteInvalidError, PublicKey

SIGNING_KEYS: Final = "THROUGHLINE_SIGNING_KEYS"
"""The keys themselves, or with `_FILE` behind it the file that holds them."""
_SEED_BYTES: Final = 32
_PRIVATE: Final = "SIGNING+KEY+"
_DASH: Final = "\u2014 "


class SigningKeysError(SettingsError):
    """There are no keys to sign with, or they cannot be read; the message names the setting or the line."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs notes: 32 secret bytes, under a name."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def new(cls, name: str) -> SigningKey:
        """A new one. Raises: NoteInvalidError for a name that no key can have."""
        key = cls(name, secrets.token_bytes(_SEED_BYTES))
        _ = key.public
        return key

    @property
    def public(self) -> PublicKey:
        """What verifies its signatures."""
        return PublicKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def signature(self, text: str) -> bytes:
        """Over a text, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())

    @property
    def line(self) -> str:
        """The key as a keys file holds it: `SIGNING+KEY+name+seed`, the seed in base64."""
        return f"{_PRIVATE}{self.name}+{b64encode(self.seed).decode()}"

    @classmethod
    def of_line(cls, line: str) -> SigningKey:
        """Reads a line. Raises: NoteInvalidError, which does not repeat it."""
        name, _, encoded = line.removeprefix(_PRIVATE).partition("+")
        try:
            seed = b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise NoteInvalidError(f"the seed of {name!r} is not base64; give 32 random bytes in base64") from error
        if len(seed) != _SEED_BYTES:
            raise NoteInvalidError(f"the seed of {name!r} has {len(seed)} bytes; give 32 random bytes in base64")
        key = cls(name, seed)
        _ = key.public
        return key


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Those of an installation. `active` sign, each of them everything; `retired` signed what is older."""

    active: tuple[SigningKey, ...]
    retired: tuple[PublicKey, ...] = ()

    @property
    def installation(self) -> str:
        """The name of the installation: that of its first key."""
        return self.active[0].name

    @property
    def public(self) -> tuple[PublicKey, ...]:
        """All that verify what this installation signed at any time."""
        return (*(key.public for key in self.active), *self.retired)

    @classmethod
    def of_text(cls, text: str, where: str) -> SigningKeys:
        """Reads a keys file: a key a line, signing ones sign, public ones (vkeys) are retired; `#` begins a comment.

        Raises: SigningKeysError, which names the line but does not repeat it.
        """
        active: list[SigningKey] = []
        retired: list[PublicKey] = []
        for number, line in enumerate(map(str.strip, text.splitlines()), 1):
            try:
                if line.startswith(_PRIVATE):
                    active.append(SigningKey.of_line(line))
                elif line and not line.startswith("#"):
                    retired.append(PublicKey.of_vkey(line))
            except NoteInvalidError as error:
                raise SigningKeysError(f"{where}, line {number}: {error}") from None
        if not active:
            raise SigningKeysError(f"{where} holds no signing key; make one with `throughline signing new FILE`")
        if len({key.name for key in active} | {key.name for key in retired}) > 1:
            raise SigningKeysError(f"{where}: its keys have different names; all keys of an installation have its name")
        return cls(tuple(active), tuple(retired))

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> SigningKeys:
        """Reads THROUGHLINE_SIGNING_KEYS, or the file that THROUGHLINE_SIGNING_KEYS_FILE names.

        Raises: SigningKeysError, which names the variable and the remedy.
        """
        value, file = env.get(SIGNING_KEYS, ""), env.get(f"{SIGNING_KEYS}_FILE", "")
        if bool(value) == bool(file):
            why = "both are set; give one" if value else "neither is set; `throughline signing new FILE` makes a file"
            raise SigningKeysError(f"{SIGNING_KEYS} or {SIGNING_KEYS}_FILE: {why}")
        return cls.of_text(value, SIGNING_KEYS) if value else cls.of_file(Path(file))

    @classmethod
    def of_file(cls, path: Path) -> SigningKeys:
        """Reads a keys file. Raises: SigningKeysError."""
        try:
            return cls.of_text(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise SigningKeysError(f"the signing keys {path} cannot be read: {error}") from error

    def sign(self, text: str) -> str:
        """The note of a text, signed by every active key. Raises: NoteInvalidError for a text that no note can have."""
        if not text.endswith("\n") or "\n\n" in text:
            raise NoteInvalidError("a note's text ends in one newline and has no empty line")
        lines = [
            f"{_DASH}{key.name} {b64encode(key.public.hash + key.signature(text)).decode()}\n" for key in self.active
        ]
        return text + "\n" + "".join(lines)


def write_signing_keys(path: Path, lines: Iterable[str]) -> None:
    """Writes a keys file that only its owner can read (mode 0600), whole or not at all; replaces what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
