"""Long requests are read in a process of their own, to the same end as here, whatever becomes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from ingestion_offers import NOW, PURCHASE, sent

from ingestion.adapters.content import ContentMac
from ingestion.adapters.personas import Personas
from ingestion.adapters.reading import ContractReader
from ingestion.adapters.reading_process import SHORT, ReadingProcess
from ingestion.application.ports import Request, RequestRead
from throughline.ingestion.v1 import ingestion_pb2
from throughline_privacy import PrivacySettings, create_keys
from throughline_testkit import eventually

EVENTS = 200


def batch(first: int, *, broken: bool = False) -> bytes:
    """A long batch; where it is broken, one event has no kind and another is not UTF-8."""
    offered = [sent(PURCHASE._replace(source_interaction_id=f"{first + number}")) for number in range(EVENTS)]
    if broken:
        offered[1].kind, offered[2].matter = "", "BROKEN"
    raw = ingestion_pb2.RecordInteractionsRequest(interactions=offered).SerializeToString()
    assert len(raw) > SHORT
    return raw.replace(b"BROKEN", b"BR\xffKEN")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContractReader:
    """A reader in this process; the other gets its keys from the environment, as ingestion does."""
    create_keys(tmp_path / "keys.json")
    monkeypatch.setenv("THROUGHLINE_KEYS_FILE", str(tmp_path / "keys.json"))
    monkeypatch.setenv("THROUGHLINE_KEY_STORE", str(tmp_path / "keys.db"))
    settings = PrivacySettings.from_env(os.environ)
    return ContractReader(ContentMac(settings.hash_key), Personas(settings.hasher()))


@pytest_asyncio.fixture
async def reading(here: ContractReader) -> AsyncIterator[ReadingProcess]:
    """One that runs."""
    process = ReadingProcess(here, lambda: NOW)
    running = asyncio.create_task(process.run())
    await eventually(lambda: process.pid is not None)
    yield process
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert process.pid is None
    await process.close()


@pytest.mark.parametrize("broken", [False, True])
async def test_what_is_read_elsewhere_is_what_is_read_here(
    reading: ReadingProcess, here: ContractReader, broken: bool
) -> None:
    """Offers, violations and batch ids, to the last bit; also of what is no message, and of a batch too large."""
    raw = batch(0, broken=broken)
    assert await reading.read(Request.BATCH, raw, in_turn=False) == here.request(Request.BATCH, raw, NOW)
    nonsense = b"\xff" * (SHORT + 1)
    read = await reading.read(Request.STREAMED, nonsense, in_turn=False)
    assert read.violations
    assert read == here.request(Request.STREAMED, nonsense, NOW)
    many = batch(0) * 6
    read = await reading.read(Request.BATCH, many, in_turn=False)
    assert len(read.offers) == 6 * EVENTS
    assert {offer.violations[0].reason for offer in read.offers} == {"BATCH_SIZE_INVALID"}


async def test_none_overtakes_another_in_a_stream(reading: ReadingProcess, here: ContractReader) -> None:
    """A short request that must keep its turn waits for the long one before it."""
    ended: list[str] = []

    async def read(name: str, raw: bytes) -> None:
        await reading.read(Request.STREAMED, raw, in_turn=True)
        ended.append(name)

    short = ingestion_pb2.StreamInteractionsRequest(batch_id="b").SerializeToString()
    await asyncio.gather(read("long", batch(0)), read("short", short))
    assert ended == ["long", "short"]


async def test_a_process_that_dies_costs_nobody_an_answer(reading: ReadingProcess, here: ContractReader) -> None:
    """What waited for it is read here, and it is started again."""
    died = reading.pid
    assert died is not None
    os.kill(died, signal.SIGSTOP)
    raws = [batch(number) for number in range(4)]
    waiting = [asyncio.ensure_future(reading.read(Request.BATCH, raw, in_turn=True)) for raw in raws]
    await asyncio.sleep(0)
    os.kill(died, signal.SIGKILL)
    answers: list[RequestRead] = await asyncio.gather(*waiting)
    assert answers == [here.request(Request.BATCH, raw, NOW) for raw in raws]
    await eventually(lambda: reading.pid not in {None, died})
    assert await reading.read(Request.BATCH, raws[0], in_turn=False) == answers[0]


async def test_what_it_remembers_goes_with_it(reading: ReadingProcess, here: ContractReader) -> None:
    """When somebody is forgotten the process ends, nothing that waits is lost, and another one reads on."""
    remembering = reading.pid
    waiting = asyncio.ensure_future(reading.read(Request.BATCH, batch(0), in_turn=True))
    await asyncio.sleep(0)
    await asyncio.to_thread(reading.forget_remembered)
    assert await waiting == here.request(Request.BATCH, batch(0), NOW)
    await eventually(lambda: reading.pid not in {None, remembering})


async def test_a_process_that_is_back_overtakes_nothing(reading: ReadingProcess, here: ContractReader) -> None:
    """While the thread still reads of a stream, what follows waits behind it, whoever could be faster."""
    gate = threading.Event()
    read_here = here.request

    def held(kind: Request, raw: bytes, now: int) -> RequestRead:
        # Longer than the new process may take to come.
        assert gate.wait(60)
        return read_here(kind, raw, now)

    ended: list[str] = []

    async def read(name: str, raw: bytes) -> None:
        await reading.read(Request.STREAMED, raw, in_turn=True)
        ended.append(name)

    died = reading.pid
    assert died is not None
    here.request = held
    os.kill(died, signal.SIGSTOP)
    first = asyncio.ensure_future(read("first", batch(0)))
    await asyncio.sleep(0)
    os.kill(died, signal.SIGKILL)
    await eventually(lambda: reading.pid not in {None, died})
    second = asyncio.ensure_future(read("second", batch(1)))
    # The process would answer this one at once: by then the second would have overtaken.
    await reading.read(Request.BATCH, batch(2), in_turn=False)
    assert ended == []
    gate.set()
    await asyncio.gather(first, second)
    assert ended == ["first", "second"]
