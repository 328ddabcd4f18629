"""The connection to NATS, kept for ever, and the few requests to JetStream that relays and consumers make."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from throughline_eventlog.streams import API, EXPECTED_STREAM

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT: Final = 5.0
RECONNECT_SECONDS: Final = 0.5
CONNECT_SECONDS: Final = 2

STREAM_NOT_FOUND: Final = 10059
NO_MESSAGE_FOUND: Final = 10037
WRONG_LAST_MSG_ID: Final = 10070
WRONG_LAST_SEQUENCE: Final = 10071
CONFIG_DIFFERS: Final = 10058

INBOX: Final = "_INBOX"
"""What the subjects begin with on which answers come, where nothing else is said."""
# The client gives the server's words in lower case.
_VIOLATION: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)
_REMEDY: Final = "`throughline bus permissions` says what each service's user needs"


class BusError(Exception):
    """JetStream said no. `code` is its error code, 0 where it gave none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class BusAwayError(BusError):
    """Nobody answered: the bus is away, or has no leader now."""


class StreamGoneError(BusError):
    """No stream takes this subject."""


class BusForbiddenError(BusError):
    """The bus does not let this user do it; the message says what, who and the remedy."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream as it stands. `created` is in nanoseconds and tells it from another made later under its name."""

    name: str
    created: int
    first_sequence: int
    last_sequence: int
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message read back by its sequence."""

    sequence: int
    headers: Mapping[str, str]
    data: bytes


def nanoseconds(moment: str) -> int:
    """An RFC 3339 time as nanoseconds since epoch, without the loss that a float or a datetime would bring.

    >>> nanoseconds("1970-01-01T00:00:01.000000002Z")
    1000000002
    """
    text = moment.removesuffix("Z")
    offset = "+00:00"
    if len(text) > 6 and text[-6] in "+-" and text[-3] == ":":
        text, offset = text[:-6], text[-6:]
    whole, _, fraction = text.partition(".")
    seconds = int(datetime.fromisoformat(whole + offset).timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or 0)


def heed_cancellation() -> None:
    """Raises the CancelledError that was lost on the way.

    The client waits with `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes together with
    the answer; whoever cancelled would wait for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@dataclass(frozen=True, slots=True)
class BusTls:
    """PEM files: the CA that vouches for the bus, and this service's own certificate and key, both or neither."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What the files hold now. Raises: OSError (`ssl.SSLError` is one), naming the file."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise OSError(f"{self.ca} cannot be used as the CA of the bus: {error.strerror or error}") from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as error:
                both = f"{self.certificate} and {self.key}"
                raise OSError(f"{both} cannot be used as certificate and key: {error.strerror or error}") from error
        return context


class Connection:
    """A named connection to NATS that is made again for as long as it takes.

    `servers` is one address or several, with commas. Use it as an async context manager, or `start` and `close`. With
    `tls` every connection, made for the first time or again, reads its files. It signs in with a `credentials` file, or
    as `user` with a password, and is answered on subjects below `inbox`.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        name: str,
        credentials: Path | None = None,
        tls: BusTls | None = None,
        user: str = "",
        password: str = "",
        inbox: str = INBOX,
    ) -> None:
        given = servers.split(",") if isinstance(servers, str) else servers
        self.servers = [server.strip() for server in given if server.strip()]
        self.name = name
        self.inbox = inbox
        self.generation = 0
        self.last_error = ""
        self._credentials = credentials
        self._tls = tls
        self._user = user
        self._password = password
        self._client: Client | None = None
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._on_change: dict[object, Callable[[], None]] = {}
        self._on_refusal: dict[object, tuple[str, Callable[[BusForbiddenError], None]]] = {}
        self._deaf: BusForbiddenError | None = None
        self._kept_out = ""

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def places(self) -> str:
        """The servers, for people: without what one signs in with."""
        return ", ".join(re.sub(r"//[^/@]*@", "//", server) for server in self.servers)

    @property
    def who(self) -> str:
        """Whom the bus takes this for, for people."""
        named = self._user or next(filter(None, (urlsplit(server).username for server in self.servers)), "")
        if not named and self._credentials is not None:
            named = _named_in(self._credentials)
        return f"user {named!r}" if named else "a client without a name"

    @property
    def connected(self) -> bool:
        """Whether the bus is there now."""
        return self._client is not None and self._client.is_connected

    @property
    def max_payload(self) -> int:
        """Bytes that one message may have."""
        return 1_048_576 if self._client is None else self._client.max_payload

    def start(self) -> None:
        """Begins to connect, and returns at once: a service starts without the bus, too."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=f"{self.name}-bus")

    async def close(self) -> None:
        """Ends the connection for good."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._ready.clear()

    async def ready(self) -> Client:
        """The client, once it is connected."""
        while True:
            await self._ready.wait()
            if self._client is not None and self._client.is_connected:
                return self._client
            self._ready.clear()

    async def ready_within(self, timeout: float) -> Client:
        """As `ready`. Raises BusAwayError where it takes longer than so many seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self.ready()
        except TimeoutError:
            raise BusAwayError(self.last_error or "no answer") from None

    def on_change(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls back whenever the connection was lost or made, until the returned function is called."""
        token = object()
        self._on_change[token] = callback

        def forget() -> None:
            self._on_change.pop(token, None)

        return forget

    def on_refusal(self, subject: str, callback: Callable[[BusForbiddenError], None]) -> Callable[[], None]:
        """Calls back where the bus refuses what is published to this subject, or every answer, until the returned
        function is called. The server says so some time after the publication, which itself fails in no way.
        """
        token = object()
        self._on_refusal[token] = (subject, callback)

        def forget() -> None:
            self._on_refusal.pop(token, None)

        return forget

    async def request(
        self, subject: str, body: Mapping[str, Any] | None = None, *, timeout: float = REQUEST_TIMEOUT
    ) -> dict[str, Any]:
        """Asks JetStream's API. Raises BusAwayError, BusForbiddenError, or BusError with JetStream's own error code."""
        payload = b"" if body is None else json.dumps(body).encode()
        return await self._ask(f"{API}{subject}", payload, None, timeout)

    async def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str], *, timeout: float = REQUEST_TIMEOUT
    ) -> dict[str, Any]:
        """Stores a message in the stream of its subject and returns JetStream's acknowledgement.

        Raises StreamGoneError where no stream has the subject, BusForbiddenError where this user may not, BusAwayError
        where nobody answered: the message may be stored all the same.
        """
        return await self._ask(subject, payload, dict(headers), timeout)

    async def _ask(
        self, subject: str, payload: bytes, headers: dict[str, Any] | None, timeout: float
    ) -> dict[str, Any]:
        client = self._client
        if client is None or not client.is_connected:
            raise BusAwayError(f"not connected to {self.places}: {self.last_error or 'no answer'}")
        if self._deaf is not None:
            raise self._deaf
        refused: asyncio.Future[BusForbiddenError] = asyncio.get_running_loop().create_future()
        forget = self.on_refusal(subject, lambda error: None if refused.done() else refused.set_result(error))
        asked = asyncio.ensure_future(client.request(subject, payload, timeout=timeout, headers=headers))
        try:
            await asyncio.wait((asked, refused), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise refused.result()
            reply = asked.result()
        except nats.errors.NoRespondersError as error:
            # The API has nobody where JetStream is not ready; any other subject where no stream takes it.
            kind = BusAwayError if subject.startswith(API) else StreamGoneError
            raise kind(f"nobody answers to {subject}") from error
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise BusAwayError(f"no answer to {subject}: {error or type(error).__name__}") from error
        finally:
            forget()
            asked.cancel()
            heed_cancellation()
        answer = cast("dict[str, Any]", json.loads(reply.data))
        failed = answer.get("error")
        if failed:
            code = failed.get("err_code", 0)
            kind = StreamGoneError if code == STREAM_NOT_FOUND else BusError
            raise kind(f"{subject}: {failed.get('description', failed)}", code)
        return answer

    async def refused(self, subjects: Sequence[str]) -> list[str]:
        """Those of the subjects that the bus does not let this user publish to. A `*` in one stands for any word.

        What is published to find out is refused by JetStream, or says nothing to it: nothing is stored, made or taken
        away. Raises BusForbiddenError where no answer could be heard, BusAwayError.
        """
        client = await self.ready_within(REQUEST_TIMEOUT)
        found: list[str] = []
        forgetting: list[Callable[[], None]] = []
        try:
            for subject in subjects:
                tried = subject.replace("*", "throughline-tried")
                forgetting.append(self.on_refusal(tried, lambda _, subject=subject: found.append(subject)))
                await client.publish(tried, b"{}", headers={EXPECTED_STREAM: "none"})
            # The client's first ping overtakes what it has not sent yet; refusals come before the answer to the second.
            await client.flush(timeout=int(REQUEST_TIMEOUT))
            await client.flush(timeout=int(REQUEST_TIMEOUT))
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise BusAwayError(f"no answer from {self.places}: {error or type(error).__name__}") from error
        finally:
            for forget in forgetting:
                forget()
            heed_cancellation()
        if self._deaf is not None:
            raise self._deaf
        return found

    async def stream(self, name: str) -> StreamState:
        """A stream as it stands. Raises StreamGoneError where there is none."""
        return _stream_state(await self.request(f"STREAM.INFO.{name}"))

    async def make_stream(self, config: Mapping[str, Any]) -> StreamState:
        """Makes a stream, or finds it made. Raises BusError where it cannot be made."""
        name = config["name"]
        try:
            return await self.stream(name)
        except StreamGoneError:
            pass
        try:
            return _stream_state(await self.request(f"STREAM.CREATE.{name}", config))
        except BusError as error:
            if error.code != CONFIG_DIFFERS:
                raise
        return await self.stream(name)

    async def message(self, stream: str, sequence: int) -> StoredMessage | None:
        """A message of a stream, None where it is not there."""
        try:
            answer = await self.request(f"STREAM.MSG.GET.{stream}", {"seq": sequence})
        except BusError as error:
            if error.code == NO_MESSAGE_FOUND:
                return None
            raise
        found = answer["message"]
        headers: dict[str, str] = {}
        for line in base64.b64decode(found.get("hdrs", "")).decode().split("\r\n")[1:]:
            key, colon, value = line.partition(":")
            if colon:
                headers[key.strip()] = value.strip()
        return StoredMessage(found["seq"], headers, base64.b64decode(found.get("data", "")))

    async def _keep(self) -> None:
        """Connects, and connects anew whenever the client has given up."""
        try:
            while True:
                self._lost.clear()
                client = Client()
                try:
                    await self._connect(client)
                    heed_cancellation()
                    self._client = client
                    self._changed(up=True)
                    await self._lost.wait()
                except (TimeoutError, nats.errors.Error, OSError, ValueError) as error:
                    self.last_error = self._understood(error)
                finally:
                    self._client = None
                    self._changed(up=False)
                    with suppress(Exception):
                        await client.close()
                    heed_cancellation()
                await asyncio.sleep(RECONNECT_SECONDS)
        finally:
            self._ready.clear()

    async def _connect(self, client: Client) -> None:
        async def on_error(error: Exception) -> None:
            self.last_error = self._understood(error)
            logger.debug("bus: %s", self.last_error)

        async def on_closed() -> None:
            self._lost.set()

        async def on_disconnected() -> None:
            self._changed(up=False)

        async def on_reconnected() -> None:
            self._changed(up=True)

        # The client takes fractions of a second, whatever its annotation says.
        options: dict[str, Any] = {"reconnect_time_wait": RECONNECT_SECONDS}
        if self._credentials is not None:
            options["user_credentials"] = str(self._credentials)
        if self._user:
            options |= {"user": self._user, "password": self._password}
        if self._tls is not None:
            # The client would make connections again with the certificates of the first: `_keep` makes them, with a
            # client each time.
            options |= {"tls": self._tls.context(), "allow_reconnect": False}
        await client.connect(
            servers=self.servers,
            name=self.name,
            error_cb=on_error,
            closed_cb=on_closed,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
            max_reconnect_attempts=-1,
            connect_timeout=CONNECT_SECONDS,
            ping_interval=10,
            max_outstanding_pings=2,
            inbox_prefix=self.inbox,
            **options,
        )

    def _understood(self, error: Exception) -> str:
        """What the error says, for people; who waits for what was refused is told."""
        text = str(error) or type(error).__name__
        if "authorization" in text.lower():
            self._kept_out = f"the bus does not let in {self.who}: it does not know that name, password or credentials"
            return self._kept_out
        if self._kept_out and isinstance(error, ConnectionResetError):
            # The bus hangs up on whom it does not let in, at times before it said so.
            return self._kept_out
        violation = _VIOLATION.search(text)
        if violation is None:
            return text
        what, subject = violation.group(1).lower(), violation.group(2).lower()
        if what == "subscription":
            # This process listens to nothing but answers: none of them comes.
            self._deaf = BusForbiddenError(
                f"the bus does not let {self.who} listen below {self.inbox}, where its answers come: {_REMEDY}"
            )
        told = self._deaf or self._forbidden(subject)
        for wanted, callback in list(self._on_refusal.values()):
            if self._deaf is None and wanted.lower() == subject:
                told = self._forbidden(wanted)
                callback(told)
            elif self._deaf is not None:
                callback(self._deaf)
        return str(told)

    def _forbidden(self, subject: str) -> BusForbiddenError:
        return BusForbiddenError(f"the bus does not let {self.who} publish to {subject}: {_REMEDY}")

    def _changed(self, *, up: bool) -> None:
        if up:
            self.generation += 1
            self.last_error = ""
            self._deaf = None
            self._kept_out = ""
            self._ready.set()
        else:
            self._ready.clear()
        for callback in list(self._on_change.values()):
            callback()


def _named_in(credentials: Path) -> str:
    """The user that a credentials file is for, "" where it does not say: a JWT's `name`."""
    try:
        payload = credentials.read_text(encoding="utf-8").partition(".")[2].partition(".")[0]
        told: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(told["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _stream_state(answer: Mapping[str, Any]) -> StreamState:
    state = answer["state"]
    return StreamState(
        answer["config"]["name"],
        nanoseconds(answer["created"]),
        state["first_seq"],
        state["last_seq"],
        answer["config"],
    )
