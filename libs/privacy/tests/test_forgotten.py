"""The list of the forgotten: whatever is restored, who is on it does not come back. On both places for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from throughline_kernel import UnavailableError
from throughline_privacy import (
    ForgottenClient,
    ForgottenList,
    ForgottenListError,
    KeyDestroyedError,
    KeyEncryptionKey,
    SqliteKeyStore,
    Vault,
    open_forgotten_list,
)
from throughline_testkit import PostgresServer

KEK = KeyEncryptionKey(bytes(range(32)))
ANNA, BEN, CEM = (bytes([number]) * 16 for number in (1, 2, 3))
CLIENT = ForgottenClient(bytes([7]) * 16, (bytes([8]) * 16,), (ANNA, BEN), (("email", bytes(32)),), 5)

OpenList = Callable[[], ForgottenList]


@pytest.fixture(params=["file", "postgres"])
def open_list(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenList]:
    """Opens the same list again and again, as other processes do."""
    if request.param == "file":
        yield lambda: open_forgotten_list(str(tmp_path / "folder" / "forgotten.ndjson"))
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = f"postgresql://{server.user}@{server.host}:{server.port}/{server.dbname}"
    yield lambda: open_forgotten_list(url)
    server.drop_schema("throughline_forgotten")


def test_what_is_on_the_list_is_there_once_for_everybody(open_list: OpenList) -> None:
    """Keys and clients, in order; what is added twice, by whomever, is on it once."""
    one, other = open_list(), open_list()
    assert one.keys() == set()
    assert one.add_clients([CLIENT]) == 1
    assert other.add_keys([ANNA, CEM]) == 1
    assert one.add_keys([ANNA, BEN, CEM]) == 0
    assert other.add_clients([CLIENT]) == 0
    later = CLIENT._replace(client_id=bytes(16), at=6)
    assert one.add_clients([later]) == 1
    for each in (one, other, open_list()):
        assert each.keys() == {ANNA, BEN, CEM}
        assert each.clients() == [CLIENT, later]


def test_an_old_key_store_resurrects_nobody(open_list: OpenList, tmp_path: Path) -> None:
    """A backup of the key store from before the forgetting has no key of theirs once a vault is opened on it."""
    vault = Vault(SqliteKeyStore(tmp_path / "keys.db"), KEK, forgotten=open_list())
    anna, ben = vault.seal_many([(ANNA, b"anna"), (BEN, b"ben")])
    vault.close()
    backup = (tmp_path / "keys.db").read_bytes()
    vault = Vault(SqliteKeyStore(tmp_path / "keys.db"), KEK, forgotten=open_list())
    assert vault.destroy([ANNA]) == 1
    vault.close()

    (tmp_path / "restored.db").write_bytes(backup)
    restored = Vault(SqliteKeyStore(tmp_path / "restored.db"), KEK, forgotten=open_list())
    assert restored.open_many([anna, ben]) == [None, b"ben"]
    with pytest.raises(KeyDestroyedError):
        restored.seal(ANNA, b"anna")
    assert restored.destroy_remaining([ANNA, BEN]) == 1
    restored.close()


def test_a_line_that_was_cut_off_is_none(tmp_path: Path) -> None:
    """What a process left when it was killed is taken away by the next one; what is damaged otherwise is refused."""
    file = tmp_path / "forgotten.ndjson"
    listed = open_forgotten_list(str(file))
    listed.add_keys([ANNA])
    assert file.stat().st_mode & 0o077 == 0
    with file.open("ab") as torn:
        torn.write(b'{"keys": ["00')
    assert listed.keys() == open_forgotten_list(str(file)).keys() == {ANNA}
    assert listed.add_keys([BEN]) == 1
    assert open_forgotten_list(str(file)).keys() == {ANNA, BEN}
    file.write_bytes(file.read_bytes().replace(b"[", b"(", 1))
    with pytest.raises(ForgottenListError, match="put it back from its backup"):
        open_forgotten_list(str(file)).keys()


def test_nothing_is_destroyed_that_cannot_be_listed(tmp_path: Path) -> None:
    """A list that is away stops the destruction, which is tried again: later nobody would know of it."""
    vault = Vault(SqliteKeyStore(tmp_path / "keys.db"), KEK)
    anna = vault.seal(ANNA, b"anna")
    vault.close()
    with pytest.raises(UnavailableError, match="list of the forgotten"):
        Vault(SqliteKeyStore(tmp_path / "keys.db"), KEK, forgotten=open_forgotten_list(str(tmp_path)))
    (tmp_path / "file").touch()
    listed = open_forgotten_list(str(tmp_path / "file" / "forgotten.ndjson"))
    with pytest.raises(UnavailableError, match="list of the forgotten"):
        Vault(SqliteKeyStore(tmp_path / "keys.db"), KEK, forgotten=listed).destroy([ANNA])
    assert Vault(SqliteKeyStore(tmp_path / "keys.db"), KEK).open(*anna) == b"anna"
