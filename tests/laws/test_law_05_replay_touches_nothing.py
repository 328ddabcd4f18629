"""Law 5: what sends is not even constructed in a replay."""

from __future__ import annotations

import subprocess
import sys
import textwrap

# Runs in a process of its own, where nothing has been imported yet. Every way out is wired to an alarm first.
TRIPWIRE = textwrap.dedent(
    """
    import socket
    import sys

    def alarm(*arguments, **named):
        raise AssertionError(f"a replay tried to reach {arguments} {named}")

    socket.socket.connect = alarm
    socket.socket.connect_ex = alarm
    socket.socket.sendto = alarm
    socket.socket.bind = alarm
    socket.create_connection = alarm

    from throughline_replay.replaying import make_folds

    folds = make_folds()
    for fold in folds.values():
        list(fold.aggregates())
    forbidden = {"nats", "smtplib", "http.client", "urllib.request", "psycopg"}
    sending = sorted(
        name
        for name in sys.modules
        if name in forbidden or name.partition(".")[0] in folds and name.partition(".")[2].startswith("entrypoints")
    )
    print(",".join(sending))
    """
)


def test_law_05_replay_touches_nothing() -> None:
    """Making and reading all five folds imports no bus, no server side, no client, and opens no socket."""
    run = subprocess.run([sys.executable, "-c", TRIPWIRE], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


def test_the_tripwire_is_live() -> None:
    """The guard itself: a fold that reached out would be caught."""
    leaky = TRIPWIRE + "\nsocket.create_connection(('127.0.0.1', 9))"
    run = subprocess.run([sys.executable, "-c", leaky], capture_output=True, text=True, check=False, timeout=60)
    assert "a replay tried to reach" in run.stderr
