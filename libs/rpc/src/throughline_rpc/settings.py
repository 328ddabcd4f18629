"""How a service listens and how it stops, and what proves who is at either end, from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Self

from throughline_eventlog.errors import SettingsError
from throughline_eventlog.partitions import PARTITIONS, Partitioning
from throughline_rpc.callers import ADMIN, NOBODY, ROLES

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
MAX_CALL_SECONDS: Final = 300.0


class HostSettingsError(ValueError):
    """A setting of the host cannot be used; the message names the variable and the remedy."""


class TlsError(HostSettingsError):
    """A certificate, key or CA cannot be used; the message names the file and the remedy."""


class TokenError(HostSettingsError):
    """A caller's token cannot be read, or may not be sent; the message says why and what to do."""


class PortInUseError(OSError):
    """Another process listens on the port already."""

    def __init__(self, host: str, port: int, variable: str) -> None:
        super().__init__(
            f"port {port} on {host} is in use; stop the process that listens there or set {variable} to a free port"
        )
        self.host = host
        self.port = port
        self.variable = variable


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as far as its name or address says."""
    bare = host.strip("[]")
    try:
        return ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost" or bare.startswith("unix:")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end of a connection, as a mounted secret has them; read again when they change.

    `ca` verifies the other end; `certificate` (with its chain) and `key` are this end's own, both or neither.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("CERT", "KEY") if self.key is None else ("KEY", "CERT")
            raise TlsError(f"THROUGHLINE_TLS_{given}_FILE is given without THROUGHLINE_TLS_{missing}_FILE; give both")

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ, *, service: str = "") -> Self | None:
        """Reads THROUGHLINE_TLS_CERT_FILE, _TLS_KEY_FILE and _TLS_CA_FILE, of a service each also as
        <SERVICE>_TLS_..., which is stronger; None where none is set.

        Raises: TlsError, which names the variable.
        """
        reader = _Reader(service, env)
        found = [reader.text(name, "") for name in ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE")]
        return cls(*(Path(each) if each else None for each in found)) if any(found) else None


@dataclass(frozen=True, slots=True)
class CallerCredentials:
    """How a caller knows a service, and proves itself. Without `tls` it calls in the clear.

    `token_file` holds a bearer token that every call carries; it is read again when it changes, and not sent in the
    clear to another machine unless `token_in_the_clear` says that something else guards the way, as a mesh does.
    `server_name` is looked for in the service's certificate instead of the host of the address, for whoever reaches
    it by another name, e.g. through a port forward.
    """

    tls: TlsFiles | None = None
    server_name: str = ""
    token_file: Path | None = None
    token_in_the_clear: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ, *, service: str = "") -> Self:
        """Reads what `TlsFiles.from_env` reads, THROUGHLINE_TLS_SERVER_NAME, THROUGHLINE_TOKEN_FILE, and
        THROUGHLINE_TOKEN_IN_THE_CLEAR (allowed).

        Raises: TlsError, which names the variable.
        """
        tls = TlsFiles.from_env(env, service=service)
        if tls is not None and tls.ca is None:
            raise TlsError(
                "THROUGHLINE_TLS_CERT_FILE is given without THROUGHLINE_TLS_CA_FILE; give the CA that services are "
                "known by"
            )
        reader = _Reader(service, env)
        token_file = reader.text("TOKEN_FILE", "")
        return cls(
            tls,
            reader.text("TLS_SERVER_NAME", ""),
            Path(token_file) if token_file else None,
            reader.text("TOKEN_IN_THE_CLEAR", "") == "allowed",
        )


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Whose bearer tokens are believed, and what their claims mean.

    The keys are in a JWKS at a URL or in a file, or are one key in a file: a public one (PEM), or a secret of at least
    32 bytes that the issuer has too. With none of them the issuer is asked where its JWKS is (OpenID Connect
    Discovery). Claims may be nested: `realm_access.roles`.
    """

    issuer: str
    audience: str
    jwks: str = ""
    key_file: Path | None = None
    roles_claim: str = "roles"
    sources_claim: str = "sources"
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class AuthenticationSettings:
    """What callers prove themselves by; at least one of the two.

    `certificates` are their client certificates: by the URNs in them, or by `callers_file`, which names whom each
    certificate stands for.
    """

    tokens: TokenSettings | None = None
    certificates: bool = False
    callers_file: Path | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ, *, service: str = "") -> Self | None:
        """Reads THROUGHLINE_AUTH (jwt, certificate, or both with a comma), _AUTH_ISSUER, _AUTH_AUDIENCE, _AUTH_JWKS,
        _AUTH_KEY_FILE, _AUTH_CA_FILE, _AUTH_ROLES_CLAIM, _AUTH_SOURCES_CLAIM and _AUTH_CALLERS_FILE, each also as
        <SERVICE>_AUTH_...; None where THROUGHLINE_AUTH is not set.

        Raises: HostSettingsError, which names the variable.
        """
        reader = _Reader(service, env)
        ways = {way.strip() for way in reader.text("AUTH", "").split(",") if way.strip()}
        if unknown := ways - {"jwt", "certificate"}:
            raise HostSettingsError(
                f"THROUGHLINE_AUTH names {', '.join(sorted(unknown))}; give jwt, certificate, or both with a comma"
            )
        files = {name: reader.text(f"AUTH_{name}", "") for name in ("KEY_FILE", "CA_FILE", "CALLERS_FILE")}
        texts = {name: reader.text(f"AUTH_{name}", "") for name in ("ISSUER", "AUDIENCE", "JWKS")}
        if not ways:
            if given := next((name for name, text in (files | texts).items() if text), None):
                raise HostSettingsError(
                    f"THROUGHLINE_AUTH_{given} is given without THROUGHLINE_AUTH; give jwt, certificate, or both"
                )
            return None
        paths = {name: Path(text) if text else None for name, text in files.items()}
        tokens = None
        if "jwt" in ways:
            for name in ("ISSUER", "AUDIENCE"):
                if not texts[name]:
                    raise HostSettingsError(f"THROUGHLINE_AUTH is jwt without THROUGHLINE_AUTH_{name}; give it")
            if texts["JWKS"] and paths["KEY_FILE"]:
                raise HostSettingsError("THROUGHLINE_AUTH_JWKS and THROUGHLINE_AUTH_KEY_FILE are given; give one")
            tokens = TokenSettings(
                issuer=texts["ISSUER"],
                audience=texts["AUDIENCE"],
                jwks=texts["JWKS"],
                key_file=paths["KEY_FILE"],
                roles_claim=reader.text("AUTH_ROLES_CLAIM", "roles"),
                sources_claim=reader.text("AUTH_SOURCES_CLAIM", "sources"),
                ca_file=paths["CA_FILE"],
            )
        return cls(tokens, "certificate" in ways, paths["CALLERS_FILE"])


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Where a service listens (port 0: any free port) and how long it takes to stop, in seconds."""

    service: str
    # Of the service's partitions in force the one that this process serves.
    partition: int = 0
    partitioning: Partitioning = field(default_factory=Partitioning)
    host: str = "127.0.0.1"
    port: int = 0
    metrics_host: str = "127.0.0.1"
    # None: metrics are not served.
    metrics_port: int | None = None
    # Between saying NOT_SERVING and taking no more calls: as long as a load balancer needs to notice.
    drain_seconds: float = 0.0
    # For calls under way to finish, before they are cancelled.
    grace_seconds: float = 10.0
    max_message_bytes: int = MAX_MESSAGE_BYTES
    # Of one connection; and of all of them, watchers among them.
    max_concurrent_streams: int = 1_000
    max_concurrent_calls: int = 10_000
    # For one answer to one request, whatever deadline the caller gave.
    max_call_seconds: float = MAX_CALL_SECONDS
    health_interval_seconds: float = 1.0
    # Of callers who name none and whom nothing else tells of; `none`: they are refused.
    default_role: str = ADMIN
    # None: calls are taken in the clear.
    tls: TlsFiles | None = None
    # Whether a caller needs a certificate that `tls.ca` vouches for.
    require_client_certificates: bool = False
    # None: health is answered beside the service only.
    health_port: int | None = None
    # None: callers are believed.
    authentication: AuthenticationSettings | None = None

    @classmethod
    def from_env(cls, service: str, env: Mapping[str, str] = os.environ, *, default_port: int = 0) -> HostSettings:
        """Reads THROUGHLINE_HOST, _PORT, _PARTITIONS, _PARTITION, _METRICS_HOST, _METRICS_PORT, _DRAIN_SECONDS,
        _GRACE_SECONDS, _MAX_MESSAGE_BYTES, _MAX_CONCURRENT_STREAMS, _MAX_CONCURRENT_CALLS, _MAX_CALL_SECONDS,
        _DEFAULT_ROLE, _HEALTH_PORT, what `TlsFiles.from_env` and
        `AuthenticationSettings.from_env` read, and _TLS_CLIENT_CERTIFICATES; each also as <SERVICE>_<NAME>
        (INGESTION_PORT), which is stronger.

        Raises: HostSettingsError, which names the variable.
        """
        defaults = cls(service)
        reader = _Reader(service, env)
        host = reader.text("HOST", defaults.host)
        tls = TlsFiles.from_env(env, service=service)
        required = _require_client_certificates(reader, tls)
        partitioning, partition = _partition(service, env, reader)
        authentication = AuthenticationSettings.from_env(env, service=service)
        if authentication is not None and authentication.certificates and not required:
            raise HostSettingsError(
                "THROUGHLINE_AUTH is certificate, but callers need none; give THROUGHLINE_TLS_CERT_FILE, _TLS_KEY_FILE "
                "and _TLS_CA_FILE, and do not set THROUGHLINE_TLS_CLIENT_CERTIFICATES to none"
            )
        return cls(
            service=service,
            partition=partition,
            partitioning=partitioning,
            host=host,
            port=int(reader.number("PORT", default_port, 0, 65_535)),
            metrics_host=reader.text("METRICS_HOST", host),
            metrics_port=(
                int(reader.number("METRICS_PORT", 0, 0, 65_535)) if reader.text("METRICS_PORT", "") else None
            ),
            drain_seconds=reader.number("DRAIN_SECONDS", defaults.drain_seconds, 0, 3_600),
            grace_seconds=reader.number("GRACE_SECONDS", defaults.grace_seconds, 0, 3_600),
            max_message_bytes=int(reader.number("MAX_MESSAGE_BYTES", defaults.max_message_bytes, 4_096, 1 << 30)),
            max_concurrent_streams=int(
                reader.number("MAX_CONCURRENT_STREAMS", defaults.max_concurrent_streams, 1, 100_000)
            ),
            max_concurrent_calls=int(
                reader.number("MAX_CONCURRENT_CALLS", defaults.max_concurrent_calls, 1, 1_000_000)
            ),
            max_call_seconds=reader.number("MAX_CALL_SECONDS", defaults.max_call_seconds, 1, 86_400),
            default_role=reader.one_of("DEFAULT_ROLE", defaults.default_role, (*ROLES, NOBODY)),
            tls=tls,
            require_client_certificates=required,
            health_port=int(reader.number("HEALTH_PORT", 0, 0, 65_535)) if reader.text("HEALTH_PORT", "") else None,
            authentication=authentication,
        )


def exposed(settings: HostSettings) -> list[tuple[str, str]]:
    """What is unsafe in listening as the settings say, each with its remedy; nothing on loopback."""
    if is_loopback(settings.host):
        return []
    found: list[tuple[str, str]] = []
    if settings.tls is None:
        found.append(
            (
                "calls from other machines are taken in the clear: whoever is on the way reads and changes them",
                "set THROUGHLINE_TLS_CERT_FILE and THROUGHLINE_TLS_KEY_FILE, or THROUGHLINE_HOST=127.0.0.1",
            )
        )
    if settings.authentication is None:
        found.append(
            (
                f"nothing proves who calls: who gets here has the role that they say, or {settings.default_role}",
                "set THROUGHLINE_AUTH, or THROUGHLINE_HOST=127.0.0.1",
            )
        )
    return found


def _partition(service: str, env: Mapping[str, str], reader: _Reader) -> tuple[Partitioning, int]:
    """How the installation is parted, and which part this process is; untold, the only one in force."""
    try:
        partitioning = Partitioning.parse(env.get(PARTITIONS, ""))
        numbers = partitioning.in_force(service)
        told = reader.text("PARTITION", "")
        first, *others = numbers
        if others and not told:
            raise HostSettingsError(
                f"{service} has {len(numbers)} partitions ({PARTITIONS}), and nothing says which one this process "
                f"serves: set THROUGHLINE_PARTITION to one of {', '.join(map(str, numbers))}"
            )
        number = int(reader.number("PARTITION", first, 0, 1_000_000))
        partitioning.check_in_force(service, number, reader.named("PARTITION"))
    except SettingsError as error:
        raise HostSettingsError(str(error)) from error
    return partitioning, number


def _require_client_certificates(reader: _Reader, tls: TlsFiles | None) -> bool:
    """As told; untold, where there is a CA to verify them by."""
    said = reader.text("TLS_CLIENT_CERTIFICATES", "")
    if tls is None:
        if said == "required":
            raise TlsError(
                "THROUGHLINE_TLS_CLIENT_CERTIFICATES is 'required' without THROUGHLINE_TLS_CERT_FILE; give the "
                "service's own certificate, key and CA"
            )
        return False
    if tls.certificate is None:
        raise TlsError(
            "THROUGHLINE_TLS_CA_FILE is given without THROUGHLINE_TLS_CERT_FILE; a service needs a certificate and "
            "key of its own"
        )
    if said not in {"", "required", "none"}:
        raise TlsError(f"THROUGHLINE_TLS_CLIENT_CERTIFICATES is {said!r}; give required or none")
    if said == "required" and tls.ca is None:
        raise TlsError(
            "THROUGHLINE_TLS_CLIENT_CERTIFICATES is 'required' without THROUGHLINE_TLS_CA_FILE; give the CA that "
            "callers' certificates are from"
        )
    return said != "none" and tls.ca is not None


class _Reader:
    def __init__(self, service: str, env: Mapping[str, str]) -> None:
        self._own = f"{service.upper() or 'THROUGHLINE'}_"
        self._env = env

    def text(self, name: str, default: str) -> str:
        return (
            self._env.get(self._own + name, "").strip() or self._env.get(f"THROUGHLINE_{name}", "").strip() or default
        )

    def one_of(self, name: str, default: str, known: Sequence[str]) -> str:
        found = self.text(name, default)
        if found not in known:
            raise HostSettingsError(f"{self.named(name)} is {found!r}; give one of {', '.join(known)}")
        return found

    def named(self, name: str) -> str:
        return self._own + name if self._env.get(self._own + name) else f"THROUGHLINE_{name}"

    def number(self, name: str, default: float, least: int, most: int) -> float:
        text = self.text(name, str(default))
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not least <= number <= most:
            raise HostSettingsError(f"{self.named(name)} is {text!r}; give a number from {least} to {most}")
        return number
