"""Who calls, proved: by a bearer token of an issuer that is believed, or by a client certificate."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote

import jwt
from cryptography import x509
from cryptography.x509.oid import NameOID

from throughline_kernel import UnauthenticatedError, UnavailableError
from throughline_rpc.callers import ADMIN, ROLES, Identity, Metadata
from throughline_rpc.keys import FRESH_SECONDS, Keys, KeysAwayError, keys_of
from throughline_rpc.settings import AuthenticationSettings, HostSettingsError, TokenSettings
from throughline_rpc.watching import Watched
from throughline_telemetry import metrics

AUTHORIZATION: Final = "authorization"
ROLE_URN: Final = "urn:throughline:role:"
SOURCE_URN: Final = "urn:throughline:source:"
ANY_SOURCE: Final = "*"
CHANNEL: Final = "channel"
_FIELD: Final = f"metadata[{AUTHORIZATION}]"
_LEEWAY_SECONDS: Final = 30
_MAX_TOKEN: Final = 8_192
_REMEMBERED: Final = 4_096
_MAX_NAME: Final = 200


class Authentication:
    """Finds out who calls, by what the settings say that callers prove themselves by.

    A call with a bearer token is judged by the token alone, even where the certificate would do. What was found out
    is remembered for as long as it holds.

    Raises when made: HostSettingsError for files that cannot be used.
    """

    def __init__(self, settings: AuthenticationSettings) -> None:
        self._tokens = None if settings.tokens is None else Tokens(settings.tokens)
        self._certificates = Certificates(settings.callers_file) if settings.certificates else None

    async def identify(self, metadata: Metadata, auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
        """See `Authenticator`. Raises: UnauthenticatedError; UnavailableError where the issuer's keys are away."""
        try:
            return await self._identified(metadata, auth_context)
        except UnauthenticatedError as refusal:
            metrics.UNAUTHENTICATED.labels(refusal.reason).inc()
            raise

    async def _identified(self, metadata: Metadata, auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
        header = next((value for key, value in metadata if key == AUTHORIZATION), None)
        if header is not None and self._tokens is not None:
            return await self._tokens.identify(header if isinstance(header, str) else "")
        if self._certificates is not None:
            return self._certificates.identify(next(iter(auth_context.get("x509_pem_cert", ())), b""))
        remedy = (
            "send one: throughline --token-file, THROUGHLINE_TOKEN_FILE, or the metadata `authorization: Bearer ...`"
        )
        raise _refusal("CREDENTIALS_REQUIRED", _FIELD, "a bearer token", remedy)

    def health(self) -> str | None:
        """None, or why a token, key or caller that is new would not be known."""
        found = (each.health() for each in (self._tokens, self._certificates) if each is not None)
        return next((reason for reason in found if reason), None)


@dataclass(frozen=True, slots=True)
class _Known:
    """Somebody who was found out, and until when that holds (seconds since epoch)."""

    identity: Identity
    until: float


class Tokens:
    """Bearer tokens: JWTs of one issuer for one audience, signed with one of its keys."""

    def __init__(self, settings: TokenSettings) -> None:
        self._settings = settings
        self._keys: Keys = keys_of(settings)
        self._known: dict[str, _Known] = {}
        self._known_by: object = None

    def health(self) -> str | None:
        """None, or why the keys cannot be had."""
        return self._keys.trouble or None

    async def identify(self, header: str) -> Identity:
        """Who the header's token is of. Raises: UnauthenticatedError, UnavailableError (KEYS_UNAVAILABLE)."""
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
            raise _token_refusal(
                "of the form `Bearer <token>`, the token at most 8 KiB", "send the issuer's token as it is"
            )
        generation = self._keys.generation
        if generation is not self._known_by:
            # A key that was withdrawn vouches for nobody any more.
            self._known, self._known_by = {}, generation
        known = self._known.get(token)
        if known is None or known.until <= time.time():
            known = await self._found_out(token)
            _remember(self._known, token, known)
        return known.identity

    async def _found_out(self, token: str) -> _Known:
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
            key, algorithms = await self._keys.key(key_id if isinstance(key_id, str) else "")
            claims = self._claims(token, key, algorithms)
        except (jwt.PyJWTError, KeyError) as error:
            raise self._refusal_of(error) from None
        except KeysAwayError as error:
            raise UnavailableError(
                "KEYS_UNAVAILABLE",
                "the keys of the issuer cannot be had, so nobody can be known by a token; retry",
                {"cause": str(error)},
            ) from error
        roles = frozenset(_words(claims, self._settings.roles_claim)) & frozenset(ROLES)
        sources = _words(claims, self._settings.sources_claim)
        until = min(float(claims["exp"]) + _LEEWAY_SECONDS, time.time() + FRESH_SECONDS)
        return _Known(Identity(str(claims["sub"])[:_MAX_NAME], roles, bound(roles, sources)), until)

    def _claims(self, token: str, key: Any, algorithms: Sequence[str]) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "sub", "iss", "aud"]},
        )

    def _refusal_of(self, error: Exception) -> UnauthenticatedError:
        """Says what is wrong, and nothing of the token."""
        get_another = "get a token from the issuer that this service believes"
        match error:
            case jwt.ExpiredSignatureError():
                remedy = "get a new one from the issuer"
                return _refusal("TOKEN_EXPIRED", _FIELD, "a token that has not expired", remedy)
            case jwt.ImmatureSignatureError():
                return _token_refusal("valid already", "check the clocks of the issuer and of this service")
            case jwt.InvalidAudienceError():
                audience = self._settings.audience
                return _token_refusal(f"for the audience {audience}", "ask the issuer for a token for this audience")
            case jwt.InvalidIssuerError():
                return _token_refusal(f"from the issuer {self._settings.issuer}", get_another)
            case jwt.MissingRequiredClaimError():
                return _token_refusal(f"with the claim {error.claim}", "have the issuer put it in")
            case _:
                return _token_refusal("signed with a key of the issuer's", get_another)


