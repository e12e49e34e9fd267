"""The demo: real processes on MovieLens, shown through the client alone.

`python examples/demo.py` plays it once and ends with a table; `--stay` starts the same and stays.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from processes import Installation
from rich.console import Console
from rich.table import Table

from headwater_client import AsyncClient, Client, HeadwaterError, HealthStatus, Recommendations, event, item

ROOT = Path(__file__).parent.parent
MOVIELENS = Path(__file__).parent / "movielens"
LATENCY_CALLS = 300
LOAD_CALLERS = 4
SWAP_TIMEOUT_S = 90.0
SWAP_WINDOW_S = 1.0
READER = "491"
LOVER_OF_SPACE = "149"
HORROR = ("1258", "1347", "1974", "1982", "2710", "1387")
"""The Shining, A Nightmare on Elm Street, Friday the 13th, Halloween, The Blair Witch Project, Jaws"""
console = Console()


@dataclass
class Outcome:
    """One line of the summary."""

    what: str
    seen: str
    is_good: bool = True


@dataclass
class Load:
    """What a steady load saw."""

    calls: list[tuple[float, float, int]] = field(default_factory=list)
    """(when it ended, how long it took, generation that answered), seconds on time.perf_counter's clock."""
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Play the demo, or start what it starts and stay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stay", action="store_true", help="start everything and stay until Ctrl-C")
    stays = parser.parse_args().stay
    folder = ROOT / (".up" if stays else ".demo")
    if not stays and folder.exists():
        shutil.rmtree(folder)
    environment = {"HEADWATER_BOOTSTRAP_SECONDS": "60"}
    if not stays:
        environment |= {"HEADWATER_PORT": "0", "HEADWATER_METRICS_PORT": "0", "HEADWATER_UPDATER_METRICS_PORT": ""}
    with Installation(folder, environment) as installation:
        began = time.perf_counter()
        prepare(installation)
        if stays:
            stay(installation)
            return 0
        outcomes = [Outcome("from nothing to the first answer", f"{time.perf_counter() - began:.0f} s")]
        with Client(installation.address) as client:
            outcomes += show_latency(client)
            outcomes += show_changed_slate(client)
            outcomes += show_new_film(client)
        outcomes += asyncio.run(show_swap(installation.address))
    table = Table(title="Headwater, just now, on this machine", title_justify="left")
    table.add_column("what")
    table.add_column("seen", justify="right")
    table.add_column("", justify="center")
    for outcome in outcomes:
        table.add_row(outcome.what, outcome.seen, "[green]ok" if outcome.is_good else "[red]FAILED")
    console.print(table)
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


def prepare(installation: Installation) -> None:
    """Server, data, first generation, updater; ends when the server answers."""
    console.rule("[bold]Start the server, import MovieLens, train the first generation")
    installation.start_server()
    with Client(installation.address) as client:
        if client.health() is not HealthStatus.SERVING:
            installation.run("headwater", "import-items", str(MOVIELENS / "items.csv.gz"))
            installation.run("headwater", "import-events", str(MOVIELENS / "events.csv.gz"))
            installation.run("headwater-updater", "bootstrap")
        installation.start_updater()
        deadline = time.monotonic() + 60
        while client.health() is not HealthStatus.SERVING:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no generation came into service; see {installation.log_of('server')}")
            time.sleep(0.05)


def stay(installation: Installation) -> None:
    """Tell where everything is and wait."""
    console.print(
        f"\nHeadwater answers at [bold]{installation.address}[/bold]; logs and data are in {installation.folder}."
    )
    console.print("Try:  .venv/bin/headwater recommend 491     Ctrl-C ends it.")
    try:
        installation.wait()
    except KeyboardInterrupt:
        console.print("Stopping.")


