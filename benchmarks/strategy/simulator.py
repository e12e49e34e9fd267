"""A closed loop: simulated users on real films, the real server over gRPC, and strategies that compete for them.

`python benchmarks/strategy/simulator.py --folder F --out simulator.json --plot docs/strategy/simulator.png`
trains on the demo's MovieLens ratings, starts a server, and lets users come, one after another. What they like changes
without notice, from one to another of three moods: each user's own taste (which drifts all the time), thirty films that
everybody wants to see, and what has come out of late; new films keep coming. They look at a slate from the top and
click what attracts them (cascade-like position bias), and now and then watch something that nobody showed them.

Four strategies stand for single sources. For every visit the server is asked for the slate of each of them, and, on
the surface `home`, for that of an experiment that learns (`--allocation`). Only the latter is shown: its clicks are
drawn and written, with its token. What each slate earns is known, since the simulator made up who likes what:

    adaptive      the experiment
    daily refit   once a day the strategy that was best on the day before; it is told all slates of all of them
    oracle        whatever is best for this mood of the world, known in advance
    one source    each strategy alone, all the time: the best of them is known when all is over

Regret is what the oracle would have earned more. A strategy has recovered from a change when its mean over the last
users has come within 90 % of the best strategy's, and stays there in the mean. A change tells policies apart when what
was best before no longer earns 90 % of the best. `simulator_report.py` adds up several seeds.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from installations import QUIET, installation_class, wait_until_serving

from headwater_client import Client, event, item

MOVIELENS = Path(__file__).resolve().parents[2] / "examples" / "movielens"
STRATEGIES: dict[str, dict[str, Any]] = {
    "tower": {"sources": [{"name": "tower"}, {"name": "co_visit"}]},
    "popular": {"sources": [{"name": "popular"}], "ranking": "ranks"},
    "category": {"sources": [{"name": "category"}], "ranking": "ranks"},
    "fresh": {"sources": [{"name": "fresh"}], "ranking": "ranks"},
}
SURFACE = "home"
MOODS = ("taste", "hype", "novelty")
SLATE = 5
_LOOKS = 0.85 ** np.arange(SLATE)
"""How likely each place is looked at."""
_RECOVERED = 0.9
_WINDOW = 100
_HYPED, _LATEST = 30, 400
_DRIFT = 0.05
_ORGANIC = 0.3
_NEW_EVERY, _NEW_ITEMS = 25, 4
_KNOWN_FOR = 10


class Phase(NamedTuple):
    """A stretch of users of one mood."""

    mood: str
    start: int
    end: int


class World:
    """What users like, which no server is told."""

    def __init__(self, seed: int, films: Sequence[tuple[str, Sequence[str]]], n_users: int) -> None:
        """Args: films: ids and genres; n_users: how many there are to come back."""
        self.rng = np.random.default_rng(seed)
        self._genres = sorted({genre for _, genres in films for genre in genres})
        self._films: dict[str, np.ndarray] = {film: self._vector(genres) for film, genres in films}
        self._ids = list(self._films)
        self._matrix = np.stack(list(self._films.values()))
        self._tastes = self.rng.dirichlet(np.full(len(self._genres), 0.15), n_users)
        self.hyped = set(self.rng.choice(self._ids, _HYPED, replace=False).tolist())
        self.latest: list[str] = []
        self.mood = MOODS[0]

    @property
    def ids(self) -> list[str]:
        """The films that there were from the start."""
        return self._ids

    def add(self, film: str, genres: Sequence[str]) -> None:
        """A film came out."""
        self._films[film] = self._vector(genres)
        self.latest = [*self.latest, film][-_LATEST:]

    def genres(self) -> list[str]:
        """Of a film that comes out."""
        return [str(genre) for genre in self.rng.choice(self._genres, 2, replace=False)]

    def attraction(self, user: int, film: str) -> float:
        """How likely the user clicks the film, once looked at."""
        taste = float(self._films[film] @ self._tastes[user]) if film in self._films else 0.0
        if self.mood == "taste":
            return 0.02 + 0.9 * taste
        wanted = self.hyped if self.mood == "hype" else self.latest
        return 0.5 if film in wanted else 0.02 + 0.06 * taste

    def expected(self, user: int, slate: Sequence[str]) -> float:
        """Whether at least one of a slate's films is clicked, as a probability."""
        missed = 1.0
        for looked, film in zip(_LOOKS, slate, strict=False):
            missed *= 1.0 - float(looked) * self.attraction(user, film)
        return 1.0 - missed

    def clicks(self, user: int, slate: Sequence[str]) -> list[str]:
        """What the user clicks."""
        chances = [float(looked) * self.attraction(user, film) for looked, film in zip(_LOOKS, slate, strict=False)]
        return [film for film, chance in zip(slate, chances, strict=True) if self.rng.random() < chance]

    def watched(self, user: int) -> str:
        """What the user finds without any help."""
        if self.mood == "hype":
            return str(self.rng.choice(sorted(self.hyped)))
        if self.mood == "novelty" and self.latest:
            return str(self.rng.choice(self.latest))
        likes = (self._matrix @ self._tastes[user]) ** 2
        return self._ids[int(self.rng.choice(len(likes), p=likes / likes.sum()))]

    def drift(self, user: int) -> None:
        """The user's taste moves a little."""
        moved = (1 - _DRIFT) * self._tastes[user] + _DRIFT * self.rng.dirichlet(np.full(len(self._genres), 0.15))
        self._tastes[user] = moved / moved.sum()

    def _vector(self, genres: Sequence[str]) -> np.ndarray:
        vector = np.array([genre in genres for genre in self._genres], float)
        unit: np.ndarray = vector / max(1.0, vector.sum())
        return unit