class Certificates:
    """Client certificates, which TLS has verified: whom each stands for is said in it, or in a file."""

    def __init__(self, callers_file: Path | None) -> None:
        self._callers = (
            None if callers_file is None else Watched("callers", [callers_file], lambda: _read(callers_file))
        )
        self._known: dict[bytes, _Known] = {}
        self._known_by: object = None

    def health(self) -> str | None:
        """None, or why the file of callers cannot be used now."""
        return None if self._callers is None else self._callers.trouble or None

    def identify(self, pem: bytes) -> Identity:
        """Who this certificate stands for. Raises: UnauthenticatedError."""
        callers = None if self._callers is None else self._callers.current()
        if callers is not self._known_by:
            self._known, self._known_by = {}, callers
        known = self._known.get(pem)
        if known is None:
            if not pem:
                raise _refusal("CREDENTIALS_REQUIRED", "certificate", "a client certificate", "call with one, over TLS")
            known = _known_by_certificate(x509.load_pem_x509_certificate(pem), callers)
            _remember(self._known, pem, known)
        if known.until <= time.time():
            # TLS looks at it when the connection is made; connections live longer.
            raise _refusal("CERTIFICATE_EXPIRED", "certificate", "a certificate that has not expired", "renew it")
        return known.identity


K = TypeVar("K")


def _remember(known: dict[K, _Known], key: K, found: _Known) -> None:
    """Keeps what was found out, of so many at most: callers choose what they send."""
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = found


def bound(roles: frozenset[str], sources: Iterable[str]) -> frozenset[str] | None:
    """The sources that somebody may report for, None for any.

    A channel reports for the sources that it is given, `*` being any, and for none where it is given none; somebody
    who is no channel for any, unless they are given some.
    """
    given = frozenset(sources)
    if ANY_SOURCE in given or (not given and (CHANNEL not in roles or ADMIN in roles)):
        return None
    return given


