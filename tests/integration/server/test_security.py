"""Tokens, scopes, limits and ports, on real servers: who gets in, and what is never told."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import generate_latest
from pydantic import SecretStr
from typer.testing import CliRunner

from headwater.v1 import event_pb2
from headwater.v1 import event_service_pb2 as events_pb
from headwater.v1 import model_service_pb2 as models_pb
from headwater.v1.event_service_pb2_grpc import EventServiceStub
from headwater.v1.model_service_pb2_grpc import ModelServiceStub
from headwater_client import (
    AsyncClient,
    Client,
    HealthStatus,
    PermissionDeniedError,
    ResourceExhaustedError,
    RetryConfig,
    TlsConfig,
    UnauthenticatedError,
    event,
    request_id,
)
from headwater_client.cli import app
from headwater_core.errors import ConfigurationError
from headwater_core.metrics_server import ImpatientHandler
from headwater_server.exposure import check_exposure
from headwater_server.scopes import SCOPES, Scope
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings
from tests.integration.authority import Authority
from tests.integration.raw_http2 import RawConnection
from tests.integration.server_process import ServerProcess, until

StartServer = Callable[..., Awaitable[HeadwaterServer]]
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Connect = Callable[[HeadwaterServer], grpc.aio.Channel]
TOKENS = {scope.value: f"{scope.value}-T0ken-" * 5 for scope in Scope}
STRANGER = "stranger-T0ken-" * 3
NO_RETRIES = RetryConfig(max_attempts=1)


def written(tokens: Mapping[str, Sequence[str]], **more: Any) -> str:
    """The lines of tokens: token → scopes. A token's name is its first word."""
    return "\n".join(
        json.dumps(
            {
                "name": token.split("-")[0],
                "scopes": scopes,
                "sha256": hashlib.sha256(token.encode()).hexdigest(),
                **more,
            }
        )
        for token, scopes in tokens.items()
    )


Start = Callable[..., ServerProcess]
ONE_EACH = written({token: [scope] for scope, token in TOKENS.items()})


@pytest.fixture
async def guarded(start_server: StartServer, settings: ServerSettings, tmp_path: Path) -> HeadwaterServer:
    """A server with a token for each scope."""
    path = tmp_path / "tokens"
    path.write_text(ONE_EACH)
    return await start_server(settings, tokens_file=path)


@pytest.fixture
def start_process(settings: ServerSettings, tmp_path: Path) -> Iterator[Start]:
    """Starts a server in a process of its own, which is ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda workers=1, **environment: stack.enter_context(
            ServerProcess(settings, tmp_path / "log", workers, **environment)
        )


def client_of(server: HeadwaterServer, token: str | None = None, port: int | None = None) -> AsyncClient:
    return AsyncClient(f"127.0.0.1:{port or server.port}", token=token, retry=NO_RETRIES, timeout_s=60.0)


async def code_of(
    server: HeadwaterServer, path: str, token: str | None, content: bytes = b""
) -> tuple[grpc.StatusCode, str]:
    """How any method is answered, whatever kind it is.

    By a blocking client: grpc.aio's tells of INTERNAL where it could not send what nobody wanted to read.
    """
    metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()

    def call() -> tuple[grpc.StatusCode, str]:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            method: Any = channel.stream_stream(path)
            answers = method(iter([content]), metadata=metadata, timeout=60)
            try:
                next(answers, None)
            except grpc.RpcError as error:
                return error.code(), error.details() or ""
            return grpc.StatusCode.OK, ""

    return await asyncio.to_thread(call)


# --- tokens and scopes


@pytest.mark.parametrize("content", [b"", b"\xff" * 100], ids=["empty", "undecodable"])
async def test_no_method_is_answered_without_a_known_token(guarded: HeadwaterServer, content: bytes) -> None:
    """Nor is the request looked at."""
    for path in SCOPES:
        for token in (None, STRANGER, ""):
            code, _ = await code_of(guarded, path, token, content)
            assert code is grpc.StatusCode.UNAUTHENTICATED, path


async def test_names_of_methods_that_are_none_are_not_kept(
    guarded: HeadwaterServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever has no token could else fill metrics and logs with what comes to mind."""
    for path in ("/headwater.v1.EventService/Pers0n-1", "/Pers0n-2/Pers0n-3", "/grpc.reflection.v1.Pers0n/Pers0n"):
        for token in (None, TOKENS["read"]):
            assert (await code_of(guarded, path, token))[0] is grpc.StatusCode.UNIMPLEMENTED
    metrics = guarded.rooms.metrics.registry
    unknown = {"method": "(other)", "code": "UNIMPLEMENTED"}
    assert metrics.get_sample_value("headwater_calls_total", unknown) == 6
    assert "Pers0n" not in generate_latest(metrics).decode()
    assert "Pers0n" not in capsys.readouterr().out


