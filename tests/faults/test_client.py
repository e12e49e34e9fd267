"""What the SDK's defaults save its callers from: replaced servers, and one that is away for a minute.

`HEADWATER_TEST_FAULTS=10 pytest tests/faults/test_client.py -s` replaces that often and takes the whole minute.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from headwater_client import (
    AsyncClient,
    Client,
    EventWriter,
    HealthStatus,
    RetryConfig,
    WriteFailure,
    WriterConfig,
    event,
)
from headwater_server.settings import ServerSettings
from tests.faults.conftest import FAULTS, TIMEOUT_S, Install, Report, until
from tests.faults.writers import PATIENCE_S, Ledger, writers

OUTAGE_S = 60.0 if FAULTS >= 10 else 5.0
DEADLINE_S = 60.0
"""Of every call: servers that start may take a small machine for themselves longer than the SDK's 2 s."""
_READERS = ("recommend", "async recommend", "delete_items", "async delete_items")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(TIMEOUT_S)]


@contextmanager
def callers(addresses: Sequence[str]) -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Ask on and on with the SDK's own retries; counts the calls and, with their reasons, those that fail."""
    calls, failures, ending = Counter[str](), Counter[str](), threading.Event()

    def ask(name: str, call: Callable[[], object]) -> None:
        calls[name] += 1
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever fails is what the test is about
            failures[f"{name}: {error}"] += 1

    def ask_on(name: str, call: Callable[[Client], object]) -> None:
        with Client(addresses, timeout_s=DEADLINE_S) as client:
            while not ending.wait(0.02):
                ask(name, lambda: call(client))

    async def ask_on_async() -> None:
        async def ask_one(name: str, call: Callable[[], Awaitable[object]]) -> None:
            while not ending.is_set():
                calls[name] += 1
                try:
                    await call()
                except Exception as error:  # noqa: BLE001 - as above
                    failures[f"{name}: {error}"] += 1
                await asyncio.sleep(0.02)

        async with AsyncClient(addresses, timeout_s=DEADLINE_S) as client, asyncio.TaskGroup() as tasks:
            tasks.create_task(ask_one("async recommend", lambda: client.recommend(user_id="ada")))
            tasks.create_task(ask_one("async delete_items", lambda: client.delete_items(["nothing"])))

    threads = [
        threading.Thread(target=ask_on, args=("recommend", lambda client: client.recommend(user_id="ada"))),
        threading.Thread(target=ask_on, args=("delete_items", lambda client: client.delete_items(["nothing"]))),
        threading.Thread(target=lambda: asyncio.run(ask_on_async())),
    ]
    for thread in threads:
        thread.start()
    try:
        yield calls, failures
    finally:
        ending.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def test_no_call_fails_while_servers_are_replaced(settings: ServerSettings, install: Install, report: Report) -> None:
    """Two servers, one after the other stopped by SIGTERM and started anew; reads, writes, deletions, streams."""
    # What the raw streams hold open would be waited for longer.
    installation = install(settings.database_url, HEADWATER_STORE_URL=settings.store_url, HEADWATER_DRAIN_S="1")
    names = ("server", "other")
    for name in names:
        installation.start_server(name)
    addresses = [installation.addresses[name] for name in names]
    with writers(addresses) as ledger, callers(addresses) as (calls, failures):
        for _ in range(FAULTS):
            for name in names:
                wait_for_calls(calls, ledger)
                installation.stop_one(name)
                installation.start_server(name)
                wait_until_serving(installation.addresses[name])
        wait_for_calls(calls, ledger)
    report(replaced=2 * FAULTS, answered=dict(calls), failed=dict(failures), **ledger.audit(settings.database_url))
    assert not failures
    assert not ledger.failed_calls, ledger.failed_calls[:3]


def wait_until_serving(address: str) -> None:
    """Wait for a server to be ready, as an orchestrator would."""
    with Client(address, timeout_s=DEADLINE_S) as client:
        until(lambda: client.health() is HealthStatus.SERVING, "a server that serves")


def wait_for_calls(calls: Counter[str], ledger: Ledger) -> None:
    """Wait until every kind of caller was answered again."""
    before = dict(calls)
    until(lambda: all(calls[name] > before.get(name, 0) + 3 for name in _READERS), "calls of every kind")
    ledger.wait_for_acknowledgement(time.monotonic())


def test_a_server_that_restarts_alone_is_waited_for(settings: ServerSettings, install: Install, report: Report) -> None:
    """Writes and deletions outlast a restart by themselves, as long as deadline and patience last."""
    installation = install(settings.database_url, HEADWATER_STORE_URL=settings.store_url)
    installation.start_server()
    with Client(installation.address, retry=RetryConfig(patience_s=PATIENCE_S), timeout_s=PATIENCE_S) as client:
        client.recommend(user_id="ada")
        installation.kill("server")
        starting = threading.Thread(target=installation.start_server)
        starting.start()
        began_s = time.monotonic()
        assert client.write(event("like", user_id="ada", item_id="space-00")).accepted == 1
        write_s = time.monotonic() - began_s
        starting.join()
        installation.kill("server")
        starting = threading.Thread(target=installation.start_server)
        starting.start()
        assert client.delete_items(["nothing"]) == 0
        starting.join()
    report(write_s=round(write_s, 2))


def test_a_writer_loses_nothing_while_the_server_is_away(
    settings: ServerSettings, install: Install, report: Report
) -> None:
    """With its defaults, for a minute; what comes meanwhile waits, in order."""
    assert WriterConfig().give_up_after_s > 60.0
    installation = install(settings.database_url)
    installation.start_server()
    told: list[WriteFailure] = []
    with Client(installation.address) as client:
        writer = EventWriter(client, on_failure=told.append)
        writer.write(event("like", user_id="ada", item_id="space-00"))
        writer.flush(PATIENCE_S)
        installation.kill("server")
        began_s = time.monotonic()
        written = 1
        while time.monotonic() < began_s + OUTAGE_S:
            assert writer.write(event("like", user_id=f"user-{written % 50}", item_id="space-01"))
            written += 1
            time.sleep(0.02)
        assert writer.written == 1
        installation.start_server()
        back_s = time.monotonic()
        writer.flush(PATIENCE_S)
        flushed_s = time.monotonic() - back_s
        writer.close()
        assert (writer.written, writer.failed, writer.dropped, told) == (written, 0, 0, [])
        found = 0
        page = client.list_events(page_size=1000, timeout_s=DEADLINE_S)
        while page.events:
            found += len(page.events)
            if not page.next_page_token:
                break
            page = client.list_events(page_size=1000, page_token=page.next_page_token, timeout_s=DEADLINE_S)
    assert found == written
    report(outage_s=OUTAGE_S, written=written, found=found, flushed_after_return_s=round(flushed_s, 2))
