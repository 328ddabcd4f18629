"""The embedded suite: starts whole, says what is wrong, loses nothing, leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from throughline.ingestion.v1 import interaction_pb2
from throughline_client import Throughline
from throughline_client.endpoints import RUN_FILE, read_run_file
from throughline_client.suite import Suite, SuiteError
from throughline_eventlog.nats_server import free_port
from throughline_testkit import eventually, eventually_sync

MakeVisit = Callable[..., interaction_pb2.Interaction]

SCRIPT = Path(sys.executable).with_name("throughline")


def is_alive(pid: int) -> bool:
    try:
        # A zombie answers signals; its state tells.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_running_suite_says_where_everything_is(suite: Suite) -> None:
    """run.json names addresses and processes, and every service is SERVING."""
    found = read_run_file(suite.folder)
    assert found is not None
    assert found.alive
    assert found.pid == os.getpid()
    assert found.addresses == suite.addresses
    assert set(found.pids) == {*suite.services, "nats"}
    assert all(is_alive(pid) for pid in found.pids.values())
    assert all(suite.is_serving(name) for name in suite.services)
    assert suite.deaths() == []


def test_up_twice_on_one_folder_is_refused(suite: Suite) -> None:
    """The second one says which folder and which process, and disturbs nothing."""
    with pytest.raises(SuiteError, match=rf"a suite runs on {suite.folder} already \(process {os.getpid()}"):
        Suite(suite.folder).start()
    assert suite.is_serving("ingestion")
    assert (suite.folder / RUN_FILE).exists()


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    """Port, who wanted it, and what to do; nothing is left running."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = Suite(tmp_path / "data", port_base=port, services=("ingestion",))
        with pytest.raises(SuiteError, match=rf"port {port} for ingestion cannot be used .* --port-base"):
            busy.start()
    assert busy.pids == {}


def test_a_service_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Everything else is stopped again, and the folder is free."""
    broken = Suite(tmp_path, services=("ingestion",), environment={"THROUGHLINE_GRACE_SECONDS": "soon"})
    with pytest.raises(SuiteError, match=r"(?s)ingestion ended with 1; its last words.*GRACE_SECONDS"):
        broken.start()
    assert not broken.bus.running
    with Suite(tmp_path, services=("ingestion",)):
        pass


async def test_a_killed_service_is_noticed_and_comes_back_with_everything(
    suite: Suite, client: Throughline, visit: MakeVisit
) -> None:
    """Who ended, how, and its last words; after a restart what was acknowledged is there."""
    offered = visit(1, mail="killed@shop.eu")
    recorded = await client.record(offered)
    os.kill(suite.pids["ingestion"], signal.SIGKILL)
    (death,) = await eventually(suite.deaths)
    assert (death.name, death.code) == ("ingestion", -signal.SIGKILL)
    assert death.last_lines
    assert "ingestion was ended by signal 9" in str(death)
    suite.restart("ingestion")
    assert suite.deaths() == []
    found = await client.ingestion.interaction(recorded.interaction_id)
    assert found.facts.source_interaction_id == offered.source_interaction_id


async def test_without_the_bus_ingestion_acknowledges_and_the_line_catches_up(
    suite: Suite, client: Throughline, visit: MakeVisit
) -> None:
    """The log is the record: the bus may come later."""
    suite.kill("nats")
    try:
        recorded = await client.record(visit(1, mail="nobus@shop.eu"))
        assert recorded.position > 0
    finally:
        suite.restart("nats")

    async def known() -> bool:
        found = [each async for each in client.log("identity").read(interaction_ids=[recorded.interaction_id])]
        return bool(found)

    await eventually(known, 60.0)
    suite.wait_ready()


def test_a_stopped_suite_keeps_its_data_and_goes_on(tmp_path: Path) -> None:
    """Stop, start: the same keys, the same log; no run file in between."""
    first = Suite(tmp_path, services=("ingestion",))
    first.start()
    pids = first.pids
    keys = (tmp_path / "keys.json").read_bytes()
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    first.stop()
    assert not (tmp_path / RUN_FILE).exists()
    assert not any(map(is_alive, pids.values()))
    with Suite(tmp_path, services=("ingestion",)) as second:
        assert (tmp_path / "keys.json").read_bytes() == keys
        assert second.is_serving("ingestion")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent died")
def test_a_crashed_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGKILL of whoever started the suite ends all of it, and the folder can be used again."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom throughline_client.suite import Suite\n"
        "suite = Suite(Path(sys.argv[1]), services=('ingestion',))\nsuite.start()\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        run = read_run_file(tmp_path)
        assert run is not None
        parent.kill()
        parent.wait()
    eventually_sync(lambda: not any(map(is_alive, run.pids.values())))
    assert not run.alive
    with Suite(tmp_path, services=("ingestion",)) as again:
        assert again.is_serving("ingestion")


def start_up(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [str(SCRIPT), "up", "--data", str(folder), "--port-base", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    assert process.stderr is not None
    told: list[str] = []
    for line in process.stderr:
        told.append(line)
        if line == "Ctrl-C stops it\n":
            return process
    raise AssertionError("".join(told))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_serves_until_it_is_asked_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    """A table of where everything is, a clean stop, exit code 0."""
    with start_up(tmp_path) as process:
        run = read_run_file(tmp_path)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "scoring" in out
    assert "nats://127.0.0.1:" in out
    assert err.rstrip().endswith("stopped")
    assert run is not None
    assert not any(map(is_alive, run.pids.values()))
    assert not (tmp_path / RUN_FILE).exists()


def test_up_stops_all_and_tells_where_a_part_ends(tmp_path: Path) -> None:
    """Nothing is restarted silently: the part, its last words, exit code 5."""
    with start_up(tmp_path) as process:
        run = read_run_file(tmp_path)
        assert run is not None
        os.kill(run.pids["scoring"], signal.SIGKILL)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "scoring was ended by signal 9; its last words" in err
    assert not any(map(is_alive, run.pids.values()))


def test_up_tells_why_it_cannot_start(suite: Suite) -> None:
    """Folder in use: one clear line, exit code 3."""
    refused = subprocess.run(
        [str(SCRIPT), "up", "--data", str(suite.folder), "--port-base", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 3
    assert "already" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert suite.is_serving("ingestion")


def test_no_two_parts_get_one_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may name a free port twice before anybody listens there."""
    real = iter(free_port() for _ in range(40))

    def twice() -> Iterator[int]:
        for port in real:
            yield from (port, port)

    named = twice()
    monkeypatch.setattr("throughline_client.suite.suite.free_port", lambda _host: next(named))
    suite = Suite(tmp_path)
    suite._prepare()
    assert len({*suite.addresses.values(), *suite.metrics.values(), f"127.0.0.1:{suite._port(5)}"}) == 11