async def test_every_method_needs_its_scope(guarded: HeadwaterServer) -> None:
    """With another token it is refused, naming what is missing; with the right one it is not refused for that."""
    for path, scope in SCOPES.items():
        for name, token in TOKENS.items():
            code, message = await code_of(guarded, path, token)
            if name == scope:
                assert code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED), path
            else:
                assert code is grpc.StatusCode.PERMISSION_DENIED, path
                assert f"scope {scope.value}" in message


async def test_the_clients_errors_say_what_is_wrong(guarded: HeadwaterServer) -> None:
    """No token, one that does not suffice, one that does."""
    async with client_of(guarded) as client:
        with pytest.raises(UnauthenticatedError, match="no token"):
            await client.recommend(user_id="ada")
        assert await client.health() is HealthStatus.SERVING
    async with client_of(guarded, TOKENS["read"]) as client:
        assert (await client.recommend(user_id="ada")).generation == 1
        with pytest.raises(PermissionDeniedError, match="the token of read does not have the scope admin"):
            await client.delete_user(user_id="ada")


async def test_health_is_open_and_reflection_is_not(guarded: HeadwaterServer, connect: Connect) -> None:
    """Probes have no tokens; what is reflected is for those who may read."""
    channel = connect(guarded)
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def reflect(token: str) -> int:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        metadata = (("authorization", f"Bearer {token}"),)
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked, metadata=metadata)
        return len([answer async for answer in call])

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await reflect(STRANGER)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await reflect(TOKENS["read"]) == 1


async def test_without_tokens_everybody_may_do_everything(start_server: StartServer, settings: ServerSettings) -> None:
    """And a token that comes is passed over."""
    server = await start_server(settings)
    async with client_of(server, STRANGER) as client:
        assert (await client.list_generations()).generations


async def test_a_token_that_is_taken_away_ends_its_streams(
    guarded: HeadwaterServer, connect: Connect, tmp_path: Path, until: Until
) -> None:
    """New calls are refused at once, and a stream at its next batch."""
    call: Any = EventServiceStub(connect(guarded)).StreamEvents(
        metadata=(("authorization", f"Bearer {TOKENS['write']}"),)
    )
    like = event_pb2.Event(event_id="1", event_type="like", user_id="ada", item_id="space-00")
    await call.write(events_pb.StreamEventsRequest(sequence=1, events=[like]))
    assert (await call.read()).committed == 1
    (tmp_path / "tokens").write_text(written({TOKENS["read"]: ["read"]}))
    async with client_of(guarded, TOKENS["write"]) as client:
        refused = False
        async with asyncio.timeout(60):
            while not refused:
                try:
                    await client.write(event("like", user_id="ada", item_id="space-01"))
                except UnauthenticatedError:
                    refused = True
    await call.write(events_pb.StreamEventsRequest(sequence=2, events=[like]))
    assert await call.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_broken_file_keeps_the_tokens_and_a_metric_says_so(
    guarded: HeadwaterServer, tmp_path: Path, until: Until
) -> None:
    """As long as it is broken."""
    metrics = guarded.rooms.metrics.registry
    path = tmp_path / "tokens"
    path.write_text('{"name"')
    await until(lambda: metrics.get_sample_value("headwater_files_refused", {"what": "tokens"}) == 1)
    async with client_of(guarded, TOKENS["read"]) as client:
        await client.recommend(user_id="ada")
    path.write_text(ONE_EACH)
    await until(lambda: metrics.get_sample_value("headwater_files_refused", {"what": "tokens"}) == 0)


