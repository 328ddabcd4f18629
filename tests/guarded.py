"""A suite that nobody gets into without TLS and a token, and credentials for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt

from throughline_client.suite import Suite
from throughline_rpc import CallerCredentials, TlsFiles
from throughline_testkit import Authority, Mounted

ISSUER = "https://login.shop.eu/realms/shop"
AUDIENCE = "throughline"
SECRET = "b1946ac92492d2347c6235b4d2611184b1946ac92492d2347c6235b4d2611184"


@dataclass
class Guarded:
    """The suite, and where what one gets in with is written to."""

    suite: Suite
    caller: Mounted
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Guarded:
        """A suite that is not started yet: TLS with client certificates, tokens, debug logs, traces."""
        authority = Authority()
        server = Mounted(folder / "server").put(authority.issue("server"), authority)
        caller = Mounted(folder / "caller").put(authority.issue("caller"), authority)
        key = folder / "issuer.key"
        key.write_text(SECRET)
        environment = {
            "THROUGHLINE_TLS_CERT_FILE": str(server.certificate),
            "THROUGHLINE_TLS_KEY_FILE": str(server.key),
            "THROUGHLINE_TLS_CA_FILE": str(server.ca),
            "THROUGHLINE_AUTH": "jwt",
            "THROUGHLINE_AUTH_ISSUER": ISSUER,
            "THROUGHLINE_AUTH_AUDIENCE": AUDIENCE,
            "THROUGHLINE_AUTH_KEY_FILE": str(key),
            "THROUGHLINE_LOG_LEVEL": "debug",
            "THROUGHLINE_TRACE_FILE": str(folder / "spans.jsonl"),
        }
        guarded = cls(Suite(folder / "suite", environment=environment), caller, folder)
        guarded.suite.credentials = guarded.credentials("admin")
        return guarded

    def credentials(self, *roles: str, sources: Sequence[str] = (), seconds: int = 3_600) -> CallerCredentials:
        """With a certificate of the installation's, and a token for these roles and sources."""
        told = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": f"somebody as {' '.join(roles)}",
            "exp": int(time.time()) + seconds,
            "roles": list(roles),
            "sources": list(sources),
        }
        return self.with_token(jwt.encode(told, SECRET, algorithm="HS256"))

    def with_token(self, token: str) -> CallerCredentials:
        """With a certificate of the installation's, and this token."""
        file = self.folder / f"{len(list(self.folder.glob('*.token')))}.token"
        file.write_text(token)
        return CallerCredentials(TlsFiles(self.caller.certificate, self.caller.key, self.caller.ca), token_file=file)
