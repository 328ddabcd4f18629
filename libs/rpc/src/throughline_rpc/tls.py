"""Certificates as files that change under a running process: checked, and kept until better ones are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, cast

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from throughline_rpc.settings import TlsError, TlsFiles
from throughline_rpc.watching import Watched
from throughline_telemetry import metrics


@dataclass(frozen=True, slots=True)
class Material:
    """What was in the files, as PEM; None for what is not given. `not_after`: when the own certificate ends."""

    certificate: bytes | None
    key: bytes | None
    ca: bytes | None
    not_after: datetime | None


def read_material(files: TlsFiles) -> Material:
    """Reads the files and checks that they can be used together, and now.

    Raises: TlsError for a file that is missing or is not what it should be, a key of another certificate, a
    certificate that has expired or is not valid yet, and a CA of which no certificate is valid.
    """
    now = datetime.now(UTC)
    certificate = key = ca = None
    not_after = None
    if files.certificate is not None and files.key is not None:
        certificate, key = _read(files.certificate, "CERT"), _read(files.key, "KEY")
        own = _certificates(files.certificate, certificate)[0]
        _check_key(files, own, key)
        not_after = own.not_valid_after_utc
        if now >= not_after:
            _refuse(files.certificate, f"the certificate expired at {not_after:%Y-%m-%d %H:%M:%S} UTC", "renew it")
        if now < own.not_valid_before_utc:
            _refuse(
                files.certificate,
                f"the certificate is valid from {own.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC only",
                "check this machine's clock, or wait",
            )
    if files.ca is not None:
        ca = _read(files.ca, "CA")
        if all(each.not_valid_after_utc <= now for each in _certificates(files.ca, ca)):
            _refuse(files.ca, "every CA certificate in it has expired", "renew it")
    return Material(certificate, key, ca, not_after)


class WatchedTls(Watched[Material]):
    """The files' material as it is now. Raises when made: TlsError."""

    def __init__(self, files: TlsFiles) -> None:
        paths = [path for path in (files.certificate, files.key, files.ca) if path is not None]
        super().__init__("certificates", paths, lambda: read_material(files), _tell)
        self._own = files.certificate

    def health(self) -> str | None:
        """None, or why the files cannot be used now, or that the certificate in force has expired."""
        ends = self.current().not_after
        if self.trouble:
            return self.trouble
        if ends is not None and ends <= datetime.now(UTC):
            return f"{self._own}: the certificate expired at {ends:%Y-%m-%d %H:%M:%S} UTC"
        return None


def _tell(material: Material) -> None:
    if material.not_after is not None:
        metrics.CERTIFICATE_NOT_AFTER.set(material.not_after.timestamp())


def server_credentials(watched: WatchedTls, *, require_client_certificates: bool) -> grpc.ServerCredentials:
    """Credentials of a server that shows, to each new connection, the certificate that is in the files then."""
    served = watched.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        now = watched.current()
        if now is served:
            return None
        served = now
        return _configuration(now)

    # None means no change; the library's annotations do not know it.
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", changed)
    return grpc.dynamic_ssl_server_credentials(_configuration(served), fetch, require_client_certificates)


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Credentials of a caller; they hold for the connections of one channel."""
    return grpc.ssl_channel_credentials(material.ca, material.key, material.certificate)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    assert material.key is not None  # noqa: S101 -- a host's settings refuse a server without
    assert material.certificate is not None  # noqa: S101 -- as above
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.ca)


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        _refuse(path, error.strerror or str(error), f"mount the secret there, or set THROUGHLINE_TLS_{name}_FILE")


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        _refuse(path, "holds no certificate in PEM", "write one, from -----BEGIN CERTIFICATE----- on")


def _check_key(files: TlsFiles, own: x509.Certificate, pem: bytes) -> None:
    path = files.key or Path()
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        _refuse(path, "holds no private key in PEM without a password", "write one, e.g. in PKCS #8")
    spki = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*spki) != own.public_key().public_bytes(*spki):
        _refuse(path, f"is not the key of the certificate in {files.certificate}", "give the two that belong together")


def _refuse(path: Path, what: str, remedy: str) -> NoReturn:
    raise TlsError(f"{path}: {what}; {remedy}")
