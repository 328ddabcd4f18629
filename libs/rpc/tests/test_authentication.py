"""Who calls is proved by a token of a believed issuer or by a certificate, or the call is refused with what to do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode
from served import hosted, make_told

from throughline.eventlog.v1 import eventlog_pb2 as pb
from throughline.eventlog.v1.eventlog_pb2_grpc import EventLogServiceStub
from throughline_kernel import UnauthenticatedError, UnavailableError
from throughline_rpc import (
    AuthenticationSettings,
    CallerCredentials,
    HostSettings,
    HostSettingsError,
    Identity,
    RemoteRefusal,
    ServiceHost,
    TlsFiles,
    TokenError,
    TokenSettings,
    decode_error,
    open_blocking_channel,
    open_channel,
)
from throughline_rpc.authentication import Authentication, bound
from throughline_rpc.keys import ELLIPTIC, FetchedKeys, KeysAwayError, keys_of
from throughline_testkit import Authority, Mounted, eventually

ISSUER = "https://login.shop.eu/realms/shop"
AUDIENCE = "throughline"
SECRET = "0123456789abcdef" * 4


def public_jwk(private: Any, key_id: str, **more: str) -> dict[str, Any]:
    algorithm: Any = OKPAlgorithm
    if isinstance(private, rsa.RSAPrivateKey):
        algorithm = RSAAlgorithm
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = ECAlgorithm
    return {**json.loads(algorithm.to_jwk(private.public_key())), "kid": key_id, **more}


@dataclass
class Issuer:
    """An issuer of tokens on the loopback, with OpenID Connect Discovery and a JWKS."""

    keys: dict[str, Any] = field(default_factory=dict[str, Any])
    broken: bool = False
    fetches: int = 0
    url: str = ""

    def token(self, key_id: str, *, seconds: float = 300, algorithm: str = "ES256", **claims: Any) -> str:
        return signed(self.keys[key_id], key_id, algorithm, seconds, iss=self.url, **claims)

    def answer(self, path: str) -> tuple[int, bytes]:
        if self.broken:
            return 503, b"not now"
        match path:
            case "/.well-known/openid-configuration":
                return 200, json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys"}).encode()
            case "/keys":
                self.fetches += 1
                return 200, json.dumps({"keys": [public_jwk(key, name) for name, key in self.keys.items()]}).encode()
            case _:
                return 404, b""


def signed(key: Any, key_id: str, algorithm: str = "ES256", seconds: float = 300, **claims: Any) -> str:
    now = int(time.time())
    told = {"iss": ISSUER, "aud": AUDIENCE, "sub": "till-gateway", "iat": now, "exp": now + int(seconds), **claims}
    told = {name: value for name, value in told.items() if value is not None}
    return jwt.encode(told, key, algorithm=algorithm, headers={"kid": key_id} if key_id else {})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    found = Issuer({"first": ec.generate_private_key(ec.SECP256R1())})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = found.answer(self.path)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- named by the library
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def by_secret(folder: Path, **more: Any) -> TokenSettings:
    file = folder / "secret"
    file.write_text(SECRET)
    return TokenSettings(ISSUER, AUDIENCE, key_file=file, **more)


async def identified(authentication: Authentication, token: str) -> Identity:
    return await authentication.identify([("authorization", f"Bearer {token}")], {})


async def refused(authentication: Authentication, token: str) -> UnauthenticatedError:
    with pytest.raises(UnauthenticatedError) as error:
        await identified(authentication, token)
    return error.value


# Tokens.


async def test_claims_become_roles_and_sources(tmp_path: Path) -> None:
    """Lists or texts with spaces, nested where so set; roles that are none of ours are left out."""
    authentication = Authentication(AuthenticationSettings(by_secret(tmp_path)))
    token = signed(SECRET, "", "HS256", roles=["channel", "offline_access"], sources=["till", "kiosk"])
    assert await identified(authentication, token) == Identity(
        "till-gateway", frozenset({"channel"}), frozenset({"till", "kiosk"})
    )
    nested = by_secret(tmp_path, roles_claim="realm_access.roles", sources_claim="shop.sources")
    token = signed(SECRET, "", "HS256", realm_access={"roles": "agent analyst"}, roles=["admin"], shop=7)
    assert await identified(Authentication(AuthenticationSettings(nested)), token) == Identity(
        "till-gateway", frozenset({"agent", "analyst"})
    )


def test_a_channel_is_bound_to_sources() -> None:
    """To those it is given, to none where it is given none; `*` is any, and who is no channel is not bound."""
    channel, agent = frozenset({"channel"}), frozenset({"agent"})
    assert bound(channel, []) == frozenset()
    assert bound(channel | agent, []) == frozenset()
    assert bound(channel, ["till"]) == {"till"}
    assert bound(channel, ["till", "*"]) is None
    assert bound(agent, []) is None
    assert bound(agent, ["crm"]) == {"crm"}
    assert bound(channel | {"admin"}, []) is None


@pytest.mark.parametrize(
    ("claims", "reason", "said"),
    [
        ({"exp": 1}, "TOKEN_EXPIRED", "get a new one from the issuer"),
        ({"nbf": 4_000_000_000}, "TOKEN_INVALID", "valid already"),
        ({"aud": "another"}, "TOKEN_INVALID", "for the audience throughline"),
        ({"iss": "https://evil.example"}, "TOKEN_INVALID", f"from the issuer {ISSUER}"),
        ({"exp": None}, "TOKEN_INVALID", "with the claim exp"),
        ({"sub": None}, "TOKEN_INVALID", "with the claim sub"),
        ({"aud": None}, "TOKEN_INVALID", "with the claim aud"),
        ({"iss": None}, "TOKEN_INVALID", "with the claim iss"),
        ({"sub": 7}, "TOKEN_INVALID", "signed with a key"),
    ],
)
async def test_a_token_that_is_not_for_us_is_refused(
    claims: dict[str, Any], reason: str, said: str, tmp_path: Path
) -> None:
    """Each with its reason, the field, the rule and what to do; nothing of the token is repeated."""
    authentication = Authentication(AuthenticationSettings(by_secret(tmp_path)))
    token = signed(SECRET, "", "HS256", roles=["admin"], **claims)
    refusal = await refused(authentication, token)
    assert refusal.reason == reason
    assert said in refusal.message
    assert refusal.metadata.keys() == {"field", "rule", "remedy"}
    assert refusal.metadata["field"] == "metadata[authorization]"
    assert token not in refusal.message
    assert "evil" not in refusal.message


async def test_signatures_that_prove_nothing_are_refused(tmp_path: Path) -> None:
    """No signature, another key, a public key taken for a secret, a header that is none."""
    authentication = Authentication(AuthenticationSettings(by_secret(tmp_path)))
    private = rsa.generate_private_key(65_537, 2_048)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file = tmp_path / "public.pem"
    file.write_bytes(pem)
    by_public = Authentication(AuthenticationSettings(TokenSettings(ISSUER, AUDIENCE, key_file=file)))
    good = signed(private, "", "RS256", roles=["admin"])
    assert (await identified(by_public, good)).roles == {"admin"}
    # PyJWT itself would not sign with a PEM: the attack is made by hand.
    head, body, _ = signed(SECRET, "", "HS256", roles=["admin"]).split(".")
    made = HMACAlgorithm(HMACAlgorithm.SHA256).sign(f"{head}.{body}".encode(), pem)
    confused = f"{head}.{body}.{base64url_encode(made).decode()}"
    unsigned = jwt.encode({"sub": "x", "iss": ISSUER, "aud": AUDIENCE, "exp": 4_000_000_000}, "", algorithm="none")
    other = signed("another secret of thirty-two bytes", "", "HS256", roles=["admin"])
    for each, tokens in (
        (by_public, [confused, unsigned, good[:-4] + "AAAA"]),
        (authentication, [other, unsigned, good, "x"]),
    ):
        for token in tokens:
            assert (await refused(each, token)).reason == "TOKEN_INVALID"
    for metadata in ([], [("authorization", "Basic YTpi")], [("authorization", "Bearer ")], [("authorization", b"x")]):
        with pytest.raises(UnauthenticatedError) as error:
            await authentication.identify(metadata, {})
        assert error.value.reason == ("TOKEN_INVALID" if metadata else "CREDENTIALS_REQUIRED")


async def test_what_was_believed_ends_with_the_token_and_with_the_key(tmp_path: Path) -> None:
    """A token that is known already is refused once it has expired, or once its key is withdrawn."""
    settings = by_secret(tmp_path)
    authentication = Authentication(AuthenticationSettings(settings))
    brief = signed(SECRET, "", "HS256", seconds=-29, roles=["agent"])  # within the leeway for another second
    assert (await identified(authentication, brief)).roles == {"agent"}

    async def expired() -> bool:
        try:
            await identified(authentication, brief)
        except UnauthenticatedError as error:
            return error.reason == "TOKEN_EXPIRED"
        return False

    await eventually(expired)
    token = signed(SECRET, "", "HS256", roles=["agent"])
    assert await identified(authentication, token)
    assert settings.key_file is not None
    settings.key_file.write_text(SECRET[::-1])
    assert (await refused(authentication, token)).reason == "TOKEN_INVALID"


# Keys.


async def test_an_issuer_is_asked_for_its_keys_and_for_new_ones(issuer: Issuer) -> None:
    """By discovery; once for many calls; again where a token names a key that is new, but not for every made-up one."""
    now = [1_000.0]
    keys = FetchedKeys(issuer.url, "", None, clock=lambda: now[0])
    await asyncio.gather(*(keys.key("first") for _ in range(20)))
    assert issuer.fetches == 1
    issuer.keys["second"] = ed25519.Ed25519PrivateKey.generate()
    now[0] += 11
    assert (await keys.key("second"))[1] == ["EdDSA"]
    for number in range(20):
        with pytest.raises(KeyError):
            await keys.key(f"made up {number}")
    assert issuer.fetches == 2
    del issuer.keys["first"]
    now[0] += 301
    with pytest.raises(KeyError):
        await keys.key("first")
    assert issuer.fetches == 3


async def test_an_issuer_that_is_away_is_done_without_for_a_day(issuer: Issuer) -> None:
    """Keys from before are used, and health says so; without any, or with old ones, callers are told to try again."""
    now = [1_000.0]
    keys = FetchedKeys(issuer.url, "", None, clock=lambda: now[0])
    issuer.broken = True
    with pytest.raises(KeysAwayError, match="answered 503"):
        await keys.key("first")
    issuer.broken = False
    now[0] += 11
    assert (await keys.key("first"))[1] == ELLIPTIC
    assert not keys.trouble
    issuer.broken = True
    now[0] += 3_600
    assert (await keys.key("first"))[1] == ELLIPTIC
    assert "answered 503" in keys.trouble
    now[0] += 86_400
    with pytest.raises(KeysAwayError):
        await keys.key("first")


async def test_nobody_is_called_an_impostor_because_the_issuer_is_away(issuer: Issuer) -> None:
    """UNAVAILABLE, to be retried, and not UNAUTHENTICATED."""
    issuer.broken = True
    authentication = Authentication(AuthenticationSettings(TokenSettings(issuer.url, AUDIENCE)))
    with pytest.raises(UnavailableError) as error:
        await identified(authentication, issuer.token("first"))
    assert error.value.reason == "KEYS_UNAVAILABLE"
    assert "answered 503" in (authentication.health() or "")


async def test_keys_of_all_kinds_are_taken_from_a_jwks_file_and_renewed_with_it(tmp_path: Path) -> None:
    """RSA, elliptic and Edwards; secrets, keys for encryption and what is no key are left out."""
    private: dict[str, Any] = {
        "RS256": rsa.generate_private_key(65_537, 2_048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    listed = [public_jwk(key, algorithm) for algorithm, key in private.items()]
    listed += [
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        public_jwk(private["RS256"], "enc", use="enc"),
        {"kid": "nothing"},
    ]
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": listed}))
    settings = TokenSettings(ISSUER, AUDIENCE, jwks=str(file))
    authentication = Authentication(AuthenticationSettings(settings))
    for algorithm, key in private.items():
        assert (await identified(authentication, signed(key, algorithm, algorithm, roles=["agent"]))).roles == {"agent"}
    keys = keys_of(settings)
    for key_id in ("secret", "enc", "nothing", ""):
        with pytest.raises(KeyError):
            await keys.key(key_id)
    file.write_text(json.dumps({"keys": listed[:1]}))
    assert (await refused(authentication, signed(private["ES256"], "ES256", roles=["agent"]))).reason == "TOKEN_INVALID"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("key_file", "too short", "a secret has at least 32"),
        ("key_file", "-----BEGIN PRIVATE KEY-----", "no public key in PEM"),
        ("key_file", None, "No such file"),
        ("jwks", "{}", "no public key for signatures"),
        ("jwks", "-", "is no JWKS"),
        ("jwks", '{"keys": []}', "no public key for signatures"),
        ("jwks", None, "No such file"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_at_start(
    name: str, content: str | None, said: str, tmp_path: Path
) -> None:
    """The message names the file and the setting."""
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    settings = replace(TokenSettings(ISSUER, AUDIENCE), **{name: file if name == "key_file" else str(file)})
    with pytest.raises(HostSettingsError, match=said):
        Authentication(AuthenticationSettings(settings))


# Certificates.


def pem_of(authority: Authority, *uris: str, name: str = "till-gateway", **more: Any) -> dict[str, list[bytes]]:
    return {"x509_pem_cert": [authority.issue(name, uris=uris, **more).certificate]}


async def test_a_certificate_says_whom_it_stands_for() -> None:
    """By the URNs among its alternative names."""
    authentication = Authentication(AuthenticationSettings(certificates=True))
    ours = Authority()
    urns = ("urn:throughline:role:channel", "urn:throughline:source:till", "urn:throughline:source:kiosk%20two")
    assert await authentication.identify([], pem_of(ours, *urns)) == Identity(
        "till-gateway", frozenset({"channel"}), frozenset({"till", "kiosk two"})
    )
    for context, reason in (
        (pem_of(ours), "CERTIFICATE_UNKNOWN"),
        (pem_of(ours, "urn:throughline:role:king"), "CERTIFICATE_UNKNOWN"),
        (pem_of(ours, *urns, lifetime=-timedelta(hours=1)), "CERTIFICATE_EXPIRED"),
        ({}, "CREDENTIALS_REQUIRED"),
    ):
        with pytest.raises(UnauthenticatedError) as error:
            await authentication.identify([], context)
        assert error.value.reason == reason


async def test_a_file_says_whom_a_certificate_stands_for(tmp_path: Path) -> None:
    """By URI, common name or DNS name; what the certificate says of itself does not count then; read again when it
    changes, and kept while it is no good.
    """
    ours, file = Authority(), tmp_path / "callers.json"
    file.write_text(
        json.dumps(
            {
                "spiffe://shop.eu/till": {"name": "tills", "roles": ["channel"], "sources": ["till"]},
                "desk.shop.eu": {"roles": ["agent"]},
            }
        )
    )
    authentication = Authentication(AuthenticationSettings(certificates=True, callers_file=file))
    till = pem_of(ours, "spiffe://shop.eu/till", "urn:throughline:role:admin")
    assert await authentication.identify([], till) == Identity("tills", frozenset({"channel"}), frozenset({"till"}))
    desk = pem_of(ours, name="x", dns=["desk.shop.eu"])
    assert await authentication.identify([], desk) == Identity("desk.shop.eu", frozenset({"agent"}))
    with pytest.raises(UnauthenticatedError) as error:
        await authentication.identify([], pem_of(ours, "urn:throughline:role:admin"))
    assert error.value.reason == "CERTIFICATE_UNKNOWN"
    file.write_text('{"desk.shop.eu": {"roles": ["king"]}}')
    assert await authentication.identify([], desk)
    assert "king is no role" in (authentication.health() or "")
    file.write_text('{"spiffe://shop.eu/till": {"roles": ["channel"]}}')
    assert await authentication.identify([], till) == Identity(
        "spiffe://shop.eu/till", frozenset({"channel"}), frozenset()
    )
    with pytest.raises(UnauthenticatedError):
        await authentication.identify([], desk)
    assert authentication.health() is None


# Calls.


@asynccontextmanager
async def serving(settings: AuthenticationSettings, **more: Any) -> AsyncIterator[ServiceHost]:
    host = ServiceHost(
        HostSettings("testing", health_interval_seconds=0.02, authentication=settings, **more), hosted(make_told())
    )
    await host.start()
    yield host
    await host.stop()


async def get_state(channel: grpc.aio.Channel) -> RemoteRefusal | None:
    try:
        await EventLogServiceStub(channel).GetState(pb.GetStateRequest(key="ok"), timeout=10)
    except grpc.aio.AioRpcError as error:
        return decode_error(error)
    return None


async def test_a_caller_sends_the_token_that_is_in_its_file(tmp_path: Path) -> None:
    """Every call; another one once it is another. What is refused says why, over the wire too."""
    file = tmp_path / "token"
    file.write_text(signed(SECRET, "", "HS256", seconds=-60, roles=["auditor"]))
    async with serving(AuthenticationSettings(by_secret(tmp_path))) as host:
        target, credentials = f"127.0.0.1:{host.port}", CallerCredentials(token_file=file)
        async with open_channel(target) as nobody, open_channel(target, credentials=credentials) as channel:
            refusal = await get_state(nobody)
            assert refusal is not None
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REQUIRED")
            assert "--token-file" in refusal.metadata["remedy"]
            refusal = await get_state(channel)
            assert refusal is not None
            assert refusal.reason == "TOKEN_EXPIRED"
            file.write_text(signed(SECRET, "", "HS256", roles=["auditor"]) + "\n")
            assert await get_state(channel) is None
            # Half a renewal: what was there before is sent.
            file.write_text("")
            assert await get_state(channel) is None
            file.write_text(signed(SECRET, "", "HS256", roles=["channel"], sources=["till"]))
            refusal = await get_state(channel)
            assert refusal is not None
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_FORBIDS")


def test_a_token_is_not_sent_to_another_machine_in_the_clear(tmp_path: Path) -> None:
    """Unless somebody says that the way is guarded otherwise; a file without a token is refused."""
    file = tmp_path / "token"
    file.write_text("a.b.c")
    credentials = CallerCredentials(token_file=file)
    for opened in (open_channel, open_blocking_channel):
        with pytest.raises(TokenError, match="in the clear"):
            opened("ingestion.tl.svc:50051", credentials=credentials)
        with pytest.raises(TokenError, match="No such file"):
            opened("localhost:1", credentials=replace(credentials, token_file=tmp_path / "absent"))
    with open_blocking_channel("10.0.0.1:1", credentials=replace(credentials, token_in_the_clear=True)):
        pass
    file.write_text("two words")
    with pytest.raises(TokenError, match="holds no token"):
        open_blocking_channel("[::1]:1", credentials=credentials)


async def test_a_certificate_that_expired_opens_nothing_over_a_connection_that_is_there(tmp_path: Path) -> None:
    """TLS looks at certificates when connections are made; calls are looked at one by one."""
    ours = Authority()
    server = Mounted(tmp_path / "server").put(ours.issue("server"), ours)
    caller = Mounted(tmp_path / "caller")
    caller.put(ours.issue("desk", uris=["urn:throughline:role:auditor"], lifetime=timedelta(seconds=2)), ours)
    files: Callable[[Mounted], TlsFiles] = lambda at: TlsFiles(at.certificate, at.key, at.ca)  # noqa: E731 -- said once
    settings = AuthenticationSettings(certificates=True)
    async with (
        serving(settings, tls=files(server), require_client_certificates=True) as host,
        open_channel(f"127.0.0.1:{host.port}", credentials=CallerCredentials(files(caller))) as channel,
    ):
        assert await get_state(channel) is None

        async def refusal() -> bool:
            found = await get_state(channel)
            return found is not None and found.reason == "CERTIFICATE_EXPIRED"

        await eventually(refusal)


# Settings.


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"THROUGHLINE_AUTH": "password"}, "give jwt, certificate, or both"),
        ({"THROUGHLINE_AUTH_ISSUER": ISSUER}, "is given without THROUGHLINE_AUTH"),
        ({"THROUGHLINE_AUTH": "jwt"}, "without THROUGHLINE_AUTH_ISSUER"),
        ({"THROUGHLINE_AUTH": "jwt", "THROUGHLINE_AUTH_ISSUER": ISSUER}, "without THROUGHLINE_AUTH_AUDIENCE"),
        ({"THROUGHLINE_AUTH": "certificate"}, "but callers need none"),
    ],
)
def test_settings_that_would_let_everybody_in_are_refused(env: dict[str, str], said: str) -> None:
    """A wish for proof that would not be heeded is told, not dropped."""
    with pytest.raises(HostSettingsError, match=said):
        HostSettings.from_env("testing", env)


def test_authentication_is_set_by_the_environment() -> None:
    """Off unless it is set."""
    assert HostSettings.from_env("testing", {}).authentication is None
    env = {
        "THROUGHLINE_AUTH": "jwt, certificate",
        "THROUGHLINE_AUTH_ISSUER": ISSUER,
        "THROUGHLINE_AUTH_AUDIENCE": AUDIENCE,
        "THROUGHLINE_AUTH_JWKS": "https://login.shop.eu/keys",
        "THROUGHLINE_AUTH_ROLES_CLAIM": "realm_access.roles",
        "THROUGHLINE_AUTH_CALLERS_FILE": "callers.json",
    }
    assert AuthenticationSettings.from_env(env) == AuthenticationSettings(
        TokenSettings(ISSUER, AUDIENCE, "https://login.shop.eu/keys", roles_claim="realm_access.roles"),
        certificates=True,
        callers_file=Path("callers.json"),
    )
    found = CallerCredentials.from_env({"THROUGHLINE_TOKEN_FILE": "t", "THROUGHLINE_TOKEN_IN_THE_CLEAR": "allowed"})
    assert (found.token_file, found.token_in_the_clear) == (Path("t"), True)
