"""Law 1 the hard way: the process is killed under load, again and again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from ingestion_world import DUPLICATE, RECORDED, STORE, event

from ingestion.adapters.tables import TABLES, StoreTables
from ingestion.application.queries import read_state
from ingestion.application.recording import RECORDED as RECORDED_EVENT
from ingestion.application.replay import make_fold
from throughline.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from throughline_eventlog import StoreSettings, open_store
from throughline_eventlog.nats_server import free_port
from throughline_privacy import create_keys
from throughline_rpc import open_channel
from throughline_testkit.proofs import SIGNING_ENVIRONMENT

BATCH = 50
BATCHES = 60
UNDER_WAY = 3
KILLS = 3
READY_SECONDS = 30.0


class Process:
    """`python -m ingestion`, as it is run in earnest, with a bus that is not there."""

    def __init__(self, folder: Path, store: StoreSettings) -> None:
        create_keys(folder / "keys.json")
        self.address = f"127.0.0.1:{free_port()}"
        self._environment = {
            **os.environ,
            **store.environment,
            **SIGNING_ENVIRONMENT,
            "THROUGHLINE_PORT": self.address.rpartition(":")[2],
            "THROUGHLINE_KEYS_FILE": str(folder / "keys.json"),
            "THROUGHLINE_KEY_STORE": str(folder / "keys.db"),
            "THROUGHLINE_NATS_URL": f"nats://127.0.0.1:{free_port()}",
        }
        self._output = (folder / "output.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; it is ready when calls are answered."""
        command = [sys.executable, "-m", "ingestion"]
        self._process = subprocess.Popen(command, env=self._environment, stdout=self._output, stderr=self._output)

    def end(self, number: int) -> int:
        """Sends a signal and waits for the end; the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(30)

    def close(self) -> None:
        """Ends it, however it is."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._output.close()


@pytest.fixture
def process(store_settings: Callable[[str], StoreSettings], tmp_path: Path) -> Iterator[Process]:
    """One process on each kind of store in turn."""
    process = Process(tmp_path, store_settings("ingestion"))
    yield process
    process.close()


class Load:
    """Offers batches, a few at a time, until all are answered; what was not answered is offered again."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = ingestion_pb2_grpc.IngestionServiceStub(channel)
        self.left = {number: [event(f"{number}-{each}") for each in range(BATCH)] for number in range(BATCHES)}
        self.acknowledged: set[str] = set()
        self.verdicts: Counter[int] = Counter()
        self.unanswered = 0
        self._moved = asyncio.Event()

    async def register(self) -> None:
        """Makes channel and source known, once the process is there."""
        await self.stub.RegisterChannel(
            ingestion_pb2.RegisterChannelRequest(channel="store", traits=STORE),
            wait_for_ready=True,
            timeout=READY_SECONDS,
        )
        await self.stub.RegisterSource(ingestion_pb2.RegisterSourceRequest(source="till", name="Till"))

    async def run(self, *, until: int) -> None:
        """Returns when so many events are acknowledged, with others under way."""
        numbers = iter(list(self.left))
        offering = [asyncio.create_task(self._offer_all(numbers)) for _ in range(UNDER_WAY)]
        while len(self.acknowledged) < until and not all(task.done() for task in offering):
            self._moved.clear()
            await self._moved.wait()
        self._offering = offering

    async def broken_off(self) -> None:
        """Returns when everything that was under way has ended, one way or the other."""
        await asyncio.gather(*self._offering)

    async def _offer_all(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            request = ingestion_pb2.RecordInteractionsRequest(interactions=self.left[number])
            try:
                answer = await self.stub.RecordInteractions(request, timeout=READY_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                    raise
                self.unanswered += 1
                return
            finally:
                self._moved.set()
            self.verdicts.update(result.verdict for result in answer.results)
            self.acknowledged.update(result.interaction_id for result in answer.results)
            del self.left[number]


async def test_sigkill_under_load_loses_nothing_and_doubles_nothing(
    process: Process, store_settings: Callable[[str], StoreSettings]
) -> None:
    """What was acknowledged is in the log once; what was not is recorded once by the retry; the account adds up."""
    process.start()
    randomness = random.Random(1)
    async with open_channel(process.address) as channel:
        load = Load(channel)
        await load.register()
        for _ in range(KILLS):
            await load.run(until=len(load.acknowledged) + BATCH * randomness.randint(3, 12))
            process.end(signal.SIGKILL)
            await load.broken_off()
            process.start()
            await load.register()
        assert load.unanswered, "nothing was under way when it was killed"
        await load.run(until=BATCH * BATCHES)
        await load.broken_off()
        assert not load.left
        assert process.end(signal.SIGTERM) == 0
    verdicts, acknowledged = load.verdicts, load.acknowledged

    assert set(verdicts) <= {RECORDED, DUPLICATE}
    tables, fold = StoreTables(), make_fold()
    store = open_store(store_settings("ingestion"), tables=TABLES)
    with store.snapshot() as reader:
        log = reader.read()
        live = read_state(reader, tables)
    store.close()
    for each in log:
        fold.apply(each)
    recorded = [each.event_id.hex() for each in log if each.type == RECORDED_EVENT]
    assert len(recorded) == len(set(recorded)) == BATCH * BATCHES
    assert set(recorded) == acknowledged
    assert list(live.aggregates()) == list(fold.aggregates())
    assert live.accounts["till"].tally.recorded == BATCH * BATCHES
    assert live.accounts["till"].tally.duplicate >= verdicts[DUPLICATE]


async def test_sigterm_under_load_answers_what_it_took(process: Process) -> None:
    """Graceful: calls under way are answered, the exit code is 0."""
    process.start()
    async with open_channel(process.address) as channel:
        stub = ingestion_pb2_grpc.IngestionServiceStub(channel)
        await stub.ListChannels(ingestion_pb2.ListChannelsRequest(), wait_for_ready=True, timeout=READY_SECONDS)
        calls = [
            stub.RecordInteractions(
                ingestion_pb2.RecordInteractionsRequest(interactions=[event(f"{n}-{each}") for each in range(200)])
            )
            for n in range(10)
        ]
        first = await calls[0]
        assert len(first.results) == 200
        code = await asyncio.to_thread(process.end, signal.SIGTERM)
        ends = await asyncio.gather(*calls[1:], return_exceptions=True)
    assert code == 0
    for end in ends:
        # A call that had not begun when it stopped listening may be turned away, to be sent again.
        assert not isinstance(end, grpc.aio.AioRpcError) or end.code() == grpc.StatusCode.UNAVAILABLE