def test_a_token_made_by_the_command_lets_in(start_process: Start, tmp_path: Path) -> None:
    """`headwater new-token` prints the line and, once, the token; a server with workers, TLS and both takes it."""
    made = CliRunner().invoke(app, ["new-token", "shop", "--scope", "read", "--scope", "admin"])
    assert made.exit_code == 0
    token = made.stderr.split()[-1]
    assert token not in made.stdout
    path = tmp_path / "tokens"
    path.write_text(made.stdout)
    authority = Authority(tmp_path)
    served, shown = authority.sign("server"), authority.sign("client")
    server = start_process(
        workers=2,
        HEADWATER_TOKENS_FILE=str(path),
        HEADWATER_TLS_CERT_FILE=str(served.certificate),
        HEADWATER_TLS_KEY_FILE=str(served.key),
        HEADWATER_TLS_CLIENT_CA_FILE=str(authority.certificate),
    )
    files = ["--tls-ca", authority.certificate, "--tls-cert", shown.certificate, "--tls-key", shown.key]
    ways = ["--address", server.address, *map(str, files)]
    assert CliRunner().invoke(app, ["health", "--live", *ways]).stdout == "SERVING\n"
    for arguments, code in ((["--token", token], 0), (["--token", STRANGER], 1), ([], 1)):
        assert CliRunner().invoke(app, ["generations", *ways, *arguments]).exit_code == code
    assert CliRunner().invoke(app, ["generations", *ways[:4], "--token", token]).exit_code == 3
    # Another worker, by chance: certificates and tokens are the same in each.
    config = TlsConfig(authority.certificate, shown.certificate, shown.key)
    with Client(server.address, token=token, tls=config, connections=16, timeout_s=60.0) as client:
        for _ in range(16):
            assert client.recommend(user_id="ada").generation == 1
        assert min(server.calls()) > 0
    assert server.end() == 0