def main() -> int:
    """Simulate, print what was found, write JSON and a plot."""
    parser = argparse.ArgumentParser(description="A closed loop of users and strategies")
    parser.add_argument("--folder", type=Path, required=True, help="for the installation; made anew if it is empty")
    parser.add_argument("--users", type=int, default=12_000, help="visits in all")
    parser.add_argument("--phases", type=int, default=6)
    parser.add_argument("--day", type=int, default=2_000, help="visits in a day, after which the daily refit chooses")
    parser.add_argument("--allocation", choices=("thompson", "interleaved"), default="interleaved")
    parser.add_argument("--half-life", type=float, default=50.0, help="of the experiment, in slates")
    parser.add_argument("--pace", type=float, default=25.0, help="visits a second, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    environment = {
        **QUIET,
        "HEADWATER_BOOTSTRAP_EPOCHS": "5",
        "HEADWATER_ATTRIBUTION_INTERVAL_MS": "100",
        "HEADWATER_POPULARITY_HALF_LIFE_EVENTS": "300",
    }
    with installation_class()(arguments.folder.resolve(), environment) as installation:
        installation.start_server()
        if not (arguments.folder / "artifacts").exists():
            installation.run("headwater", "import-items", str(MOVIELENS / "items.csv.gz"))
            installation.run("headwater", "import-events", str(MOVIELENS / "events.csv.gz"))
            installation.run("headwater-updater", "bootstrap")
        with Client(installation.address) as client:
            wait_until_serving(client)
            earned, phases = simulate(client, arguments)
    found = {"seed": arguments.seed, **summary(earned, phases, arguments.day)}
    _show(found)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plot:
        _plot(earned, phases, arguments.plot)
    return 0


def simulate(client: Client, arguments: argparse.Namespace) -> tuple[dict[str, np.ndarray], list[Phase]]:
    """What each policy earned at each visit, in expectation; and the phases."""
    n_users = 300
    world = World(arguments.seed, real_films(), n_users)
    phases = phases_of(world.rng, arguments.users, arguments.phases)
    for name, strategy in STRATEGIES.items():
        client.put_strategy(name, strategy)
    arms = [{"name": name, "strategy": name, "min_share": 0.02} for name in STRATEGIES]
    client.put_experiment(
        "moods",
        {
            "arms": arms,
            "allocation": arguments.allocation,
            "surfaces": [SURFACE],
            "rewards": {"click": 1.0},
            "half_life_slates": arguments.half_life,
        },
    )
    earned: dict[str, list[float]] = {name: [] for name in (*STRATEGIES, "adaptive")}
    for number in range(n_users):  # nobody is a stranger
        known = [world.watched(number) for _ in range(_KNOWN_FOR)]
        client.write(*(event("view", user_id=f"visitor-{number}", item_id=film) for film in known))
    began, n_new = time.monotonic(), 0
    for phase in phases:
        world.mood = phase.mood
        for visit in range(phase.start, phase.end):
            time.sleep(max(0.0, began + visit / arguments.pace - time.monotonic()))
            if visit % _NEW_EVERY == 0:
                films = [(f"new-{n_new + k}", world.genres()) for k in range(_NEW_ITEMS)]
                n_new += _NEW_ITEMS
                client.upsert_items([item(film, title=" ".join(genres), categories=genres) for film, genres in films])
                for film, genres in films:
                    world.add(film, genres)
            number = int(world.rng.integers(n_users))
            user = f"visitor-{number}"
            world.drift(number)
            for name in STRATEGIES:
                slate = client.recommend(user_id=user, page_size=SLATE, strategy=name).item_ids
                earned[name].append(world.expected(number, slate))
            shown = client.recommend(user_id=user, page_size=SLATE, surface=SURFACE)
            earned["adaptive"].append(world.expected(number, shown.item_ids))
            token = shown.attribution_token
            happened = [
                event("click", user_id=user, item_id=film, attribution_token=token)
                for film in world.clicks(number, shown.item_ids)
            ]
            if world.rng.random() < _ORGANIC:
                happened.append(event("view", user_id=user, item_id=world.watched(number)))
            if happened:
                client.write(*happened).raise_for_refused()
    return {name: np.array(values) for name, values in earned.items()}, phases


def phases_of(rng: np.random.Generator, n_visits: int, n_phases: int) -> list[Phase]:
    """Phases of unequal length and of moods by chance, no two that follow each other of the same."""
    shares = rng.uniform(0.7, 1.3, n_phases)
    edges = [0, *np.round(np.cumsum(shares) / shares.sum() * n_visits).astype(int).tolist()]
    moods = [MOODS[0]]
    for _ in range(n_phases - 1):
        moods.append(str(rng.choice([mood for mood in MOODS if mood != moods[-1]])))
    return [Phase(mood, *edge) for mood, edge in zip(moods, pairwise(edges), strict=True)]


