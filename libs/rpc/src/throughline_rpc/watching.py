"""Files that change under a running process: read again when they do, and kept as they were while they are no good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from throughline_rpc.settings import HostSettingsError
from throughline_telemetry import logger

T = TypeVar("T")


class Watched(Generic[T]):
    """What `read` makes of the files, now. Safe to use from any thread: gRPC asks from its own.

    Files that change to something that `read` refuses are told in `trouble`, and in the log, and what was read before
    stays in force: files that belong together may be written one after the other. `taken` hears of everything that
    comes into force.

    Raises when made: what `read` raises.
    """

    def __init__(
        self, what: str, paths: Sequence[Path], read: Callable[[], T], taken: Callable[[T], object] = lambda _: None
    ) -> None:
        self._what = what
        self._paths = paths
        self._read = read
        self._taken = taken
        self._lock = Lock()
        self._log = logger()
        self.trouble = ""
        self._seen = self._stamps()
        self._value = read()
        taken(self._value)

    def current(self) -> T:
        """The newest that can be used; the same object for as long as nothing changed."""
        with self._lock:
            stamps = self._stamps()
            if stamps != self._seen or self.trouble:
                self._renew(stamps)
            return self._value

    def _renew(self, stamps: Sequence[object]) -> None:
        try:
            found = self._read()
        except HostSettingsError as error:
            if str(error) != self.trouble:
                self._log.warning("file_not_reloaded", what=self._what, reason=str(error))
            self.trouble = str(error)
            return
        self.trouble = ""
        self._seen = stamps
        if found != self._value:
            self._value = found
            self._taken(found)
            self._log.info("file_reloaded", what=self._what)

    def _stamps(self) -> Sequence[object]:
        """What tells one content of the files from another without reading them. Mounted secrets change by a link."""
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_mtime_ns, found.st_size