def test_neither_logs_nor_metrics_tell_tokens_or_people(start_process: Start, tmp_path: Path) -> None:
    """All that a server wrote at its most talkative, after good and bad tokens, users, visitors, queries and errors."""
    plain = json.dumps({"name": "plain", "scopes": ["read", "write"], "token": "S3cr3t-plain-" * 3})
    secrets = ["S3cr3t", hashlib.sha256(("S3cr3t-plain-" * 3).encode()).hexdigest()]
    people = ["Pers0n-user", "Pers0n-visitor", "Pers0n-session", "Pers0n-query", "Pers0n-item", "Pers0n-attribute"]
    path = tmp_path / "tokens"
    path.write_text(plain)
    server = start_process(HEADWATER_TOKENS_FILE=str(path), HEADWATER_LOG_LEVEL="debug")
    address = server.address

    def fail(call: Callable[[], object]) -> None:
        with pytest.raises(Exception, match=r"UNAUTHENTICATED|INVALID_ARGUMENT|NOT_FOUND|PERMISSION_DENIED"):
            call()

    with Client(address, token="S3cr3t-plain-" * 3, timeout_s=60.0) as client:
        someone = event(
            "like",
            user_id=people[0],
            visitor_id=people[1],
            session_id=people[2],
            item_id=people[4],
            attributes={people[5]: people[5]},
        )
        client.write(someone, event("search", user_id=people[0], query=people[3])).raise_for_refused()
        client.recommend(user_id=people[0])
        client.recommend(visitor_id=people[1], context={people[5]: people[5]}, surface=people[5])
        client.search_items(people[3], user_id=people[0])
        client.get_profile(user_id=people[0])
        fail(lambda: client.recommend(user_id=people[0], page_size=-1))
        fail(lambda: client.similar_items(people[4]))
        fail(lambda: client.recommend(user_id=people[0] * 100))
        fail(lambda: client.delete_user(user_id=people[0]))
        client.write(event("like", user_id=people[0] * 100, item_id=people[4]))
    for bad in ("S3cr3t-unknown-" * 3, "S3cr3t"):
        with Client(address, token=bad, timeout_s=60.0) as stranger:
            fail(partial(stranger.recommend, user_id=people[0]))
    # What is no UTF-8 gRPC itself would log.
    with contextlib.closing(RawConnection(int(address.rpartition(":")[2]))) as raw:
        raw.begin(b"/headwater.v1.CatalogService/GetItems", headers={b"authorization": b"Bearer S3cr3t-n0-text\xff"})
        raw.wait_for(b"grpc-status")
    path.write_text('{"S3cr3t": "S3cr3t')
    until(lambda: bool(server.said("files_refused")))
    metrics_port = server.said("server_started")[0]["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=60) as page:
        metrics = page.read().decode()
    assert server.end() == 0
    assert 'code="UNAUTHENTICATED"' in metrics
    ended = server.said("call_ended")
    assert {line["code"] for line in ended} >= {"OK", "UNAUTHENTICATED", "INVALID_ARGUMENT", "PERMISSION_DENIED"}
    assert {line.get("caller") for line in ended} == {"plain", None}
    for secret in (*secrets, *people):
        assert secret not in server.log
        assert secret not in metrics


# --- what needs admin beside write


def imported(event_id: str) -> events_pb.WriteEventsRequest:
    """A backfill of an event whose type nobody registered."""
    listened = event_pb2.Event(event_id=event_id, event_type="listen", user_id="ada", item_id="space-00")
    return events_pb.WriteEventsRequest(events=[listened], backfill=True)


async def test_a_backfill_registers_types_for_those_alone_who_may_administer(
    start_server: StartServer, settings: ServerSettings, connect: Connect
) -> None:
    """Who may only write is refused its events of unknown types, in batches and streams, and told why."""
    tokens = written({TOKENS["write"]: ["write"], TOKENS["admin"]: ["write", "admin"]})
    server = await start_server(settings, **tokens_as(tokens))
    events = EventServiceStub(connect(server))
    writers, admins = ((("authorization", f"Bearer {TOKENS[name]}"),) for name in ("write", "admin"))
    (result,) = (await events.WriteEvents(imported("1"), metadata=writers)).results
    assert (result.error.field, result.error.code) == ("event_type", grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert result.error.reason == "'listen' is not registered; to register types by backfill needs the scope admin"
    asked = iter([events_pb.StreamEventsRequest(sequence=1, events=imported("1").events, backfill=True)])
    (streamed,) = [answer async for answer in events.StreamEvents(asked, metadata=writers)]
    assert [error.field for error in streamed.errors] == ["event_type"]
    assert "listen" not in server.rooms.event_types
    (result,) = (await events.WriteEvents(imported("1"), metadata=admins)).results
    assert result.outcome == event_pb2.EVENT_OUTCOME_ACCEPTED
    (result,) = (await events.WriteEvents(imported("2"), metadata=writers)).results  # it is known now
    assert result.outcome == event_pb2.EVENT_OUTCOME_ACCEPTED


async def test_where_admin_has_a_port_types_are_registered_there(
    start_server: StartServer, settings: ServerSettings
) -> None:
    """Without tokens, too: the port decides then."""
    server = await start_server(settings, admin_port=0)
    for port, outcome in (
        (server.port, event_pb2.EVENT_OUTCOME_REFUSED),
        (server.admin_port, event_pb2.EVENT_OUTCOME_ACCEPTED),
    ):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            (result,) = (await EventServiceStub(channel).WriteEvents(imported("1"))).results
        assert result.outcome == outcome


# --- the admin port


async def test_with_an_admin_port_its_methods_are_answered_there_alone(
    start_server: StartServer, settings: ServerSettings
) -> None:
    """To whoever has the scope; the rest of the contract, and health, on both."""
    tokens = written({TOKENS["admin"]: list(Scope), TOKENS["read"]: ["read"]})
    server = await start_server(settings.model_copy(update=tokens_as(tokens)), admin_port=0)
    assert server.admin_port not in (None, 0, server.port)
    async with client_of(server, TOKENS["admin"]) as client:
        with pytest.raises(PermissionDeniedError, match="answered on the admin port"):
            await client.list_generations()
        assert (await client.recommend(user_id="ada")).generation == 1
    async with client_of(server, TOKENS["admin"], server.admin_port) as client:
        assert (await client.list_generations()).generations
        assert (await client.recommend(user_id="ada")).generation == 1
        assert await client.health() is HealthStatus.SERVING
    async with client_of(server, TOKENS["read"], server.admin_port) as client:
        with pytest.raises(PermissionDeniedError, match="scope admin"):
            await client.list_generations()


async def test_the_admin_port_is_a_port_apart_without_tokens_too(
    start_server: StartServer, settings: ServerSettings
) -> None:
    """What a firewall lets through decides then."""
    server = await start_server(settings, admin_port=0)
    async with client_of(server) as client:
        with pytest.raises(PermissionDeniedError, match="admin port"):
            await client.delete_user(user_id="ada")
    async with client_of(server, port=server.admin_port) as client:
        assert (await client.reload()).generation == 1


def test_workers_share_the_admin_port(start_process: Start) -> None:
    """Whichever of them is met."""
    server = start_process(workers=2, HEADWATER_ADMIN_PORT="0")
    assert server.address
    (port,) = {line["admin_port"] for line in server.said("server_started")}
    with Client(f"127.0.0.1:{port}", connections=16, timeout_s=60.0) as client:
        for _ in range(16):
            assert client.list_generations().generations
    assert min(server.calls()) > 0
    assert server.end() == 0


def tokens_as(text: str) -> dict[str, object]:
    """The settings that hold these tokens."""
    return {"tokens": SecretStr(text)}


# --- limits of a token


async def test_a_tokens_rate_is_bounded_and_others_are_not_touched(
    start_server: StartServer, settings: ServerSettings
) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo, from which the client knows how long to wait."""
    tokens = f"{written({TOKENS['read']: ['read']}, calls_per_s=2)}\n{written({TOKENS['admin']: ['read']})}"
    server = await start_server(settings.model_copy(update=tokens_as(tokens)))
    async with client_of(server, TOKENS["read"]) as client, client_of(server, TOKENS["admin"]) as other:
        with pytest.raises(ResourceExhaustedError, match="2 calls a second") as caught:
            for _ in range(1000):
                await client.recommend(user_id="ada")
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= 0.5
        for _ in range(10):
            await other.recommend(user_id="ada")


async def test_a_stream_is_slowed_to_its_tokens_rate(
    start_server: StartServer, settings: ServerSettings, connect: Connect
) -> None:
    """Not ended: each batch waits its turn, and all are committed."""
    tokens = written({TOKENS["write"]: ["write"]}, calls_per_s=10)
    server = await start_server(settings.model_copy(update=tokens_as(tokens)))
    call = EventServiceStub(connect(server)).StreamEvents(
        metadata=(("authorization", f"Bearer {TOKENS['write']}"),), timeout=60
    )
    began_s = asyncio.get_running_loop().time()
    for sequence in range(1, 21):
        like = event_pb2.Event(event_id=str(sequence), event_type="like", user_id="ada", item_id="space-00")
        await call.write(events_pb.StreamEventsRequest(sequence=sequence, events=[like]))
    await call.done_writing()
    assert [answer.sequence async for answer in call] == list(range(1, 21))
    assert asyncio.get_running_loop().time() - began_s > 1.0  # ten at once, ten more at ten a second


async def test_a_tokens_calls_under_way_are_bounded_streams_among_them(
    start_server: StartServer, settings: ServerSettings, connect: Connect
) -> None:
    """One caller cannot take all the streams; whoever ends makes room."""
    server = await start_server(settings, token_max_in_flight=2, **tokens_as(written({TOKENS["admin"]: ["admin"]})))
    models = ModelServiceStub(connect(server))
    metadata = (("authorization", f"Bearer {TOKENS['admin']}"),)
    watches = [models.WatchGenerations(models_pb.WatchGenerationsRequest(), metadata=metadata) for _ in range(2)]
    for watch in watches:
        await asyncio.wait_for(watch.read(), 60)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.ListGenerations(models_pb.ListGenerationsRequest(), metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "100"
    status = rpc_status.from_call(caught.value)
    assert status is not None and status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    watches[0].cancel()
    async with AsyncClient(f"127.0.0.1:{server.port}", token=TOKENS["admin"], timeout_s=60.0) as client:
        # Its retries find the room.
        assert (await client.list_generations()).generations
    watches[1].cancel()


# --- metrics


def metrics_host(server: HeadwaterServer) -> str:
    """Where /metrics is listened for."""
    assert server._metrics_server is not None
    return server._metrics_server.host


async def test_metrics_are_on_this_machine_wherever_calls_are_answered(
    start_server: StartServer, settings: ServerSettings
) -> None:
    """They have neither TLS nor tokens: who wants others to read them says so."""
    server = await start_server(settings, host="0.0.0.0", allow_insecure=True)
    assert metrics_host(server) == "127.0.0.1"
    server = await start_server(settings, metrics_host="0.0.0.0")
    assert metrics_host(server) == "0.0.0.0"


async def test_who_connects_to_metrics_and_says_nothing_is_let_go(
    start_server: StartServer, settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each connection has a thread."""
    monkeypatch.setattr(ImpatientHandler, "timeout", 0.1)
    server = await start_server(settings)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.metrics_port)
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


# --- refused by default


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "8.8.8.8", "not-a-host.invalid"])
def test_a_public_address_needs_tls_and_authentication(settings: ServerSettings, host: str, tmp_path: Path) -> None:
    """The error says what to set. One of both is not enough: a token without TLS can be read on its way."""
    public = {"host": host}
    tokens = tokens_as(ONE_EACH)
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    tls: dict[str, object] = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key}
    for given, missing in (
        ({}, ("HEADWATER_TLS_CERT_FILE", "HEADWATER_TOKENS_FILE", "HEADWATER_ALLOW_INSECURE")),
        (tls, ("HEADWATER_TOKENS_FILE", "HEADWATER_TLS_CLIENT_CA_FILE")),
        (tokens, ("HEADWATER_TLS_CERT_FILE",)),
    ):
        with pytest.raises(ConfigurationError) as caught:
            check_exposure(settings.model_copy(update={**public, **given}))
        for name in missing:
            assert name in str(caught.value)
    for enough in ({**tls, **tokens}, {**tls, "tls_client_ca_file": authority.certificate}, {"allow_insecure": True}):
        check_exposure(settings.model_copy(update={**public, **enough}))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3", "::1"])
