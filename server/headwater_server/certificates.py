"""The server's certificates: read from files, checked that they fit together, given to gRPC at each handshake."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc

from headwater_core.errors import ConfigurationError
from headwater_server.kept_files import KeptFiles, read_file
from headwater_server.settings import ServerSettings

_EXPLICIT_0, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18
_FIELDS_BEFORE_VALIDITY = 3
"""Of a certificate, after its version: serial number, algorithm, issuer."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """A certificate chain with its key, and whom to trust."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    """The authorities of client certificates; None: clients need none."""
    expiry_s: float
    """When the server's own ends, seconds since 1970."""


class CertificateFiles:
    """The certificates that the settings name."""

    def __init__(self, settings: ServerSettings) -> None:
        """Read them.

        Raises:
            ConfigurationError: a file is not named or not readable, or they do not fit together.
        """
        chain, key = settings.tls_cert_file, settings.tls_key_file
        if chain is None or key is None:
            raise ConfigurationError("HEADWATER_TLS_CERT_FILE and HEADWATER_TLS_KEY_FILE are needed, both of them")
        self._asks_clients = settings.tls_client_ca_file is not None
        paths = [path for path in (chain, key, settings.tls_client_ca_file) if path is not None]
        self.kept = KeptFiles("certificates", paths, lambda: _read(chain, key, settings.tls_client_ca_file))

    def credentials(self) -> grpc.ServerCredentials:
        """For one port: gRPC asks at each handshake, from threads of its own, what has changed since it last did."""
        given = self.kept.current()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            now = self.kept.current()
            if now is given:
                return None
            given = now
            return _configuration(now)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given),
            fetch,  # type: ignore[arg-type]  # None is allowed: nothing has changed
            require_client_authentication=self._asks_clients,
        )


def certificate_files(settings: ServerSettings) -> CertificateFiles | None:
    """The certificates that the settings name; None when they name none.

    Raises:
        ConfigurationError: some are named and cannot be used.
    """
    named = (settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
    return CertificateFiles(settings) if any(named) else None


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pairs = [(certificates.key, certificates.chain)]
    return grpc.ssl_server_certificate_configuration(pairs, root_certificates=certificates.client_ca)


def _read(chain: Path, key: Path, client_ca: Path | None) -> Certificates:
    contents = _contents(chain, key, client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(chain, key, password="")  # without one, it would be asked for on the terminal
    except (ssl.SSLError, OSError) as error:
        raise ConfigurationError(f"{chain} and {key} are no certificate chain and its key: {error}") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigurationError(f"HEADWATER_TLS_CLIENT_CA_FILE: {client_ca}: {error}") from error
    if contents != _contents(chain, key, client_ca):
        raise ConfigurationError("the certificates change while they are read")
    try:
        return Certificates(*contents, expiry_s=_expiry_s(contents[0]))
    except (ValueError, LookupError, StopIteration) as error:
        raise ConfigurationError(f"HEADWATER_TLS_CERT_FILE: {chain}: says not when it ends: {error!r}") from error


def _contents(chain: Path, key: Path, client_ca: Path | None) -> tuple[bytes, bytes, bytes | None]:
    return (
        read_file("HEADWATER_TLS_CERT_FILE", chain),
        read_file("HEADWATER_TLS_KEY_FILE", key),
        None if client_ca is None else read_file("HEADWATER_TLS_CLIENT_CA_FILE", client_ca),
    )


def _expiry_s(chain: bytes) -> float:
    """When the first certificate of a chain ends: notAfter of RFC 5280. The standard library does not tell."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    first = chain[chain.index(begin) : chain.index(end) + len(end)].decode("ascii")
    certificate = next(_fields(ssl.PEM_cert_to_DER_cert(first)))[1]
    fields = list(_fields(next(_fields(certificate))[1]))
    if fields[0][0] == _EXPLICIT_0:  # the version, which may be left out
        fields.pop(0)
    _, (kind, not_after) = _fields(fields[_FIELDS_BEFORE_VALIDITY][1])
    form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}[kind]
    return datetime.strptime(not_after.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _fields(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and content of each field of a DER value (X.690)."""
    at = 0
    while at < len(content):
        kind, length, at = content[at], content[at + 1], at + 2
        if length & 0x80:  # as many bytes hold the length
            size = length & 0x7F
            length, at = int.from_bytes(content[at : at + size]), at + size
        yield kind, content[at : at + length]
        at += length
