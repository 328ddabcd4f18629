"""The process that serves: listening, health, background work, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import errno
import gc
import inspect
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from throughline_eventlog import SettingsError, collecting_seldom
from throughline_eventlog.partitions import log_name
from throughline_kernel import Refusal
from throughline_rpc.access_log import AccessLog
from throughline_rpc.authentication import Authentication
from throughline_rpc.callers import Authenticator, Trusting
from throughline_rpc.guarding import AccessInterceptor
from throughline_rpc.hosted import Background, HealthCheck, Hosted
from throughline_rpc.interceptor import RefusalInterceptor
from throughline_rpc.permissions import AccessUnstatedError, permissions_of
from throughline_rpc.settings import HostSettings, HostSettingsError, PortInUseError, exposed, is_loopback
from throughline_rpc.tls import WatchedTls, server_credentials
from throughline_telemetry import MetricsServer, logger, metrics, start_metrics_server

OVERALL: Final = ""
LIVENESS: Final = "liveness"
"""Health service that serves while the process does: a stuck consumer is a reason to look, not to restart."""
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_STEADY_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 2.0
# Before the port is closed: long enough for what was sent already to get here, and how often that is waited for.
_QUIET_SECONDS: Final = 0.05
_QUIET_TIMES: Final = 2
_TURNING_AWAY: Final = 20


class ServiceHost:
    """Hosts gRPC services with health, reflection, metrics and background work.

    `on_stop` is called in order after the last call and the background work ended: give the writer's flush first,
    then what it writes to. Each may be synchronous or not; one that fails is logged and the next is called.
    Who calls `authenticator` finds out; without one what the settings say, and where they say nothing callers are
    believed (`Trusting`). With an `access` log every read is in it before its answer leaves, and it is served.

    Raises: AccessUnstatedError for a service with a method of which the contract does not say who may call for it;
    HostSettingsError for keys or callers' names that cannot be used.
    """

    def __init__(
        self,
        settings: HostSettings,
        services: Sequence[Hosted[Any]],
        *,
        background: Sequence[Background] = (),
        checks: Sequence[HealthCheck] = (),
        on_stop: Sequence[Callable[[], Awaitable[None] | None]] = (),
        batch_methods: Collection[str] = (),
        authenticator: Authenticator | None = None,
        access: AccessLog | None = None,
    ) -> None:
        self.settings = settings
        self.port = 0
        self.metrics_port: int | None = None
        self.health_port: int | None = None
        self._services = services if access is None else [*services, *access.hosted]
        self._on_stop = on_stop if access is None else [*on_stop, access.close]
        self._log = logger()
        self._interceptor = RefusalInterceptor(settings.service, batch_methods, settings.max_call_seconds)
        authentication = None if settings.authentication is None else Authentication(settings.authentication)
        self._access = AccessInterceptor(
            permissions_of(hosted.name for hosted in self._services),
            authenticator or authentication or Trusting(settings.default_role),
            access,
            serves=log_name(settings.service, settings.partition),
        )
        self._supervised = [_Supervised(each) for each in (*background, *(() if access is None else access.background))]
        self._tls: WatchedTls | None = None
        self._checks = [
            *checks,
            *([] if access is None else [HealthCheck("access log", access.health)]),
            # Whoever is known already stays so, and others prove themselves by what was there before.
            *(
                []
                if authentication is None
                else [HealthCheck("authentication", authentication.health, needed_to_serve=False)]
            ),
            *(HealthCheck(each.work.name, each.health, each.work.needed_to_serve) for each in self._supervised),
        ]
        self._reasons: dict[str, str] = {}
        self._health: health_aio.HealthServicer | None = None
        self._server: grpc.aio.Server | None = None
        self._health_server: grpc.aio.Server | None = None
        self._metrics: MetricsServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_asked = asyncio.Event()
        self._stopped = False

    async def start(self) -> int:
        """Listens and starts the background work; answers the port.

        Raises: PortInUseError, OSError for an address that is not ours, TlsError for certificates that cannot be used.
        What `on_stop` names is closed before it raises.
        """
        try:
            self._read_certificates()
            self._start_metrics()
            await self._start_server()
        except BaseException:
            await self._close()
            raise
        self._tasks = [asyncio.create_task(each.run(), name=each.work.name) for each in self._supervised]
        self._tasks.append(asyncio.create_task(self._watch_health(), name="health"))
        self._tell_where()
        return self.port

    async def stop(self) -> None:
        """Stops without losing anything: NOT_SERVING, drain, calls that have not begun are turned away, grace for those
        under way, background work, `on_stop`.
        """
        if self._stopped:
            return
        self._stopped = True
        self._log.info("stopping", drain=self.settings.drain_seconds, grace=self.settings.grace_seconds)
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self.settings.drain_seconds)
        self._interceptor.stop_taking()
        if self._server is not None:
            await self._turn_away()
            await self._server.stop(self.settings.grace_seconds)
        if self._health_server is not None:
            await self._health_server.stop(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()
        self._log.info("stopped")

    async def _turn_away(self) -> None:
        """Answers what is on its way here, until nothing comes for a moment, or all the same after a second.

        A server that stops breaks off with CANCELLED, as if it had begun, whatever has arrived and was not looked at.
        """
        quiet = 0
        for _ in range(_TURNING_AWAY):
            before = self._interceptor.turned_away
            await asyncio.sleep(_QUIET_SECONDS)
            # Once may be a loop that was held up, with calls that it has not seen.
            quiet = quiet + 1 if self._interceptor.turned_away == before else 0
            if quiet == _QUIET_TIMES:
                return

    def ask_to_stop(self) -> None:
        """Makes `run_until_stopped` stop, as SIGTERM does."""
        self._stop_asked.set()

    async def run_until_stopped(self) -> None:
        """Starts, serves until SIGTERM, SIGINT or `ask_to_stop`, and stops. A second signal ends the process at once.

        Raises: what `start` raises.
        """
        loop = asyncio.get_running_loop()
        asked = False

        def on_signal(number: int) -> None:
            nonlocal asked
            if asked:
                os._exit(128 + number)
            asked = True
            self._stop_asked.set()

        signals = (signal.SIGTERM, signal.SIGINT)
        for each in signals:
            loop.add_signal_handler(each, on_signal, each)
        try:
            await self.start()
            await self._stop_asked.wait()
            await self.stop()
        finally:
            for each in signals:
                loop.remove_signal_handler(each)

    def reasons(self) -> dict[str, str]:
        """What is wrong now, by check; empty where all is well."""
        return dict(self._reasons)

    def _tell_where(self) -> None:
        """Says where it listens, and what of that is unsafe: whoever reads the first lines must not have to guess."""
        settings = self.settings
        self._log.info(
            "listening",
            host=settings.host,
            port=self.port,
            health_port=self.health_port,
            metrics_port=self.metrics_port,
            loopback_only=is_loopback(settings.host) and is_loopback(settings.metrics_host),
            tls=self._tls is not None,
            authentication=settings.authentication is not None,
        )
        for what, remedy in exposed(settings):
            self._log.warning("unsafe", host=settings.host, what=what, remedy=remedy)

    def _read_certificates(self) -> None:
        if self.settings.tls is not None:
            self._tls = WatchedTls(self.settings.tls)
            # Callers that are connected stay so; those to come are turned away until somebody renews the files.
            self._checks.append(HealthCheck("certificates", self._tls.health, needed_to_serve=False))

    def _start_metrics(self) -> None:
        port = self.settings.metrics_port
        if port is None:
            return
        try:
            self._metrics = start_metrics_server(port, self.settings.metrics_host)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(self.settings.metrics_host, port, "THROUGHLINE_METRICS_PORT") from error
            raise
        self.metrics_port = self._metrics.port

    async def _start_server(self) -> None:
        settings = self.settings
        server = grpc.aio.server(
            interceptors=[self._interceptor, self._access],
            maximum_concurrent_rpcs=settings.max_concurrent_calls,
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
                # Two processes on one port would each get half of the calls, without a word.
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
            ],
        )
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for hosted in self._services:
            hosted.add(hosted.servicer, server)
        names = [hosted.name for hosted in self._services]
        reflection.enable_server_reflection(
            [*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME], server
        )
        self.port = self._listen(server, settings.port, "PORT", self._tls)
        for name in (OVERALL, *names):
            await self._health.set(name, _NOT_SERVING)
        await self._health.set(LIVENESS, _SERVING)
        if settings.health_port is not None:
            # Health alone, in the clear, for probes that cannot speak TLS: Kubernetes' own cannot.
            probed = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            health_pb2_grpc.add_HealthServicer_to_server(self._health, probed)
            self.health_port = self._listen(probed, settings.health_port, "HEALTH_PORT")
            await probed.start()
            self._health_server = probed
        await server.start()
        self._server = server
        await self._check_health()

    def _listen(self, server: grpc.aio.Server, port: int, setting: str, tls: WatchedTls | None = None) -> int:
        """Raises: PortInUseError, OSError."""
        settings = self.settings
        _check_address(settings.host, port, setting)
        address = _address(settings.host, port)
        try:
            if tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(
                address,
                server_credentials(tls, require_client_certificates=settings.require_client_certificates),
            )
        except RuntimeError as error:  # taken between the look and the binding
            raise PortInUseError(settings.host, port, f"THROUGHLINE_{setting}") from error

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(self.settings.health_interval_seconds)
            await self._check_health()

    async def _check_health(self) -> None:
        reasons: dict[str, str] = {}
        for check in self._checks:
            reason = _probe(check)
            metrics.HEALTHY.labels(check.name).set(0 if reason else 1)
            before = self._reasons.get(check.name)
            if reason:
                reasons[check.name] = reason
                if reason != before:
                    self._log.warning("unhealthy", check=check.name, reason=reason)
            elif before:
                self._log.info("healthy_again", check=check.name)
        self._reasons = reasons
        blocked = any(check.needed_to_serve and check.name in reasons for check in self._checks)
        if self._health is not None:
            await self._health.set(OVERALL, _NOT_SERVING if reasons else _SERVING)
            for hosted in self._services:
                await self._health.set(hosted.name, _NOT_SERVING if blocked else _SERVING)

    async def _close(self) -> None:
        for close in self._on_stop:
            try:
                closing = close()
                if inspect.isawaitable(closing):
                    await closing
            except Exception as error:  # noqa: BLE001 -- the rest must be closed all the same
                self._log.error("close_failed", what=getattr(close, "__qualname__", repr(close)), exc_info=error)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
            self._metrics = None


class _Supervised:
    """Runs background work and starts it again, later each time, where it ends by itself."""

    def __init__(self, work: Background) -> None:
        self.work = work
        self._ended = ""
        self._settled_at = 0.0
        self._log = logger()

    def health(self) -> str | None:
        # What ended a moment ago is not well because it was started again.
        if self._ended and asyncio.get_running_loop().time() < self._settled_at:
            return self._ended
        return self.work.health()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while True:
            begun = loop.time()
            try:
                await self.work.run()
                why = "ended by itself"
                self._log.error("background_ended", task=self.work.name)
            except Exception as error:  # noqa: BLE001 -- logged, shown by health, and tried again
                why = f"{type(error).__name__}: {error}"
                self._log.error("background_failed", task=self.work.name, exc_info=error)
            metrics.RESTARTS.labels(self.work.name).inc()
            if loop.time() - begun > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            self._ended = f"{self.work.name} stopped and is started again: {why}"
            self._settled_at = loop.time() + pause + _SETTLE_SECONDS
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def serve(build: Callable[[], Awaitable[ServiceHost]], *, startup_errors: Iterable[type[Exception]] = ()) -> int:
    """Builds a host on uvloop, serves until told to stop, and answers the exit code: 0, or 1 where it could not
    start.

    What an operator can mend (a busy port, settings, a refusal, and the given `startup_errors`) is told in one line;
    anything else with its stack. A process calls this once.
    """
    expected = (PortInUseError, HostSettingsError, SettingsError, AccessUnstatedError, Refusal, *startup_errors)

    async def main() -> int:
        try:
            host = await build()
            # What the start made is never looked at for garbage.
            gc.freeze()
            with collecting_seldom():
                await host.run_until_stopped()
        except expected as error:
            logger().error("not_started", reason=str(error))
            return 1
        except Exception as error:  # noqa: BLE001 -- the edge of the process
            logger().error("not_started", reason=str(error), exc_info=error)
            return 1
        return 0

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 -- not on every platform

    return uvloop.new_event_loop


def _probe(check: HealthCheck) -> str | None:
    try:
        return check.probe()
    except Exception as error:  # noqa: BLE001 -- a check that fails is a reason
        return f"the check itself failed: {type(error).__name__}: {error}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_address(host: str, port: int, setting: str) -> None:
    """gRPC says only that it could not bind; this says why. Raises: PortInUseError, OSError."""
    if not port:
        return
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(host, port, f"THROUGHLINE_{setting}") from error
            raise OSError(
                error.errno, f"cannot listen on {host}:{port}: {error.strerror}; set THROUGHLINE_HOST"
            ) from error
