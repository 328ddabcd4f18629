"""What a Job's container runs: a `throughline` command, whose result then waits on the loopback to be fetched.

What the command writes into its folder is the result, and its standard output is one file of it; its standard error is
the log. The container ends with the command's exit code once the result was fetched, or when nobody came for it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import sysconfig
import tarfile
import threading
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath
from typing import Final, Self

import click
import orjson

from throughline_k8s.jobs import OUTPUT, RESULT_PORT, SENT_FILES, Finished, Started, told

ARCHIVE: Final = ".result.tar"


@click.command()
@click.option("--keep", type=float, default=600.0, help="Seconds in which the result may be fetched.")
@click.option("--port", type=click.IntRange(0, 65_535), default=RESULT_PORT)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(*, keep: float, port: int, command: tuple[str, ...]) -> None:
    """Run a `throughline` COMMAND in this folder and hand out its result."""
    folder = Path.cwd()
    sent = receive(os.environ.get(SENT_FILES, ""), folder)
    _say(told(Started(command)))
    code = run(command, folder)
    archive = folder / ARCHIVE
    files = pack(folder, archive, sent)
    with _Handing(archive, port) as handing:
        _say(told(Finished(code, archive.stat().st_size, _sha256(archive), files)))
        if not handing.fetched.wait(keep):
            _say(f"nobody fetched the result in {keep:g} s")
    sys.exit(code)


def _say(line: str) -> None:
    click.echo(line, err=True)


def receive(text: str, folder: Path) -> frozenset[str]:
    """Writes the files that were sent along, and answers their names."""
    files: dict[str, str] = orjson.loads(text) if text else {}
    for name, data in files.items():
        (folder / PurePath(name).name).write_bytes(b64decode(data))
    return frozenset(PurePath(name).name for name in files)


def run(command: Sequence[str], folder: Path) -> int:
    """Runs it, with its standard output in a file, and answers its exit code; a SIGTERM is passed on."""
    with (folder / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            [str(Path(sysconfig.get_path("scripts")) / "throughline"), *command], cwd=folder, stdout=output
        )
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        code = process.wait()
    # As a shell says it, where a signal ended it.
    return code if code >= 0 else 128 - code


def pack(folder: Path, archive: Path, without: frozenset[str]) -> tuple[str, ...]:
    """Writes what is in a folder as a tar file, but for hidden files and those named; answers the names."""
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    kept = tuple(name for name in names if name not in without)
    with tarfile.open(archive, "w") as tar:
        for name in kept:
            tar.add(folder / name, name)
    return kept


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


@dataclass(slots=True)
class _Handing:
    """Hands a file out on the loopback until it was fetched: GET gives it, DELETE says that it arrived."""

    file: Path
    port: int
    fetched: threading.Event = field(default_factory=threading.Event)
    _server: ThreadingHTTPServer | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        file, fetched = self.file, self.fetched

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Length", str(file.stat().st_size))
                self.end_headers()
                with file.open("rb") as data:
                    while piece := data.read(1 << 20):
                        self.wfile.write(piece)

            def do_DELETE(self) -> None:
                self.send_response(HTTPStatus.NO_CONTENT)
                self.end_headers()
                fetched.set()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- named so there
                """The log is the command's."""

        # Only the API's port-forwarding comes to the loopback of a pod.
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


if __name__ == "__main__":
    main()