def _known_by_certificate(certificate: x509.Certificate, callers: Mapping[str, Identity] | None) -> _Known:
    uris, names = _names(certificate)
    until = certificate.not_valid_after_utc.timestamp()
    name = (names or uris or [""])[0][:_MAX_NAME]
    if callers is not None:
        for each in (*uris, *names):
            if each in callers:
                return _Known(callers[each], until)
        raise _refusal(
            "CERTIFICATE_UNKNOWN",
            "certificate",
            "one of those in THROUGHLINE_AUTH_CALLERS_FILE",
            "have the operator add its URI, DNS name or common name there",
            {"name": name},
        )
    roles = frozenset(_after(ROLE_URN, uris)) & frozenset(ROLES)
    if not roles:
        raise _refusal(
            "CERTIFICATE_UNKNOWN",
            "certificate",
            f"one with a URI {ROLE_URN}<role> among its alternative names",
            f"issue it with one; roles are {', '.join(ROLES)}",
            {"name": name},
        )
    return _Known(Identity(name, roles, bound(roles, _after(SOURCE_URN, uris))), until)


def _names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """The URIs of a certificate, and its common and DNS names."""
    common = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], common
    return (
        found.get_values_for_type(x509.UniformResourceIdentifier),
        [*common, *found.get_values_for_type(x509.DNSName)],
    )


def _after(prefix: str, uris: Iterable[str]) -> list[str]:
    return [unquote(uri.removeprefix(prefix)) for uri in uris if uri.startswith(prefix)]


def _read(path: Path) -> dict[str, Identity]:
    """Callers by what their certificates have: `{"till.shop.eu": {"roles": ["channel"], "sources": ["till"]}}`."""
    try:
        found = json.loads(path.read_bytes())
        return {str(name): _caller(str(name), said) for name, said in cast("dict[str, Any]", found).items()}
    except OSError as error:
        raise HostSettingsError(f"{path}: {error.strerror}; see THROUGHLINE_AUTH_CALLERS_FILE") from error
    except (ValueError, TypeError, AttributeError) as error:
        example = '{"till.shop.eu": {"roles": ["channel"], "sources": ["till"]}}'
        raise HostSettingsError(f"{path} is no file of callers ({error}); write {example}") from error


def _caller(name: str, said: Any) -> Identity:
    if unknown := said.keys() - {"name", "roles", "sources"}:
        raise ValueError(f"{name}: {', '.join(sorted(unknown))} is not known")
    roles, sources = _texts(said.get("roles")), _texts(said.get("sources", []))
    if wrong := [role for role in roles if role not in ROLES]:
        raise ValueError(f"{name}: {', '.join(wrong)} is no role")
    return Identity(str(said.get("name", name)), frozenset(roles), bound(frozenset(roles), sources))


def _texts(said: Any) -> list[str]:
    if not isinstance(said, list) or not all(isinstance(each, str) for each in cast("list[Any]", said)):
        raise ValueError("roles and sources are lists of texts")
    return cast("list[str]", said)


def _words(claims: Mapping[str, Any], path: str) -> list[str]:
    """What a claim holds: a list of texts, or one text with spaces, as `scope` has it. Anything else is nothing."""
    value: Any = claims
    for name in path.split("."):
        value = cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value.split()
    return [each for each in cast("list[Any]", value) if isinstance(each, str)] if isinstance(value, list) else []


def _token_refusal(rule: str, remedy: str) -> UnauthenticatedError:
    return _refusal("TOKEN_INVALID", _FIELD, f"a token {rule}", remedy)


def _refusal(
    reason: str, field: str, rule: str, remedy: str, more: Mapping[str, str] | None = None
) -> UnauthenticatedError:
    told = {"field": field, "rule": rule, "remedy": remedy, **(more or {})}
    return UnauthenticatedError(reason, f"{field}: {rule} is needed; {remedy}", told)
