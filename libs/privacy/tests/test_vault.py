"""Law 9: whose key is destroyed is forgotten, everywhere and for good. On both key stores."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from throughline_kernel import UnavailableError
from throughline_privacy import (
    BoxInvalidError,
    KekRetiredError,
    KekUnknownError,
    KeyDestroyedError,
    KeyEncryptionKey,
    KeyStore,
    KeyUnknownError,
    PostgresKeyStore,
    SqliteKeyStore,
    Vault,
    WrappedKey,
)
from throughline_testkit import PostgresServer

KEK = KeyEncryptionKey(bytes(range(32)))
ANNA, BEN, CEM = (bytes([number]) * 16 for number in (1, 2, 3))
SECRET = b"Anna Meier, Hauptstrasse 1"

OpenStore = Callable[[], KeyStore]


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the same store again and again, as other processes do."""
    opened: list[KeyStore] = []
    if request.param == "sqlite":

        def open_() -> KeyStore:
            store = SqliteKeyStore(tmp_path / "keys.db")
            opened.append(store)
            return store
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        schema: str = request.getfixturevalue("postgres_schema")
        url = make_conninfo(
            host=server.host, port=server.port, dbname=server.dbname, user=server.user, password=server.password
        )

        def open_() -> KeyStore:
            store = PostgresKeyStore(url, schema)
            opened.append(store)
            return store

    yield open_
    for store in opened:
        store.close()


@pytest.fixture
def vault(open_store: OpenStore) -> Vault:
    return Vault(open_store(), KEK)


def test_what_was_sealed_opens_under_its_key_alone(vault: Vault) -> None:
    """Each comes back in its order; a box moved to another key id, or changed by a bit, does not open."""
    anna, ben, again = vault.seal_many([(ANNA, SECRET), (BEN, b""), (ANNA, SECRET)])
    assert vault.open_many([anna, ben, again]) == [SECRET, b"", SECRET]
    assert anna.box != again.box
    assert SECRET not in anna.box
    with pytest.raises(BoxInvalidError):
        vault.open(BEN, anna.box)
    with pytest.raises(BoxInvalidError):
        vault.open(ANNA, anna.box[:-1] + bytes([anna.box[-1] ^ 1]))
    with pytest.raises(BoxInvalidError):
        vault.open(ANNA, b"")


def test_a_forgotten_person_opens_nowhere_again(open_store: OpenStore, vault: Vault) -> None:
    """After destroy nothing opens and nothing is sealed, in this vault, in one that has the key in memory, and in a
    new one.
    """
    other = Vault(open_store(), KEK)
    anna, ben = vault.seal_many([(ANNA, SECRET), (BEN, SECRET)])
    assert other.open_many([anna, ben]) == [SECRET, SECRET]

    assert vault.destroy([ANNA, CEM]) == 2
    assert vault.destroy([ANNA]) == 0
    for each in (vault, other, Vault(open_store(), KEK)):
        assert each.open_many([anna, ben]) == [None, SECRET]
        assert each.is_destroyed(ANNA)
        assert each.destroyed([ANNA, BEN, CEM]) == {ANNA, CEM}
        with pytest.raises(KeyDestroyedError) as refused:
            each.seal_many([(BEN, b"x"), (ANNA, b"x"), (CEM, b"x")])
        assert refused.value.key_ids == {ANNA, CEM}


