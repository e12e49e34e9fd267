"""TLS and client certificates: who gets in, and certificates that change while a server answers."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from headwater_client import AsyncClient, HealthStatus, TlsConfig, UnavailableError
from headwater_core.errors import ConfigurationError
from headwater_server.certificates import CertificateFiles
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from tests.integration.authority import Authority, Pair

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
DAY_S = 86_400


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def served(authority: Authority, tmp_path: Path) -> Pair:
    """The files that a server is told of; a test may change them."""
    pair = Pair(tmp_path / "server.pem", tmp_path / "server.key")
    pair.replace_with(authority.sign("first"))
    return pair


def tls(settings: ServerSettings, served: Pair, client_ca: Path | None = None) -> ServerSettings:
    """The settings of a server with TLS."""
    files = {"tls_cert_file": served.certificate, "tls_key_file": served.key, "tls_client_ca_file": client_ca}
    return settings.model_copy(update=files)


async def health(server: HeadwaterServer, config: TlsConfig | None) -> HealthStatus:
    async with AsyncClient(f"127.0.0.1:{server.port}", tls=config, connections=2, timeout_s=60.0) as client:
        return await client.health()


async def serial_number(server: HeadwaterServer) -> str:
    """Which certificate a new connection is shown."""
    shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", server.port), timeout=60)
    return shown.strip()


async def test_whoever_trusts_the_authority_connects_and_nobody_without_tls(
    start_server: StartServer, settings: ServerSettings, served: Pair, authority: Authority, tmp_path: Path
) -> None:
    """A client with another authority, or with none, is not spoken to."""
    server = await start_server(tls(settings, served))
    assert await health(server, TlsConfig(ca_file=authority.certificate)) is HealthStatus.SERVING
    for other in (TlsConfig(ca_file=Authority(tmp_path, "other").certificate), None):
        with pytest.raises(UnavailableError):
            await health(server, other)


async def test_with_an_authority_for_clients_they_must_show_a_certificate_of_it(
    start_server: StartServer, settings: ServerSettings, served: Pair, authority: Authority, tmp_path: Path
) -> None:
    """One of another authority, or none, does not do."""
    server = await start_server(tls(settings, served, authority.certificate))
    other = Authority(tmp_path, "other")
    for pair, is_let_in in ((authority.sign("client"), True), (other.sign("stranger"), False), (None, False)):
        cert, key = pair if pair is not None else (None, None)
        config = TlsConfig(ca_file=authority.certificate, cert_file=cert, key_file=key)
        if is_let_in:
            assert await health(server, config) is HealthStatus.SERVING
        else:
            with pytest.raises(UnavailableError):
                await health(server, config)


async def test_a_new_certificate_is_shown_without_a_restart(
    start_server: StartServer, settings: ServerSettings, served: Pair, authority: Authority
) -> None:
    """New connections see it; one that is open stays open."""
    server = await start_server(tls(settings, served))
    config = TlsConfig(ca_file=authority.certificate)
    async with AsyncClient(f"127.0.0.1:{server.port}", tls=config, timeout_s=60.0) as client:
        assert await client.health() is HealthStatus.SERVING
        before = await serial_number(server)
        second = authority.sign("second")
        served.replace_with(second)
        assert await serial_number(server) != before
        assert await serial_number(server) in second.certificate.read_text()
        assert await client.health() is HealthStatus.SERVING
    assert await health(server, config) is HealthStatus.SERVING


async def test_what_does_not_fit_together_is_not_shown_until_it_does(
    start_server: StartServer, settings: ServerSettings, served: Pair, authority: Authority, until: Until
) -> None:
    """A certificate whose key has not come yet, or that was cut short: the old pair stays, and a metric says so."""
    server = await start_server(tls(settings, served))
    metrics = server.rooms.metrics.registry

    def is_refused() -> bool:
        return metrics.get_sample_value("headwater_files_refused", {"what": "certificates"}) == 1

    before = await serial_number(server)
    second = authority.sign("second")
    for content in (second.certificate.read_bytes(), second.certificate.read_bytes()[:200], b""):
        served.certificate.write_bytes(content)
        assert await serial_number(server) == before
        await until(is_refused)
    served.certificate.unlink()
    assert await serial_number(server) == before
    served.replace_with(second)
    assert await serial_number(server) in second.certificate.read_text()
    await until(lambda: not is_refused())


async def test_metrics_tell_when_the_certificate_ends(
    start_server: StartServer, settings: ServerSettings, served: Pair, authority: Authority, until: Until
) -> None:
    """Renewed in good time or not: it can be seen, before anybody connects."""
    server = await start_server(tls(settings, served))
    metrics = server.rooms.metrics.registry

    def days() -> float:
        return ((metrics.get_sample_value("headwater_certificate_expiry_seconds") or 0) - time.time()) / DAY_S

    await until(lambda: 1 < days() < 3)
    served.replace_with(authority.sign("longer", days=20_000))  # past 2049 the date is written in another form
    await until(lambda: 19_998 < days() < 20_002)


@pytest.mark.parametrize("missing", ["tls_cert_file", "tls_key_file"])
def test_half_a_pair_is_a_configuration_error(settings: ServerSettings, served: Pair, missing: str) -> None:
    """Certificate and key belong together."""
    with pytest.raises(ConfigurationError, match="both of them"):
        HeadwaterServer(tls(settings, served).model_copy(update={missing: None}))


@pytest.mark.parametrize("name", ["certificate", "key"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_files_that_cannot_be_used_are_a_configuration_error(
    settings: ServerSettings, served: Pair, name: str, content: bytes | None
) -> None:
    """At the start there is nothing earlier to go on with. The error names the file."""
    path: Path = getattr(served, name)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=path.name):
        CertificateFiles(tls(settings, served))


def test_a_client_authority_that_is_none_is_a_configuration_error(settings: ServerSettings, served: Pair) -> None:
    """Else nobody could connect, and nobody would know why."""
    with pytest.raises(ConfigurationError, match="HEADWATER_TLS_CLIENT_CA_FILE"):
        CertificateFiles(tls(settings, served, served.key))