def show_latency(client: Client) -> list[Outcome]:
    """One caller, users in turn: first users that the server has not seen since it started, then the same again."""
    console.rule("[bold]Recommend, one caller")
    first, again = (_call_times(client, LATENCY_CALLS) for _ in range(2))
    outcomes = []
    for what, times_ms in (
        ("all calls", first + again),
        ("of these, users not in memory yet", first),
        ("of these, the same users again", again),
    ):
        p50, p99 = statistics.median(times_ms), statistics.quantiles(times_ms, n=100)[98]
        console.print(f"{len(times_ms)} calls, {what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        outcomes.append(Outcome(f"Recommend, one caller, p50 (p99): {what}", f"{p50:.1f} ms ({p99:.1f} ms)"))
    outcomes[0].is_good = statistics.median(first + again) < 10.0
    return outcomes


def _call_times(client: Client, calls: int) -> list[float]:
    times_ms: list[float] = []
    for user in range(1, calls + 1):
        began = time.perf_counter()
        client.recommend(user_id=str(user), page_size=10)
        times_ms.append((time.perf_counter() - began) * 1000)
    return times_ms


def show_changed_slate(client: Client) -> list[Outcome]:
    """A few likes in another taste, and the next answer."""
    console.rule(f"[bold]User {READER} likes six horror films")
    before = client.recommend(user_id=READER, page_size=10, return_items=True)
    print_slate("before", before)
    written = client.write(*(event("like", user_id=READER, item_id=film) for film in HORROR)).raise_for_refused()
    acknowledged = time.perf_counter()
    after = client.recommend(
        user_id=READER, page_size=10, return_items=True, min_consistency_token=written.consistency_token
    )
    milliseconds = (time.perf_counter() - acknowledged) * 1000
    print_slate("after", after, fresh_from=before)
    changed = len(set(after.item_ids) - set(before.item_ids))
    horror = [sum("Horror" in shown.item.categories for shown in slate if shown.item) for slate in (before, after)]
    return [
        Outcome("slate changed by six likes, places of 10", f"{changed}", changed > 0),
        Outcome("horror films in the slate, before → after", f"{horror[0]} → {horror[1]}", horror[1] > horror[0]),
        Outcome("from acknowledged likes to the changed slate", f"{milliseconds:.1f} ms"),
    ]


def show_new_film(client: Client) -> list[Outcome]:
    """A film that does not exist yet."""
    console.rule(f"[bold]A film that nobody has seen, for user {LOVER_OF_SPACE}")
    film = item(
        "headwater-1",
        title="Star Wars: The Headwater Rebellion (2026)",
        categories=["Action", "Adventure", "Sci-Fi"],
    )
    began = time.perf_counter()
    client.upsert_items([film])
    acknowledged = time.perf_counter()
    slate = client.recommend(user_id=LOVER_OF_SPACE, page_size=10, return_items=True)
    milliseconds = (time.perf_counter() - began) * 1000
    print_slate(f"for user {LOVER_OF_SPACE}", slate)
    rank = next((shown.rank for shown in slate if shown.item_id == "headwater-1"), None)
    similar = client.similar_items("headwater-1", page_size=3, return_items=True)
    console.print("most similar:", ", ".join(shown.item.title for shown in similar if shown.item))
    console.print(f"acknowledged after {(acknowledged - began) * 1000:.0f} ms")
    return [
        Outcome("new film recommended, at rank", str(rank), rank is not None),
        Outcome("from sending the new film to recommending it", f"{milliseconds:.0f} ms", milliseconds < 1000),
    ]


async def show_swap(address: str) -> list[Outcome]:
    """A steady load while the updater learns and publishes and the server swaps."""
    console.rule("[bold]A new generation goes live under load")
    async with AsyncClient(address) as client:
        first = (await client.recommend(user_id="1")).generation
        load, ended = Load(), asyncio.Event()
        callers = [asyncio.create_task(call_on(client, load, ended, number)) for number in range(LOAD_CALLERS)]
        deadline = time.perf_counter() + SWAP_TIMEOUT_S
        number = 0
        while time.perf_counter() < deadline and swapped_at(load, first) is None:
            number += 1
            await client.write(event("like", user_id=str(1 + number % 610), item_id=HORROR[number % len(HORROR)]))
            await asyncio.sleep(0.05)
        await asyncio.sleep(2 * SWAP_WINDOW_S)
        ended.set()
        await asyncio.gather(*callers)
    at = swapped_at(load, first)
    if at is None:
        return [Outcome("a new generation went live", f"not in {SWAP_TIMEOUT_S:.0f} s", is_good=False)]
    durations_ms = [taken * 1000 for _, taken, _ in load.calls]
    in_swap_ms = [taken * 1000 for when, taken, _ in load.calls if abs(when - at) <= SWAP_WINDOW_S]
    served = sorted({generation for _, _, generation in load.calls})
    for failure in load.failures[:5]:
        console.print(f"[red]{failure}")
    console.print(f"generations that answered: {served}; {len(load.calls)} calls")
    return [
        Outcome("generation that went live", f"{first} → {served[-1]}"),
        Outcome("calls under load (p50)", f"{len(load.calls)} ({statistics.median(durations_ms):.1f} ms)"),
        Outcome("failed calls", str(len(load.failures)), not load.failures),
        Outcome("slowest call within 1 s of the swap", f"{max(in_swap_ms):.1f} ms"),
    ]


async def call_on(client: AsyncClient, load: Load, ended: asyncio.Event, caller: int) -> None:
    """Ask for one user after the other until told to end."""
    number = caller
    while not ended.is_set():
        number += LOAD_CALLERS
        began = time.perf_counter()
        try:
            answer = await client.recommend(user_id=str(1 + number % 610))
        except HeadwaterError as error:
            load.failures.append(f"{type(error).__name__}: {error}")
        else:
            load.calls.append((time.perf_counter(), time.perf_counter() - began, answer.generation))
        await asyncio.sleep(0.005)


def swapped_at(load: Load, first: int) -> float | None:
    """When the first answer of a newer generation came."""
    return next((when for when, _, generation in load.calls if generation > first), None)


def print_slate(title: str, slate: Recommendations, fresh_from: Recommendations | None = None) -> None:
    """Show a slate's titles; with an earlier slate given, mark what is new."""
    known: Sequence[str] = fresh_from.item_ids if fresh_from is not None else slate.item_ids
    console.print(f"[bold]{title}[/bold]")
    for shown in slate:
        categories = " ".join(shown.item.categories) if shown.item else ""
        name = shown.item.title if shown.item else shown.item_id
        mark = " " if shown.item_id in known else "[green]+[/green]"
        console.print(f"  {mark} {shown.rank:2}. {name}  [dim]{categories} ({'/'.join(shown.sources)})[/dim]")


if __name__ == "__main__":
    sys.exit(main())
