"""Ports of this machine that lead into pods."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from throughline_client.commands.running import UNAVAILABLE, Failure
from throughline_k8s.cluster import ClusterError, Tunnel

HOST: Final = "127.0.0.1"
_BYTES: Final = 64 * 1024
Connect = Callable[[], AbstractContextManager[Tunnel]]


@dataclass(slots=True)
class Forward:
    """A port on the loopback. Each connection to it asks `connect` for one of its own, so that it may lead to another
    pod than the one before. `failed` is told why one could not be made.
    """

    connect: Connect
    port: int = 0
    failed: Callable[[str], None] = lambda _: None
    _listening: socket.socket | None = field(default=None, repr=False)
    # When one end is closed, whoever waits on the other is woken, for good.
    _ended: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair, repr=False)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread], repr=False)

    def __enter__(self) -> Self:
        try:
            self._listening = socket.create_server((HOST, self.port))
        except (OSError, OverflowError) as error:
            raise Failure(
                f"port {self.port} of this machine cannot be used ({error}); give another --port-base", UNAVAILABLE
            ) from error
        self.port = self._listening.getsockname()[1]
        self._start(self._accept, self._listening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended[0].close()
        for thread in self._threads:
            thread.join()
        self._ended[1].close()
        if self._listening is not None:
            self._listening.close()

    @property
    def address(self) -> str:
        """`host:port` of it."""
        return f"{HOST}:{self.port}"

    def _start(self, work: Callable[[socket.socket], None], connection: socket.socket) -> None:
        thread = threading.Thread(target=work, args=(connection,), name=f"forward {self.port}", daemon=True)
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(listening, selectors.EVENT_READ)
            ready.register(self._ended[1], selectors.EVENT_READ)
            while all(key.fileobj is listening for key, _ in ready.select()):
                near, _ = listening.accept()
                self._start(self._serve, near)

    def _serve(self, near: socket.socket) -> None:
        with near:
            try:
                with self.connect() as far:
                    self._pass(near, far)
            except ClusterError as error:
                self.failed(str(error))
            except OSError:
                # Either end may go at any time; the other learns it by the closing.
                return

    def _pass(self, near: socket.socket, far: Tunnel) -> None:
        """Until either end closes."""
        with selectors.DefaultSelector() as ready:
            ready.register(near, selectors.EVENT_READ)
            ready.register(far, selectors.EVENT_READ)
            ready.register(self._ended[1], selectors.EVENT_READ)
            while True:
                came = [key.fileobj for key, _ in ready.select(0 if far.waiting else None)]
                if self._ended[1] in came:
                    return
                if near in came:
                    data = near.recv(_BYTES)
                    if not data:
                        return
                    far.send(data)
                if far in came or far.waiting:
                    received = far.receive()
                    if received is None:
                        return
                    near.sendall(received)
