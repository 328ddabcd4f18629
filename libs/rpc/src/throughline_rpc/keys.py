"""The keys that tokens are signed with: of an issuer that renews them, or one in a file."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
)

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from throughline_rpc.settings import HostSettingsError, TokenSettings
from throughline_rpc.watching import Watched
from throughline_telemetry import logger

Key: TypeAlias = "tuple[Any, Sequence[str]]"
"""A key, and the algorithms that it may be used with: a public key is never taken for a shared secret."""

RSA: Final = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
ELLIPTIC: Final = ["ES256", "ES384", "ES512"]
EDWARDS: Final = ["EdDSA"]
SECRET: Final = ["HS256"]
SECRET_BYTES: Final = 32
FETCH_SECONDS: Final = 5.0
FRESH_SECONDS: Final = 300.0
"""How long fetched keys are used without asking again."""
STALE_SECONDS: Final = 86_400.0
"""How long they are used where the issuer does not answer."""
PAUSE_SECONDS: Final = 10.0
"""Between two fetches, whatever tokens name: a made-up key id must not make a service hammer its issuer."""
_MAX_BYTES: Final = 1_048_576


class KeysAwayError(Exception):
    """The keys cannot be had now, and there are none from before."""


class Keys(Protocol):
    """Where keys come from."""

    @property
    def generation(self) -> object:
        """Another object once the keys are others."""
        ...

    @property
    def trouble(self) -> str:
        """Why the keys may be out of date; empty where they are not."""
        ...

    async def key(self, key_id: str) -> Key:
        """The key with this id; without an id the only one. Raises: KeyError, KeysAwayError."""
        ...


def keys_of(settings: TokenSettings) -> Keys:
    """The keys that the settings name. Raises: HostSettingsError for a file or CA that cannot be used."""
    if settings.key_file is not None:
        return FileKeys(settings.key_file, read_key)
    if settings.jwks and not settings.jwks.startswith(("https://", "http://")):
        return FileKeys(Path(settings.jwks), read_key_set)
    return FetchedKeys(settings.issuer, settings.jwks, settings.ca_file)


class FileKeys:
    """Keys in a file, read again when it changes. Raises when made: what `read` raises."""

    def __init__(self, path: Path, read: Callable[[Path], Mapping[str, Key]]) -> None:
        self._keys = Watched("keys", [path], lambda: read(path))

    @property
    def generation(self) -> object:
        return self._keys.current()

    @property
    def trouble(self) -> str:
        self._keys.current()
        return self._keys.trouble

    async def key(self, key_id: str) -> Key:
        return _chosen(self._keys.current(), key_id)


class FetchedKeys:
    """An issuer's keys, fetched when they are first asked for, when they are old, and when one is asked for that is not
    among them; where the issuer does not answer, those from before are used for a day.
    """

    def __init__(
        self, issuer: str, url: str, ca_file: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._clock = clock
        self._fetch = fetcher(ca_file)
        self._keys: Mapping[str, Key] | None = None
        self._fetched = self._tried = -STALE_SECONDS
        self._fetching = asyncio.Lock()
        self._log = logger()
        self.trouble = ""

    @property
    def generation(self) -> object:
        return self._keys

    async def key(self, key_id: str) -> Key:
        if self._keys is None or self._clock() - self._fetched > FRESH_SECONDS:
            await self._renew()
        try:
            return self._chosen(key_id)
        except KeyError:
            # The issuer may have begun to sign with another.
            await self._renew()
            return self._chosen(key_id)

    def _chosen(self, key_id: str) -> Key:
        if self._keys is None or self._clock() - self._fetched > STALE_SECONDS:
            raise KeysAwayError(self.trouble or "not fetched yet")
        return _chosen(self._keys, key_id)

    async def _renew(self) -> None:
        """Fetches them, unless that was tried a moment ago."""
        async with self._fetching:
            if self._clock() - self._tried < PAUSE_SECONDS:
                return
            try:
                found = await asyncio.to_thread(self._fetched_keys)
            except (OSError, ValueError) as error:
                self.trouble = f"the keys of {self._issuer} cannot be fetched: {error}"
                self._log.warning("keys_not_fetched", issuer=self._issuer, reason=str(error))
            else:
                self.trouble = ""
                self._fetched = self._clock()
                if self._keys is None or found.keys() != self._keys.keys():
                    self._log.info("keys_fetched", issuer=self._issuer, keys=sorted(found))
                self._keys = found
            finally:
                self._tried = self._clock()

    def _fetched_keys(self) -> Mapping[str, Key]:
        url = self._url
        if not url:
            told = cast("dict[str, Any]", json.loads(self._fetch(discovery_url(self._issuer))))
            if told.get("issuer") != self._issuer:
                raise ValueError(f"{discovery_url(self._issuer)} is of the issuer {told.get('issuer')!r}")
            url = str(told.get("jwks_uri", ""))
        return key_set(self._fetch(url))


def discovery_url(issuer: str) -> str:
    """Where an issuer says where its keys are (OpenID Connect Discovery 1.0, section 4)."""
    return f"{issuer.removesuffix('/')}/.well-known/openid-configuration"


def fetcher(ca_file: Path | None) -> Callable[[str], bytes]:
    """What fetches a document over https or http, within seconds, from where the URL says and from nowhere else: no
    redirects, no proxies, no files.

    Raises: HostSettingsError for a CA that cannot be used. What it returns raises OSError, ValueError.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise HostSettingsError(f"{ca_file}: {error.strerror or error}; see THROUGHLINE_AUTH_CA_FILE") from error
    opener = OpenerDirector()
    for handler in (HTTPHandler(), HTTPSHandler(context=context), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)

    def fetch(url: str) -> bytes:
        if urlsplit(url).scheme not in {"https", "http"}:
            raise ValueError(f"{url!r} is no https or http URL")
        asked = Request(url, headers={"Accept": "application/json"})  # noqa: S310 -- looked at above
        try:
            with opener.open(asked, timeout=FETCH_SECONDS) as answer:
                body = answer.read(_MAX_BYTES + 1)
        except HTTPError as error:
            error.close()
            raise OSError(f"{url} answered {error.code}") from None
        except URLError as error:
            raise OSError(f"{url}: {error.reason}") from error
        if len(body) > _MAX_BYTES:
            raise ValueError(f"{url} answered more than {_MAX_BYTES} bytes")
        return body

    return fetch


