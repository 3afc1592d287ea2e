"""The certificate of the gateway's ports: read and checked, and read again when its files change.

A renewed certificate is used for new connections without a restart. While new files do not fit together the old ones
hold, and the log says why. A new CA of clients needs a restart.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from driftwheel.config import GatewayConfig
from schemas.errors import Refused

logger = logging.getLogger(__name__)

SOON = timedelta(days=14)
"""A certificate that ends within this time is spoken of."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where certificate (with its intermediates), key and, for mutual TLS, the clients' CA lie, in PEM."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, as read. ``expires`` in UTC."""

    cert: bytes
    key: bytes
    expires: datetime


def tls_files(config: GatewayConfig) -> Files | None:
    """The files that are configured; None without TLS."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    ca = config.tls_client_ca
    return Files(config.tls_cert.expanduser(), config.tls_key.expanduser(), ca.expanduser() if ca else None)


def read_pair(files: Files, now: datetime) -> Pair:
    """Certificate and key. Raises Refused naming the setting when one is missing, wrong, of another pair or ended."""
    cert, key = _bytes("tls_cert", files.cert), _bytes("tls_key", files.key)
    first = _certificates("tls_cert", files.cert, cert)[0]
    if _spki(_private_key(files.key, key).public_key()) != _spki(first.public_key()):
        raise Refused(
            f"gateway.tls_key: {files.key} is not the key of the first certificate in {files.cert}: name a pair; "
            "intermediates come after the server's own certificate"
        )
    _check_time("tls_cert", files.cert, first, now)
    return Pair(cert, key, first.not_valid_after_utc)


def read_client_ca(path: Path, now: datetime) -> bytes:
    """The CA of clients' certificates. Raises Refused as ``read_pair`` does."""
    data = _bytes("tls_client_ca", path)
    for certificate in _certificates("tls_client_ca", path, data):
        _check_time("tls_client_ca", path, certificate, now)
    return data


class Certificate:
    """The configured files as they are now. Thread-safe. Raises Refused when they cannot be used at the start."""

    def __init__(self, files: Files, clock: Callable[[], datetime]) -> None:
        self.files, self._clock, self._lock = files, clock, threading.Lock()
        self._stamps = _stamps(files)
        self._pair = read_pair(files, clock())
        self.client_ca = read_client_ca(files.client_ca, clock()) if files.client_ca else None

    def pair(self) -> Pair:
        """Certificate and key; the last that fitted when those on disk do not."""
        with self._lock:
            stamps = _stamps(self.files)
            if stamps != self._stamps:
                self._stamps = stamps
                try:
                    self._pair = read_pair(self.files, self._clock())
                except Refused as error:
                    logger.warning("%s; the certificate from before stays", error)
            return self._pair

    def ssl_context(self) -> ssl.SSLContext:
        """For servers by the standard library: TLS 1.2 or newer; each handshake looks at the files for the next."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.files.client_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        loaded = self.pair()
        context.load_cert_chain(self.files.cert, self.files.key)

        def look(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, own: ssl.SSLContext) -> None:
            del connection, name
            nonlocal loaded
            if self.pair() is not loaded:
                loaded = self.pair()
                own.load_cert_chain(self.files.cert, self.files.key)

        context.sni_callback = look
        return context


def notice(pair: Pair, now: datetime) -> str:
    """What the owner should know of a certificate that holds; '' for nothing."""
    left = pair.expires - now
    return f"the certificate ends on {pair.expires:%Y-%m-%d}, in {left.days} days: renew it" if left < SOON else ""


def _stamps(files: Files) -> tuple[tuple[int, int], ...]:
    return tuple(_stamp(path) for path in (files.cert, files.key))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _bytes(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"gateway.{setting}: {path} cannot be read: {error.strerror}") from error


def _certificates(setting: str, path: Path, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise Refused(f"gateway.{setting}: {path} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)") from error


def _private_key(path: Path, data: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(data, None)
    except TypeError as error:
        raise Refused(
            f"gateway.tls_key: {path} is locked with a password: give one without, which only the owner can read"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused(f"gateway.tls_key: {path} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)") from error


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _check_time(setting: str, path: Path, certificate: x509.Certificate, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise Refused(f"gateway.{setting}: {path} ended on {certificate.not_valid_after_utc:%Y-%m-%d}: renew it")
    if now < certificate.not_valid_before_utc:
        raise Refused(
            f"gateway.{setting}: {path} holds only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: is the "
            "clock of this machine right?"
        )
