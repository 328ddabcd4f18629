"""The bus as a child process."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from throughline_eventlog import Connection, NatsServer, NatsServerError
from throughline_eventlog import nats_server as nats_module
from throughline_eventlog.bus import nanoseconds
from throughline_eventlog.nats_server import free_port
from throughline_testkit import eventually, eventually_sync


def alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Same port, same data after SIGKILL."""
    with NatsServer(tmp_path / "nats") as server:
        port = server.port
        async with Connection(server.url, name="test") as connection:
            await connection.ready()
            await connection.make_stream({"name": "KEPT", "subjects": ["kept"], "storage": "file"})
            for number in range(20):
                await connection.publish("kept", str(number).encode(), {"N": str(number)})
            server.kill()
            assert not server.running
            await eventually(lambda: not connection.connected)
            server.start()
            assert server.port == port
            await eventually(lambda: connection.connected)
            assert (await connection.stream("KEPT")).last_sequence == 20
            message = await connection.message("KEPT", 20)
            assert message is not None
            assert (message.data, message.headers["N"]) == (b"19", "19")
            assert await connection.message("KEPT", 21) is None


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    """The sentence names the port and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NatsServerError, match=f"port {port} on 127.0.0.1 is taken.*choose another port"):
            NatsServer(tmp_path, port=port).start()


def test_a_port_is_given_to_one_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is to listen there does so later: until then it looks free to everybody. It is free again when they end."""
    code = "from throughline_eventlog.nats_server import free_port; print(free_port(), flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    port = int(other.stdout.readline())
    monkeypatch.setattr(nats_module, "_PORTS", range(port, port + 1_000))
    monkeypatch.setattr(random.SystemRandom, "sample", lambda _, ports, count: list(ports)[:count])
    assert free_port() != port
    other.communicate("\n")
    assert free_port() == port


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    """The server's own words are in the error."""
    (tmp_path / "jetstream").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(NatsServerError, match=r"nats-server ended with 1: .*is not a directory"):
        NatsServer(tmp_path).start()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child that its parent died")
def test_the_server_dies_with_its_parent(tmp_path: Path) -> None:
    """A parent killed with SIGKILL leaves no server behind."""
    script = """
        import sys, time
        from pathlib import Path
        from throughline_eventlog import NatsServer
        server = NatsServer(Path(sys.argv[1]))
        server.start()
        print(server.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually_sync(lambda: not alive(pid))


def test_it_starts_as_this_user(nats_server: NatsServer) -> None:
    """No other user is needed, root or not."""
    assert nats_server.pid is not None
    assert Path(f"/proc/{nats_server.pid}").stat().st_uid == os.getuid()


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("2026-11-22T10:45:54.123456789Z", 1_795_344_354_123_456_789),
        ("2026-11-22T10:45:54.1234567Z", 1_795_344_354_123_456_700),
        ("2026-11-22T12:45:54.5+02:00", 1_795_344_354_500_000_000),
    ],
)
def test_creation_times_keep_their_nanoseconds(moment: str, expected: int) -> None:
    """Two streams made in one microsecond are two streams."""
    assert nanoseconds(moment) == expected