def test_all_processes_seal_under_the_first_key_made(open_store: OpenStore, vault: Vault) -> None:
    """Two that meet a persona at once agree on one key: each opens what the other sealed."""
    vaults = [vault, *(Vault(open_store(), KEK) for _ in range(3))]
    key_ids = [number.to_bytes(16, "big") for number in range(60)]
    sealed: list[list[tuple[bytes, bytes]]] = [[] for _ in vaults]

    def seal(number: int) -> None:
        sealed[number] = list(vaults[number].seal_many([(key_id, SECRET) for key_id in key_ids]))

    threads = [threading.Thread(target=seal, args=(number,)) for number in range(len(vaults))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in vaults:
        for boxes in sealed:
            assert each.open_many(boxes) == [SECRET] * len(key_ids)


def test_no_key_comes_back_while_another_destroys(open_store: OpenStore, vault: Vault) -> None:
    """Sealing and opening race with destruction: once destroy has returned, no vault opens what it forgot."""
    other = Vault(open_store(), KEK)
    key_ids = [number.to_bytes(16, "big") for number in range(120)]
    boxes = vault.seal_many([(key_id, SECRET) for key_id in key_ids])
    done = threading.Event()
    failures: list[str] = []

    def read() -> None:
        while not done.is_set():
            gone = set(destroyed)
            for key_id, opened in zip(key_ids, other.open_many(boxes), strict=True):
                if key_id in gone and opened is not None:
                    failures.append(key_id.hex())

    destroyed: list[bytes] = []
    reader = threading.Thread(target=read)
    reader.start()
    for key_id in key_ids:
        vault.destroy([key_id])
        destroyed.append(key_id)
    done.set()
    reader.join()
    assert failures == []
    assert other.open_many(boxes) == [None] * len(key_ids)


def test_a_store_takes_no_key_for_a_destroyed_id(open_store: OpenStore) -> None:
    """Whoever did not notice the destruction yet learns it when adding; a first key that stands is answered instead."""
    store, other = open_store(), open_store()
    first, second = WrappedKey("kek", b"first"), WrappedKey("kek", b"second")
    assert store.add({ANNA: first, BEN: first}) == {ANNA: first, BEN: first}
    assert store.last_destroyed() == 0
    assert other.destroy([ANNA]) == 1
    assert store.add({ANNA: second, BEN: second, CEM: second}) == {ANNA: None, BEN: first, CEM: second}
    assert store.fetch([ANNA, BEN, CEM, bytes(16)]) == {ANNA: None, BEN: first, CEM: second}
    assert store.replace({ANNA: second, BEN: second}) == 1
    assert store.fetch([ANNA, BEN]) == {ANNA: None, BEN: second}
    assert [key_id for _, key_id in store.destroyed_after(0)] == [ANNA]
    assert store.destroyed_after(store.last_destroyed()) == []
    assert store.add({}) == {}
    assert store.destroy([]) == 0


def test_a_key_read_before_its_destruction_is_not_remembered(tmp_path: Path) -> None:
    """Destroyed between this vault's read of the store and its cache, with the tombstone already seen by another
    thread.
    """

    class Interrupted(SqliteKeyStore):
        race: Callable[[], object] | None = None

        def fetch(self, key_ids: Collection[bytes]) -> dict[bytes, WrappedKey | None]:
            found = super().fetch(key_ids)
            race, self.race = self.race, None
            if race is not None:
                race()
            return found

    other = Vault(SqliteKeyStore(tmp_path / "keys.db"), KEK)
    anna, ben = other.seal_many([(ANNA, SECRET), (BEN, SECRET)])
    store = Interrupted(tmp_path / "keys.db")
    vault = Vault(store, KEK)
    store.race = lambda: (other.destroy([ANNA]), vault.open(*ben))
    vault.open(*anna)
    assert vault.open(*anna) is None
    vault.close()
    other.close()


def test_an_unknown_key_is_not_taken_for_a_forgotten_one(open_store: OpenStore, vault: Vault) -> None:
    """A key store that was lost says so; it does not pass for erasure."""
    anna = vault.seal(ANNA, SECRET)
    with pytest.raises(KeyUnknownError):
        vault.open(BEN, anna.box)


def test_the_memory_of_keys_is_bounded(open_store: OpenStore) -> None:
    """A cache of two keys serves a hundred personas."""
    vault = Vault(open_store(), KEK, cache_size=2)
    key_ids = [number.to_bytes(16, "big") for number in range(100)]
    boxes = [vault.seal(key_id, SECRET) for key_id in key_ids]
    assert vault.open_many(boxes) == [SECRET] * 100
    assert len(vault._keys) <= 2


def test_keys_are_rewrapped_under_a_new_key_encryption_key(open_store: OpenStore, vault: Vault) -> None:
    """After rotation the old key-encryption key opens nothing, and everything sealed before still opens."""
    new = KeyEncryptionKey(bytes(32))
    boxes = vault.seal_many([(number.to_bytes(16, "big"), SECRET) for number in range(2_500)])
    vault.destroy([boxes[0].key_id])
    assert vault.rotate(new) == 2_499
    assert vault.rotate(new) == 0
    assert open_store().keks() == {KEK.id: 0, new.id: 2_499}
    rotated = Vault(open_store(), new)
    assert rotated.open_many(boxes) == [None, *[SECRET] * 2_499]
    with pytest.raises(KekUnknownError, match=new.id):
        Vault(open_store(), KEK).open_many(boxes[1:2])
    meanwhile = Vault(open_store(), KEK, retired=[new])
    assert meanwhile.open_many(boxes[1:2]) == [SECRET]


def test_a_rotation_restarts_nobody(open_store: OpenStore, vault: Vault) -> None:
    """A process that knows the old key alone reads the new one where it is kept, for what it opens and for what it
    seals: nothing comes in under the old key after the rotation, and who cannot read the new one is told so.
    """
    new = KeyEncryptionKey(bytes(32))
    anna = vault.seal(ANNA, SECRET)
    reading, sealing = (Vault(open_store(), KEK, reread=lambda: (new, KEK)) for _ in range(2))
    left_behind = Vault(open_store(), KEK, reread=lambda: (KEK,))
    vault.rotate(new)
    assert reading.open(*anna) == SECRET
    ben = sealing.seal(BEN, SECRET)
    assert open_store().keks() == {KEK.id: 0, new.id: 2}
    assert Vault(open_store(), new).open_many([anna, ben]) == [SECRET, SECRET]
    with pytest.raises(KekRetiredError, match=KEK.id):
        left_behind.seal(CEM, SECRET)
    assert open_store().fetch([CEM]) == {}
    vault.rotate(KEK)
    assert Vault(open_store(), KEK).seal(CEM, SECRET)


def test_nothing_comes_in_under_a_key_that_goes_out_meanwhile(open_store: OpenStore, vault: Vault) -> None:
    """Processes that seal while a rotation runs leave no key behind under the old key-encryption key."""
    new = KeyEncryptionKey(bytes(32))
    other = Vault(open_store(), KEK, reread=lambda: (new, KEK))
    done = threading.Event()
    sealed: list[tuple[bytes, bytes]] = []

    def seal() -> None:
        number = 0
        while not done.is_set():
            number += 1
            sealed.append(other.seal(number.to_bytes(16, "big"), SECRET))

    sealing = threading.Thread(target=seal)
    sealing.start()
    vault.seal_many([(bytes([255]) * 12 + number.to_bytes(4, "big"), SECRET) for number in range(3_000)])
    vault.rotate(new)
    done.set()
    sealing.join()
    assert open_store().keks()[KEK.id] == 0
    assert Vault(open_store(), new).open_many(sealed) == [SECRET] * len(sealed)


def test_a_key_management_service_can_wrap_instead(open_store: OpenStore) -> None:
    """Whatever wraps and unwraps by key id serves, in few calls, and sees no personal value."""

    class Remote:
        id = "kms:1"
        calls = 0

        def wrap(self, keys: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
            self.calls += 1
            return KEK.wrap(keys)

        def unwrap(self, wrapped: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
            self.calls += 1
            return KEK.unwrap(wrapped)

    remote = Remote()
    boxes = Vault(open_store(), remote).seal_many([(number.to_bytes(16, "big"), SECRET) for number in range(500)])
    assert Vault(open_store(), remote).open_many(boxes) == [SECRET] * 500
    assert remote.calls == 2
    with pytest.raises(KekUnknownError, match="kms:1"):
        Vault(open_store(), KEK).open_many(boxes)


def test_a_wrapped_key_serves_no_other_id(open_store: OpenStore, vault: Vault) -> None:
    """Whoever can write to the key store cannot give one persona's key to another."""
    vault.seal(ANNA, SECRET)
    ben = vault.seal(BEN, SECRET)
    store = open_store()
    anna_key = store.fetch([ANNA])[ANNA]
    assert anna_key is not None
    store.replace({BEN: anna_key})
    with pytest.raises(BoxInvalidError, match="belongs to another id"):
        Vault(open_store(), KEK).open(BEN, ben.box)


def test_a_lost_connection_is_made_again(postgres: PostgresServer, postgres_schema: str) -> None:
    """A database that restarted, or a proxy that dropped us, costs nothing."""
    url = make_conninfo(
        host=postgres.host,
        port=postgres.port,
        dbname=postgres.dbname,
        user=postgres.user,
        password=postgres.password,
    )
    vault = Vault(PostgresKeyStore(url, postgres_schema), KEK)
    anna = vault.seal(ANNA, SECRET)
    with postgres.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'throughline-keys'"
        )
    assert vault.open(*anna) == SECRET
    vault.close()


def test_another_process_notices_the_destruction(tmp_path: Path) -> None:
    """A process that has the key in memory opens nothing after this one destroyed it."""
    vault = Vault(SqliteKeyStore(tmp_path / "keys.db"), KEK)
    anna = vault.seal(ANNA, SECRET)
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from throughline_privacy import KeyEncryptionKey, SqliteKeyStore, Vault
        vault = Vault(SqliteKeyStore(Path({str(tmp_path / "keys.db")!r})), KeyEncryptionKey(bytes(range(32))))
        for line in sys.stdin:
            print(vault.open({ANNA!r}, bytes.fromhex(line)), flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers: list[str] = []
        for destroy in (False, True):
            if destroy:
                vault.destroy([ANNA])
            process.stdin.write(anna.box.hex() + "\n")
            process.stdin.flush()
            answers.append(process.stdout.readline().strip())
        process.stdin.close()
    assert answers == [repr(SECRET), "None"]
    vault.close()


def test_files_hold_no_plaintext_and_no_key(tmp_path: Path) -> None:
    """The key store's files hold neither what was sealed nor an unwrapped key; after destroy not even the wrapped
    one.
    """
    store = SqliteKeyStore(tmp_path / "keys.db")
    vault = Vault(store, KEK)
    key_ids = [os.urandom(16) for _ in range(300)]
    vault.seal_many([(key_id, SECRET) for key_id in key_ids])
    kept = {key_id: row for key_id, row in store.fetch(key_ids).items() if row is not None}
    unwrapped = list(vault._unwrap(kept).values())
    assert {len(key) for key in unwrapped} == {32}
    wrapped = {key_id: row.wrapped for key_id, row in kept.items()}
    assert len(wrapped) == len(unwrapped) == 300

    def content() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.iterdir())

    held = content()
    assert SECRET not in held
    assert KEK.key not in held
    assert not [key for key in unwrapped if key in held]
    assert all(each in held for each in wrapped.values())

    vault.destroy(key_ids[:150])
    held = content()
    assert [key_id in held for key_id in key_ids] == [True] * 300
    assert [wrapped[key_id] in held for key_id in key_ids] == [False] * 150 + [True] * 150
    assert (tmp_path / "keys.db").stat().st_mode & 0o077 == 0
    vault.close()


def test_a_key_store_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    """A path that is a folder, and a file that is no database, are refusals with their cause."""
    with pytest.raises(UnavailableError, match="key store"):
        SqliteKeyStore(tmp_path)
    (tmp_path / "keys.db").write_bytes(b"not a database, and long enough to be read as one" * 30)
    with pytest.raises(UnavailableError, match="not a database"):
        SqliteKeyStore(tmp_path / "keys.db")
    with pytest.raises(UnavailableError, match="key store"):
        PostgresKeyStore("postgresql://127.0.0.1:1/nowhere?connect_timeout=1", "keys")


def test_a_key_id_has_sixteen_bytes(vault: Vault) -> None:
    """A wrong id is a programming error and makes no key."""
    with pytest.raises(ValueError, match="16 bytes"):
        vault.seal(b"short", SECRET)
