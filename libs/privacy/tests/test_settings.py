"""The installation's keys come from where they are said to be, or the message says what is missing."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from throughline_privacy import (
    KeyEncryptionKey,
    PrivacySettings,
    PrivacySettingsError,
    create_keys,
    drop_retired_keys,
    open_vault,
    read_hash_key,
    renew_keys,
)

HASH_KEY = base64.b64encode(bytes(32)).decode()
KEK = base64.b64encode(bytes(range(32))).decode()


def env(**more: str) -> dict[str, str]:
    given = {
        "THROUGHLINE_HASH_KEY": HASH_KEY,
        "THROUGHLINE_KEY_ENCRYPTION_KEY": KEK,
        "THROUGHLINE_KEY_STORE": "keys.db",
        **more,
    }
    return {name: value for name, value in given.items() if value}


def test_keys_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    """The file has mode 0600, opens a vault, and is never replaced: other keys would make all that is sealed
    unreadable.
    """
    file = tmp_path / "folder" / "keys.json"
    create_keys(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    made = file.read_bytes()
    with pytest.raises(FileExistsError):
        create_keys(file)
    assert file.read_bytes() == made
    assert list(file.parent.iterdir()) == [file]

    given = {"THROUGHLINE_KEYS_FILE": str(file), "THROUGHLINE_KEY_STORE": str(tmp_path / "keys.db")}
    settings = PrivacySettings.from_env(given)
    vault = open_vault(settings)
    assert vault.open(*vault.seal(bytes(16), b"x")) == b"x"
    assert settings.hasher().hash("email", "a@b.de") != bytes(32)
    assert read_hash_key(given) == settings.hash_key
    vault.close()


def test_two_installations_have_different_keys(tmp_path: Path) -> None:
    """Keys are random."""
    create_keys(tmp_path / "a.json")
    create_keys(tmp_path / "b.json")
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert one["hash_key"] != other["hash_key"]
    assert one["key_encryption_key"] != other["key_encryption_key"]


def test_the_key_encryption_key_of_a_keys_file_is_renewed_and_the_old_one_dropped(tmp_path: Path) -> None:
    """The hash key stays, the former key is kept to read with until it is dropped, and the file stays its owner's."""
    file = tmp_path / "keys.json"
    create_keys(file)
    given = {"THROUGHLINE_KEYS_FILE": str(file), "THROUGHLINE_KEY_STORE": str(tmp_path / "keys.db")}
    before = PrivacySettings.from_env(given)
    vault = open_vault(before)
    box = vault.seal(bytes(16), b"x")
    renew_keys(file)
    after = PrivacySettings.from_env(given)
    assert after.hash_key == before.hash_key
    assert after.key_encryption_key != before.key_encryption_key
    assert after.retired == (before.key_encryption_key,)
    assert file.stat().st_mode & 0o777 == 0o600
    open_vault(after).rotate(after.key_encryption_key)
    assert vault.seal(bytes([1]) * 16, b"y")
    assert drop_retired_keys(file, [before.key_encryption_key.id]) == 1
    last = PrivacySettings.from_env(given)
    assert last.retired == ()
    assert open_vault(last).open(*box) == b"x"
    assert [each.name for each in tmp_path.glob("*.json*")] == ["keys.json"]


def test_a_key_management_service_is_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that names itself under `throughline.kms` gives the keys; one that is not installed is named."""
    package = tmp_path / "acme_kms-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: acme-kms\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[throughline.kms]\nacme = acme_kms:keys\n")
    (tmp_path / "acme_kms.py").write_text(
        "from throughline_privacy import KeyEncryptionKey\n"
        "def keys(env):\n"
        "    return tuple(KeyEncryptionKey(bytes([int(each)]) * 32) for each in env['ACME_KEYS'].split(','))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = PrivacySettings.from_env(env(THROUGHLINE_KMS="acme", ACME_KEYS="7,6", THROUGHLINE_KEY_ENCRYPTION_KEY=""))
    assert settings.key_encryption_key.id != settings.retired[0].id
    with pytest.raises(PrivacySettingsError, match="'other', which is not installed; known here: acme, local"):
        PrivacySettings.from_env(env(THROUGHLINE_KMS="other"))


def test_every_variable_has_a_form_that_names_a_file(tmp_path: Path) -> None:
    """As secrets are mounted; the variable wins over the keys file, and retired keys are read."""
    (tmp_path / "hash").write_text(HASH_KEY + "\n")
    (tmp_path / "kek").write_text(KEK + "\n")
    (tmp_path / "store").write_text("postgresql://user:secret@db/keys\n")
    settings = PrivacySettings.from_env(
        {
            "THROUGHLINE_HASH_KEY_FILE": str(tmp_path / "hash"),
            "THROUGHLINE_KEY_ENCRYPTION_KEY_FILE": str(tmp_path / "kek"),
            "THROUGHLINE_KEY_STORE_FILE": str(tmp_path / "store"),
            "THROUGHLINE_KEY_STORE_SCHEMA": "mine",
            "THROUGHLINE_RETIRED_KEY_ENCRYPTION_KEYS": f"{HASH_KEY}, {KEK}",
        }
    )
    assert settings.hash_key == bytes(32)
    assert settings.key_encryption_key == KeyEncryptionKey(bytes(range(32)))
    assert settings.key_store == "postgresql://user:secret@db/keys"
    assert settings.key_store_schema == "mine"
    assert settings.retired == (KeyEncryptionKey(bytes(32)), KeyEncryptionKey(bytes(range(32))))


def test_no_secret_is_shown() -> None:
    """Settings that end in a log line show no key and no password."""
    shown = repr(PrivacySettings.from_env(env(THROUGHLINE_KEY_STORE="postgresql://user:secret@db/keys")))
    assert "secret" not in shown
    assert repr(bytes(32)) not in shown
    assert repr(bytes(range(32))) not in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"THROUGHLINE_HASH_KEY": ""}, "THROUGHLINE_HASH_KEY is not set"),
        ({"THROUGHLINE_KEY_ENCRYPTION_KEY": ""}, "THROUGHLINE_KEY_ENCRYPTION_KEY is not set"),
        ({"THROUGHLINE_KEY_STORE": ""}, "THROUGHLINE_KEY_STORE is not set"),
        ({"THROUGHLINE_HASH_KEY": "%%%"}, "THROUGHLINE_HASH_KEY is not base64"),
        ({"THROUGHLINE_KEY_ENCRYPTION_KEY": "c2hvcnQ="}, "has 5 bytes; give 32"),
        ({"THROUGHLINE_HASH_KEY_FILE": "/x"}, "both THROUGHLINE_HASH_KEY and THROUGHLINE_HASH_KEY_FILE"),
        ({"THROUGHLINE_HASH_KEY": "", "THROUGHLINE_HASH_KEY_FILE": "/absent"}, "names /absent"),
        ({"THROUGHLINE_KEYS_FILE": "/absent"}, "names /absent"),
    ],
)
def test_what_is_missing_or_wrong_is_named(more: dict[str, str], message: str) -> None:
    """Each refusal names the variable and what to give."""
    with pytest.raises(PrivacySettingsError, match=message):
        PrivacySettings.from_env(env(**more))


def test_a_keys_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """With the command that mends it."""
    create_keys(tmp_path / "keys.json")
    (tmp_path / "keys.json").chmod(0o644)
    with pytest.raises(PrivacySettingsError, match="chmod 600"):
        PrivacySettings.from_env(env(THROUGHLINE_KEYS_FILE=str(tmp_path / "keys.json")))