def read_key_set(path: Path) -> Mapping[str, Key]:
    """The keys of a JWKS in a file. Raises: HostSettingsError."""
    try:
        return key_set(path.read_bytes())
    except OSError as error:
        raise HostSettingsError(f"{path}: {error.strerror}; see THROUGHLINE_AUTH_JWKS") from error
    except ValueError as error:
        raise HostSettingsError(f"{path} is no JWKS: {error}; see THROUGHLINE_AUTH_JWKS") from error


def key_set(text: bytes) -> Mapping[str, Key]:
    """The public keys for signatures in a JWKS, by id. Keys of other kinds are left out. Raises: ValueError."""
    found = json.loads(text)
    listed = cast("dict[str, Any]", found).get("keys") if isinstance(found, dict) else None
    keys: dict[str, Key] = {}
    for each in cast("list[Any]", listed) if isinstance(listed, list) else ():
        if not isinstance(each, dict) or cast("dict[str, Any]", each).get("use", "sig") != "sig":
            continue
        told = cast("dict[str, Any]", each)
        try:
            key = jwt.PyJWK.from_dict(told).key
            algorithms = algorithms_of(key)
        except (jwt.PyJWTError, ValueError):
            continue
        if "alg" in told:
            algorithms = [one for one in algorithms if one == told["alg"]]
        keys[str(told.get("kid", ""))] = key, algorithms
    if not keys:
        raise ValueError("there is no public key for signatures in it")
    return keys


def read_key(path: Path) -> Mapping[str, Key]:
    """The key in a file, public and in PEM or a secret. Raises: HostSettingsError."""
    try:
        text = path.read_bytes().strip()
    except OSError as error:
        raise HostSettingsError(f"{path}: {error.strerror}; see THROUGHLINE_AUTH_KEY_FILE") from error
    if text.startswith(b"-----BEGIN"):
        try:
            key = load_pem_public_key(text)
            return {"": (key, algorithms_of(key))}
        except ValueError as error:
            raise HostSettingsError(f"{path} is no public key in PEM; see THROUGHLINE_AUTH_KEY_FILE") from error
    if len(text) < SECRET_BYTES:
        raise HostSettingsError(
            f"{path} holds {len(text)} bytes; a secret has at least {SECRET_BYTES}: write e.g. 64 random hex digits"
        )
    return {"": (text, SECRET)}


def algorithms_of(key: object) -> Sequence[str]:
    """The algorithms that a public key is for. Raises: ValueError for anything else."""
    match key:
        case RSAPublicKey():
            return RSA
        case EllipticCurvePublicKey():
            return ELLIPTIC
        case Ed25519PublicKey() | Ed448PublicKey():
            return EDWARDS
        case _:
            raise ValueError("it is no public key for signatures")


def _chosen(keys: Mapping[str, Key], key_id: str) -> Key:
    """A key by its id; the only one where the token names none, or where it has no id itself."""
    if key_id in keys:
        return keys[key_id]
    if len(keys) == 1 and (not key_id or "" in keys):
        return next(iter(keys.values()))
    raise KeyError(key_id)
