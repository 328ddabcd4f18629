"""What sealing costs an event, and what it takes to forget."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.measuring import Figure
from line import Line, identifier

from throughline.identity.v1 import identity_pb2
from throughline_privacy import KeyEncryptionKey, Sealed, SqliteKeyStore, Vault

SECTION: Final = "sealing and forgetting"
BATCH: Final = 500
# About what the personal values of an interaction are.
PLAINTEXT: Final = os.urandom(120)


def sealing(folder: Path, events: int) -> list[Figure]:
    """Sealing and opening in batches of 500, new personas and known ones; a rotation of the key-encryption key."""
    vault = Vault(SqliteKeyStore(folder / "sealing.db"), KeyEncryptionKey(os.urandom(32)))
    personas = [os.urandom(16) for _ in range(events)]
    boxes: list[list[Sealed]] = []

    def seal() -> None:
        boxes[:] = [vault.seal_many([(key, PLAINTEXT) for key in batch]) for batch in _batches(personas)]

    def open_() -> None:
        for batch in boxes:
            vault.open_many(batch)

    figures = [
        _measured("encryption, persona new: a key made, wrapped and synced", seal, events),
        _measured("encryption, persona known", seal, events, expected=5.0),
        _measured("decryption", open_, events),
        _measured(
            "rotating the key-encryption key, a key", lambda: vault.rotate(KeyEncryptionKey(os.urandom(32))), events
        ),
    ]
    vault.close()
    return figures


async def forgetting(line: Line, mails: Sequence[str]) -> list[Figure]:
    """One client after the other: logged, on the list, keys destroyed; then until everyone has heard of it."""
    clients: list[str] = []
    for mail in mails:
        request = identity_pb2.ResolveClientRequest(identifiers=[identifier("email", mail)])
        clients.append((await line.identity.ResolveClient(request)).client_id)
    wanted = list(dict.fromkeys(clients))
    began = time.perf_counter()
    for client_id in wanted:
        await line.identity.ForgetClient(
            identity_pb2.ForgetClientRequest(client_id=client_id, reason="bench", decided_by="bench")
        )
    answered = time.perf_counter() - began
    await line.settled(3_600.0)
    heard = time.perf_counter() - began
    note = f"{len(wanted)} clients"
    return [
        Figure(SECTION, "ForgetClient, one at a time", len(wanted) / answered, "clients/s", "SQLite", note=note),
        Figure(SECTION, "until all five have dropped them", len(wanted) / heard, "clients/s", "SQLite", note=note),
    ]


def _batches(personas: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [personas[start : start + BATCH] for start in range(0, len(personas), BATCH)]


def _measured(what: str, work: Callable[[], object], events: int, expected: float | None = None) -> Figure:
    cpu, began = time.process_time(), time.perf_counter()
    work()
    spent, seconds = time.process_time() - cpu, time.perf_counter() - began
    return Figure(
        SECTION,
        what,
        seconds * 1e6 / events,
        "us/event",
        "SQLite",
        cpu_micros=spent * 1e6 / events,
        expected=expected,
        at_least=False,
        note=f"{events:,} in batches of {BATCH}",
    )
