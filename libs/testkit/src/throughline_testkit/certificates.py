"""Certificates made for a test: an authority, and what it vouches for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority of its own."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        builder = _builder(self._name, self._name, self._key.public_key(), timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.pem = builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def issue(
        self, name: str, *, uris: Sequence[str] = (), dns: Sequence[str] = (), lifetime: timedelta = timedelta(days=1)
    ) -> Issued:
        """A certificate for the loopback, these names and URIs; one of a negative lifetime has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            *(x509.DNSName(each) for each in ("localhost", *dns)),
            x509.IPAddress(ip_address(LOOPBACK)),
            *(x509.UniformResourceIdentifier(each) for each in uris),
        ]
        builder = _builder(_name(name), self._name, key.public_key(), lifetime)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Issued(
            builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


@dataclass(frozen=True, slots=True)
class Mounted:
    """A folder in which certificate, key and CA stand as in a mounted secret: `tls.crt`, `tls.key`, `ca.crt`."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """The certificate's file."""
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        """The key's file."""
        return self.folder / "tls.key"

    @property
    def ca(self) -> Path:
        """The CA's file."""
        return self.folder / "ca.crt"

    def put(self, issued: Issued, *authorities: Authority) -> Mounted:
        """Replaces what stands there, each file at once, one after the other."""
        self.folder.mkdir(parents=True, exist_ok=True)
        contents = {
            self.certificate: issued.certificate,
            self.key: issued.key,
            self.ca: b"".join(each.pem for each in authorities),
        }
        for path, content in contents.items():
            draft = path.with_suffix(".draft")
            draft.write_bytes(content)
            draft.replace(path)
        return self


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + lifetime)
    )
