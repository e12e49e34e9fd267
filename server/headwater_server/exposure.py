"""Who may reach a server: beyond this machine it answers over TLS and to known callers alone, unless told otherwise."""

from __future__ import annotations

import ipaddress
import socket

from headwater_core.errors import ConfigurationError
from headwater_server.settings import ServerSettings


def check_exposure(settings: ServerSettings) -> None:
    """Refuse to listen beyond this machine without encryption or without knowing who calls.

    Raises:
        ConfigurationError: saying what to set.
    """
    if settings.allow_insecure or _is_loopback(settings.host):
        return
    missing: list[str] = []
    if settings.tls_cert_file is None:
        missing.append("TLS (HEADWATER_TLS_CERT_FILE and HEADWATER_TLS_KEY_FILE)")
    if settings.tls_client_ca_file is None and settings.tokens_file is None and settings.tokens is None:
        missing.append(
            "authentication (HEADWATER_TOKENS_FILE or HEADWATER_TOKENS, or client certificates by "
            "HEADWATER_TLS_CLIENT_CA_FILE)"
        )
    if missing:
        raise ConfigurationError(
            f"{settings.host} can be reached from other machines and there is no {' and no '.join(missing)}; set "
            "what is missing, listen on 127.0.0.1, or set HEADWATER_ALLOW_INSECURE=true where the port is protected"
        )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback for *_, address in found)
