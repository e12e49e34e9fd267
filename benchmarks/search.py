"""What SearchItems finds on MovieLens, by titles, parts of them, titles mistyped, words about films; its halves, too.

`python benchmarks/search.py FOLDER`, FOLDER being an installation's that holds examples/movielens, for example `.demo`
after `make demo`, with no server running on it. A line of JSON for each kind of query and way of answering: for titles
the share of queries with the right film among the first ten (and at the first place), for words about films the share
of the first ten that are of the genre meant.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import string
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from headwater_core.catalogue import Item
from headwater_core.events import Subject, SubjectKind
from headwater_core.item_search import ItemSearch, Matches
from headwater_core.logs import configure_logs
from headwater_core.newcomers import unit_vectors
from headwater_server.filters import ItemFilter
from headwater_server.queries import Audience, SearchQuery
from headwater_server.rooms import Rooms
from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

FILMS = 400
USERS = 610
"""MovieLens's users are called 1 to 610."""
SHOWN = 10
ABOUT = {
    "scary movie with ghosts": "Horror",
    "cartoon for kids": "Animation",
    "funny": "Comedy",
    "romantic love story": "Romance",
    "cowboys in the wild west": "Western",
    "space aliens and robots": "Sci-Fi",
    "world war soldiers": "War",
    "singing and dancing musical": "Musical",
    "detective murder mystery": "Mystery",
    "animated family film": "Children",
    "horror": "Horror",
    "comedy romance": "Romance",
    "documentary about nature": "Documentary",
    "science fiction": "Sci-Fi",
    "gangster heist": "Crime",
}
"""What somebody might type, and the genre meant."""
Way: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]


class Asked(NamedTuple):
    """A query and the items that it is after."""

    query: str
    wanted: frozenset[str]


async def main() -> int:
    """Ask everything, print as it is answered."""
    parser = argparse.ArgumentParser(description="What searches find")
    parser.add_argument("folder", type=Path, help="an installation with MovieLens and a published generation")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    configure_logs("warning", "console")
    server = HeadwaterServer(
        ServerSettings(
            port=0,
            metrics_port=None,
            database_url=f"sqlite:///{folder / 'headwater.db'}",
            store_url=str(folder / "artifacts"),
        )
    )
    await server.start()
    try:
        while server.rooms.text_keeper.space is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await _measure(server.rooms, random.Random(arguments.seed))
    finally:
        await server.stop()
    return 0


async def _measure(rooms: Rooms, chance: random.Random) -> None:
    kinds = _queries(list(rooms.view.items.values()), chance)
    for kind, asked in kinds.items():
        for name, way in _ways(rooms, chance).items():
            times_ms, tops = [], []
            for each in asked:
                began = time.perf_counter()
                found = await way(each.query)
                times_ms.append((time.perf_counter() - began) * 1000)
                tops.append(found[:SHOWN])
            line: dict[str, object] = {"queries": kind, "count": len(asked), "by": name}
            if kind == "words about films":
                shares = [
                    sum(item in each.wanted for item in top) / SHOWN for each, top in zip(asked, tops, strict=True)
                ]
                line["of_the_genre"] = round(statistics.mean(shares), 3)
            else:
                pairs = list(zip(asked, tops, strict=True))
                line["among_10"] = round(statistics.mean(bool(each.wanted & set(top)) for each, top in pairs), 3)
                line["first"] = round(statistics.mean(bool(each.wanted & set(top[:1])) for each, top in pairs), 3)
            line["p50_ms"] = round(statistics.median(times_ms), 1)
            sys.stdout.write(json.dumps(line) + "\n")


def _ways(rooms: Rooms, chance: random.Random) -> dict[str, Way]:
    words = ItemSearch(rooms.database, rooms.tenant)

    async def text(query: str) -> Sequence[str]:
        matches: Matches = await rooms.in_database(words.find, query, SHOWN)
        return matches.item_ids

    space, generation = rooms.text_keeper.space, rooms.generations.by_label("stable")
    assert space is not None
    rows = {item_id: row for item_id in rooms.view.items if (row := generation.items.row(item_id)) is not None}
    placed_items, directions = list(rows), unit_vectors(generation.items.vectors(list(rows.values())))

    async def vector(query: str) -> Sequence[str]:
        [features] = await rooms.in_compute(rooms.query_features, [query])
        nearest: list[str] = await rooms.in_compute(space.nearest, features, SHOWN, lambda _: True)
        return nearest

    async def tower(query: str) -> Sequence[str]:
        features = await rooms.in_compute(rooms.query_features, [query])
        [placed], _ = generation.place(features.astype(np.float16))
        return [placed_items[at] for at in np.argsort(-(directions @ placed))[:SHOWN]]

    async def search(query: str, subject: Subject | None = None) -> Sequence[str]:
        findings = await rooms.searcher.search(SearchQuery(query, Audience(subject), SHOWN, ItemFilter()))
        return [item.item_id for item in findings.items]

    async def search_for_somebody(query: str) -> Sequence[str]:
        return await search(query, Subject(SubjectKind.USER, str(chance.randint(1, USERS))))

    return {
        "text": text,
        "vector": vector,
        "item tower": tower,
        "SearchItems": search,
        "SearchItems for a user": search_for_somebody,
    }


def _queries(films: Sequence[Item], chance: random.Random) -> dict[str, list[Asked]]:
    chosen = chance.sample(films, FILMS)
    kinds: dict[str, list[Asked]] = {"title": [], "part of the title": [], "title mistyped": []}
    for film in chosen:
        title, wanted = _as_spoken(film.title), frozenset({film.item_id})
        kinds["title"].append(Asked(title, wanted))
        if (part := _part(title, chance)) is not None:
            kinds["part of the title"].append(Asked(part, wanted))
        if (mistyped := _mistyped(title, chance)) is not None:
            kinds["title mistyped"].append(Asked(mistyped, wanted))
    kinds["words about films"] = [
        Asked(query, frozenset(film.item_id for film in films if genre in film.categories))
        for query, genre in ABOUT.items()
    ]
    return kinds


def _as_spoken(title: str) -> str:
    """`Matrix, The (1999)` → `The Matrix`."""
    plain = re.sub(r"\s*\([^)]*\)", "", title).strip() or title
    inverted = re.fullmatch(r"(.*), (The|A|An|Le|La|Les|Il|Das|Der|Die|El)", plain)
    return f"{inverted[2]} {inverted[1]}" if inverted else plain


def _part(title: str, chance: random.Random) -> str | None:
    """All words but the last, or two and the beginning of the third; None for a short title."""
    words = title.split()
    if len(words) < 3:
        return None
    return " ".join(words[:-1]) if chance.random() < 0.5 else " ".join([*words[:2], words[2][:3]])


def _mistyped(title: str, chance: random.Random) -> str | None:
    """A letter left out, swapped, replaced or put in, in a word of four or more; None without such a word."""
    words = title.split()
    long = [place for place, word in enumerate(words) if len(word) >= 4]
    if not long:
        return None
    place = chance.choice(long)
    word, letter = words[place], chance.choice(string.ascii_lowercase)
    at = chance.randrange(len(word) - 1)
    slips = (
        word[:at] + word[at + 1 :],
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + letter + word[at + 1 :],
        word[:at] + letter + word[at:],
    )
    words[place] = chance.choice(slips)
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