def summary(earned: dict[str, np.ndarray], phases: Sequence[Phase], day: int) -> dict[str, Any]:
    """Means, regrets and recoveries of all policies.

    Args:
        earned: of the strategies and of `adaptive`, (n,) by visit.
        phases: of the n visits.
        day: as many visits as a day has.
    """
    single = {name: earned[name] for name in STRATEGIES}
    policies = {**single, "daily refit": daily_refit(single, day), "adaptive": earned["adaptive"]}
    best = [max(single, key=lambda name: single[name][phase.start : phase.end].mean()) for phase in phases]
    oracle = np.concatenate([single[name][p.start : p.end] for name, p in zip(best, phases, strict=True)])
    return {
        "visits": len(oracle),
        "phases": [
            {
                **phase._asdict(),
                "best": name,
                "earned": {k: float(v[phase.start : phase.end].mean()) for k, v in policies.items()},
            }
            for name, phase in zip(best, phases, strict=True)
        ],
        "tells_apart": [
            bool(single[before][p.start : p.end].mean() < _RECOVERED * single[after][p.start : p.end].mean())
            for (before, after), p in zip(pairwise(best), phases[1:], strict=True)
        ],
        "oracle": float(oracle.mean()),
        "policies": {
            name: {
                "earned": float(values.mean()),
                "regret": float((oracle - values).sum()),
                "visits_to_recover": [
                    recovery(values[p.start : p.end], single[of][p.start : p.end])
                    for of, p in list(zip(best, phases, strict=True))[1:]
                ],
            }
            for name, values in policies.items()
        },
    }


def daily_refit(single: dict[str, np.ndarray], day: int) -> np.ndarray:
    """(n,): once a day the strategy that was best on the day before; on the first day the best of its first tenth."""
    n = len(next(iter(single.values())))
    chosen = []
    for start in range(0, n, day):
        past = slice(start - day, start) if start else slice(0, day // 10)
        name = max(single, key=lambda name: single[name][past].mean())
        chosen.append(single[name][start : start + day])
    return np.concatenate(chosen)


def recovery(values: np.ndarray, best: np.ndarray) -> int:
    """After how many visits the means of the last _WINDOW and of all to come are within 90 % of the best's; all: never.

    The last alone say too little: right after a change the best may be as low as everything else for a while.
    """
    for end in range(1, len(values) + 1):
        window, rest = slice(max(0, end - _WINDOW), end), slice(end - 1, None)
        if end >= _WINDOW // 2 and all(
            values[part].mean() >= _RECOVERED * best[part].mean() for part in (window, rest)
        ):
            return end
    return len(values)


def real_films() -> list[tuple[str, list[str]]]:
    """The demo's films that have genres, and these."""
    with gzip.open(MOVIELENS / "items.csv.gz", "rt") as file:
        rows = [(row["item_id"], row["categories"].split("|")) for row in csv.DictReader(file)]
    return [(film, genres) for film, genres in rows if genres != [""]]


def _show(found: dict[str, Any]) -> None:
    write: Callable[[str], object] = sys.stdout.write
    names = list(found["policies"])
    write("| phase | visits | " + " | ".join(names) + " |\n" + "| --- " * (len(names) + 2) + "|\n")
    for phase in found["phases"]:
        cells = [f"{phase['earned'][name]:.3f}" + ("*" if name == phase["best"] else "") for name in names]
        write(f"| {phase['mood']} | {phase['end'] - phase['start']} | " + " | ".join(cells) + " |\n")
    told_apart = [k + 2 for k, each in enumerate(found["tells_apart"]) if each]
    write(f"\nPhases that began with a change which tells policies apart: {told_apart}\n")
    write("\n| policy | earned | regret | visits to recover, mean (each) |\n| --- | --- | --- | --- |\n")
    write(f"| oracle | {found['oracle']:.3f} | 0 | |\n")
    for name, figures in found["policies"].items():
        each = figures["visits_to_recover"]
        told = f"{np.mean(each):.0f} ({', '.join(map(str, each))})"
        write(f"| {name} | {figures['earned']:.3f} | {figures['regret']:.0f} | {told} |\n")


def _plot(earned: dict[str, np.ndarray], phases: Sequence[Phase], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4))
    kernel = np.ones(_WINDOW) / _WINDOW
    for name, values in earned.items():
        width = 2.2 if name == "adaptive" else 1.0
        axes.plot(
            np.arange(len(values) - _WINDOW + 1) + _WINDOW, np.convolve(values, kernel, "valid"), label=name, lw=width
        )
    for phase in phases[1:]:
        axes.axvline(phase.start, color="grey", lw=0.6, ls="--")
    axes.set_xlabel("visits; dashed: the mood changes")
    axes.set_ylabel(f"expected reward, mean of {_WINDOW}")
    axes.legend(loc="upper right", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    sys.exit(main())
