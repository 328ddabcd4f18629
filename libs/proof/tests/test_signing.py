"""Keys are read or refused by name, notes have the C2SP form, and no changed note opens."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from throughline_proof import (
    Checkpoint,
    NoteInvalidError,
    PublicKey,
    SigningKey,
    SigningKeys,
    SigningKeysError,
    open_checkpoint,
    open_note,
    write_signing_keys,
)

SEED = b64encode(bytes(range(32))).decode()
CHECKPOINT = Checkpoint("test/journey/0", 17, bytes(32), bytes(range(32)), 18, 1_700_000_000_000_000)


def test_a_checkpoint_has_the_form_of_the_specification() -> None:
    """Origin, size, root in base64, our three lines; then an empty line and a signature line of a vkey's key."""
    keys = SigningKeys((SigningKey("test", bytes(32)),))
    note = keys.sign(CHECKPOINT.text())
    text, _, signatures = note.partition("\n\n")
    assert text.split("\n")[:3] == ["test/journey/0", "17", b64encode(bytes(32)).decode()]
    dash, name, encoded = signatures.rstrip("\n").split(" ")
    assert (dash, name) == ("\u2014", "test")
    raw = b64decode(encoded)
    assert (raw[:4].hex(), len(raw)) == (keys.public[0].vkey.split("+")[1], 68)
    assert open_checkpoint(note, keys.public) == CHECKPOINT


def test_a_vkey_that_the_specification_shows() -> None:
    """Its hash is that of name, newline, algorithm and key (C2SP signed-note, the example of its text)."""
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    key = PublicKey.of_vkey(vkey)
    assert (key.name, key.hash.hex(), key.vkey) == ("PeterNeumann", "c74f20a3", vkey)
    note = (
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBw"
        "JnAM=\n"
    )
    text, signers = open_note(note, [key])
    assert text.startswith("If you think")
    assert signers == [key]


def test_no_changed_byte_of_a_note_goes_unseen() -> None:
    """Flipped anywhere, by any bit, it does not open."""
    keys = SigningKeys((SigningKey.new("test"),))
    raw = keys.sign(CHECKPOINT.text()).encode()
    for at in range(len(raw)):
        for bit in (1, 2, 4, 8, 16, 32, 64, 128):
            bent = raw[:at] + bytes((raw[at] ^ bit,)) + raw[at + 1 :]
            with pytest.raises((NoteInvalidError, UnicodeDecodeError)):
                open_checkpoint(bent.decode(), keys.public)


def test_rotation_signs_with_both_and_the_old_key_still_verifies() -> None:
    """Whoever trusts one of two keys can open what both signed; what the retired one signed verifies for ever."""
    old, new = SigningKey.new("test"), SigningKey.new("test")
    before = SigningKeys((old,)).sign(CHECKPOINT.text())
    between = SigningKeys((old, new)).sign(CHECKPOINT.text())
    after = SigningKeys((new,), (old.public,))
    assert [key for _, signers in [open_note(between, after.public)] for key in signers] == [old.public, new.public]
    assert open_checkpoint(between, [new.public]) == open_checkpoint(before, after.public) == CHECKPOINT
    with pytest.raises(NoteInvalidError, match="no known key"):
        open_checkpoint(before, [new.public])


def test_a_keys_file_is_the_owners_alone_and_reads_back(tmp_path: Path) -> None:
    """Signing keys, retired ones and comments."""
    key, old = SigningKey.new("test"), SigningKey.new("test")
    write_signing_keys(tmp_path / "keys", ["# kept in the safe", old.public.vkey, key.line])
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    read = SigningKeys.from_env({"THROUGHLINE_SIGNING_KEYS_FILE": str(tmp_path / "keys")})
    assert (read.active, read.retired, read.installation) == ((key,), (old.public,), "test")
    assert str(key.seed) not in repr(read)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no signing key"),
        ("SIGNING+KEY+a+AAAA", "line 1: the seed of 'a' has 3 bytes"),
        (f"\nSIGNING+KEY+a+{SEED}x", "line 2: the seed of 'a' is not base64"),
        (f"SIGNING+KEY+a b+{SEED}", "no white space"),
        ("a+00000000+AAAA", "line 1: 'a"),
        (f"SIGNING+KEY+a+{SEED}\nSIGNING+KEY+b+{SEED}", "different names"),
    ],
)
def test_keys_that_are_none_are_refused_by_line(text: str, told: str) -> None:
    """And never repeated."""
    with pytest.raises(SigningKeysError, match="KEYS") as caught:
        SigningKeys.of_text(text, "KEYS")
    assert told in str(caught.value)
    assert SEED not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({}, "neither is set"),
        ({"THROUGHLINE_SIGNING_KEYS": "x", "THROUGHLINE_SIGNING_KEYS_FILE": "y"}, "both are set"),
        ({"THROUGHLINE_SIGNING_KEYS_FILE": "/absent"}, "/absent cannot be read"),
    ],
)
def test_settings_without_keys_are_refused(env: dict[str, str], told: str) -> None:
    """By the variable's name."""
    with pytest.raises(SigningKeysError, match=told):
        SigningKeys.from_env(env)