def test_this_machine_alone_needs_neither(settings: ServerSettings, host: str) -> None:
    """As it is by default."""
    check_exposure(settings.model_copy(update={"host": host}))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_command_refuses_at_once(start_process: Start, workers: int) -> None:
    """In one line, with exit code 1."""
    server = start_process(workers, HEADWATER_HOST="0.0.0.0")
    assert server.process.wait(60) == 1
    assert ["HEADWATER_ALLOW_INSECURE" in line["reason"] for line in server.said("server_failed")] == [True]


# --- request ids


async def test_a_failed_calls_id_is_in_the_error_and_in_the_log(
    guarded: HeadwaterServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client's own, one it was given, or for others one of the server's."""
    async with client_of(guarded, TOKENS["read"]) as client:
        with request_id("web-17"), pytest.raises(PermissionDeniedError) as caught:
            await client.reload()
        assert caught.value.request_id == "web-17"
        with pytest.raises(PermissionDeniedError) as caught:
            await client.reload()
        assert len(caught.value.request_id) == 36
    assert "web-17" in capsys.readouterr().out


@pytest.mark.parametrize("sent", ["web-17", "", "a b", "x" * 129, None])
async def test_ids_are_echoed_and_odd_ones_replaced(
    guarded: HeadwaterServer, connect: Connect, sent: str | None
) -> None:
    """An id is for logs; what could confuse them is not taken over. Each has one of its own."""
    channel = connect(guarded)
    metadata = [("authorization", f"Bearer {TOKENS['admin']}")]
    if sent is not None:
        metadata.append(("headwater-request-id", sent))
    answered, echoed = [], []
    for path in ("/headwater.v1.ModelService/Reload", "/headwater.v1.CatalogService/GetItems") * 2:
        method: Any = channel.unary_unary(path)
        call = method(b"", metadata=metadata)
        answered.append(await call.code())
        echoed.append(dict(await call.trailing_metadata()).get("headwater-request-id"))
    assert answered == [grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED] * 2
    if sent == "web-17":
        assert echoed == ["web-17"] * 4
    else:  # what succeeded needs none
        assert echoed[::2] == [None] * 2
        assert not {None, sent} & set(echoed[1::2]) and len(set(echoed[1::2])) == 2
