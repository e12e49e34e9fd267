"""Items that training never saw, ranked by their texts for the users who met them.

`python benchmarks/quality/cold_items.py --events E.csv.gz --items I.csv.gz --min-core 5` takes a tenth of the items out
of all histories, trains on the rest, and asks for the cold items that each user met among their last events: from the
history before, among all items and among the cold ones alone. Items of the history are left out of the answers. "As
served" is the slate that a server's item space and strategy make, the cold items being new to it.

What room for new items costs the others: the same users' next learned items, with and without it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fitting import markdown, parse, read, report, train
from tuning import Options, climb

from headwater_core.co_visits import Bonuses
from headwater_core.events import HistoryEvent
from headwater_core.histories import collate
from headwater_core.indexes import IndexKind
from headwater_core.retrieval import Retriever
from headwater_core.shards import Delta, Shard, VectorTable
from headwater_core.strategies import FRESH, SourceUse
from headwater_server.item_space import ItemSpace
from headwater_server.settings import ServerSettings
from headwater_server.strategy import Candidate, give_places
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.metrics import bootstrap_interval
from headwater_updater.evaluation.splits import Histories, IsTarget
from headwater_updater.learner import Learner

COLD_SHARE = 0.1
MIN_EVENTS = 5
RECENT_EVENTS = 20
"""A cold item is asked for when it was met among so many last events of a user."""
TUNING_SHARE = 0.3
"""Of the users, how many choose the options of nearest-text; they are not measured."""
_TEXT_GRID: Mapping[str, Sequence[Any]] = {
    "last": (1, 3, 5, 10, 20, 50),
    "decay": (1.0, 0.9, 0.7),
    "centred": (False, True),
    "join": ("mean", "max"),
}
_TEXT_START: Options = {"last": 10, "decay": 1.0, "centred": False, "join": "mean"}
SERVED = "headwater, as served"
_SLATE = 50
_ROOM: tuple[int, int] = tuple(ServerSettings.model_fields[f"fresh_every{part}"].default for part in ("", "_below"))
_FITTING_SHARE: float = ServerSettings.model_fields["fresh_top_share"].default
_OTHER_ROOMS = ((500, 500), (10, 10), (10, 5), (5, 5))
"""How often else a place could be a new item's: of the first ones, and below."""


class Case(NamedTuple):
    """A user, what they did before they met cold items, and which these were."""

    user_id: str
    history: list[HistoryEvent]
    targets: tuple[str, ...]
    learned_targets: tuple[str, ...] = ()
    """The new items of the first block, from that of the targets on, that has any which are not cold."""


class Division(NamedTuple):
    """What is learned, what is asked."""

    training: list[list[HistoryEvent]]
    cases: list[Case]
    """In random order."""


class Metrics(NamedTuple):
    """Means over a case's targets, (C,) each; equal scores stand in random order, and this is what to expect."""

    hr_at_10: np.ndarray
    hr_at_50: np.ndarray
    ndcg_at_10: np.ndarray


def choose_cold(histories: Histories, seed: int, share: float = COLD_SHARE) -> set[str]:
    """A random share of the items with at least MIN_EVENTS events."""
    counts = Counter(event.item_id for event in chain.from_iterable(histories.values()) if event.item_id)
    eligible = sorted(item_id for item_id, count in counts.items() if count >= MIN_EVENTS)
    chosen = np.random.default_rng(seed).choice(len(eligible), max(1, round(share * len(eligible))), replace=False)
    return {eligible[index] for index in chosen.tolist()}


def divide(histories: Histories, cold: AbstractSet[str], is_target: IsTarget) -> Division:
    """Take cold items out of all histories; each user is asked for those of the last block that holds any.

    A block is the events that share a time. What comes from that block on is left out of training, too: nothing may
    know what the user did later.
    """
    training: list[list[HistoryEvent]] = []
    cases: list[Case] = []
    for user_id, events in histories.items():
        start, targets = _last_cold_block(events, cold, is_target)
        known = [event for event in events[:start] if event.item_id not in cold]
        seen = {event.item_id for event in known}
        if targets and seen:
            cases.append(Case(user_id, known, targets, _next_learned(events[start:], cold | seen, is_target)))
        else:
            known = [event for event in events if event.item_id not in cold]
        if known:
            training.append(known)
    return Division(training, [cases[index] for index in np.random.default_rng(0).permutation(len(cases))])


def _last_cold_block(
    events: Sequence[HistoryEvent], cold: Collection[str], is_target: IsTarget
) -> tuple[int, tuple[str, ...]]:
    """Where the block begins, and its cold targets; none when no recent event is one."""
    recent = range(max(len(events) - RECENT_EVENTS, 0), len(events))
    wanted = [index for index in recent if events[index].item_id in cold and is_target(events[index])]
    if not wanted:
        return len(events), ()
    block = [event for event in events if event.event_time_us == events[wanted[-1]].event_time_us]
    targets = dict.fromkeys(event.item_id for event in block if event.item_id in cold and is_target(event))
    return events.index(block[0]), tuple(targets)


def _next_learned(events: Sequence[HistoryEvent], others: AbstractSet[str], is_target: IsTarget) -> tuple[str, ...]:
    wanted = [event for event in events if is_target(event) and event.item_id not in others]
    return tuple(dict.fromkeys(e.item_id for e in wanted if e.event_time_us == wanted[0].event_time_us))


def measure(scores: np.ndarray, targets: Sequence[Sequence[int]]) -> Metrics:
    """The metrics of scores (C, N), minus infinity = left out, for the targets' places in them."""
    gains = 1.0 / np.log2(np.arange(2, 12))
    found = []
    for row, places in zip(scores, targets, strict=True):
        own = row[list(places)]  # (t,)
        above = (row > own[:, None]).sum(1)
        equal = (row == own[:, None]).sum(1)  # itself among them
        till = above + equal
        hits = [(np.minimum(till, k) - np.minimum(above, k)) / equal for k in (10, 50)]
        gained = np.concatenate([[0.0], gains.cumsum()])
        ndcg = (gained[np.minimum(till, 10)] - gained[np.minimum(above, 10)]) / equal
        found.append([hits[0].mean(), hits[1].mean(), ndcg.mean()])
    return Metrics(*np.array(found).reshape(-1, 3).T)


def text_scores(features: np.ndarray, histories: Sequence[Sequence[int]], options: Options) -> np.ndarray:
    """Nearest text: cosines of all items' features (N, F) with those of each user's last items. (C, N).

    Args:
        features: 0 for an item without a text.
        histories: per user the places of their items in `features`, the oldest first.
        options: how many `last` items, their `decay`, whether features are `centred`, and how to `join` the last items:
            cosine with their mean or the highest cosine of any.
    """
    if options["centred"]:
        features = _centred(features)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    scores = np.zeros((len(histories), len(unit)), np.float32)
    for index, places in enumerate(histories):
        last = places[-options["last"] :][::-1]
        weights = options["decay"] ** np.arange(len(last))
        if options["join"] == "mean":
            scores[index] = unit @ (weights @ unit[last])
        else:
            scores[index] = ((unit @ unit[last].T) * weights).max(1)
    return scores


def _centred(features: np.ndarray) -> np.ndarray:
    """Without their mean; items without a text stay 0."""
    has_text = np.flatnonzero(features.any(1))
    found = np.zeros_like(features)
    found[has_text] = features[has_text] - features[has_text].mean(0)
    return found


class Server:
    """What a server makes of the learner, its cold items having come after the generation."""

    def __init__(self, learner: Learner, item_ids: Sequence[str], is_cold: np.ndarray) -> None:
        """Args: item_ids: N; is_cold: (N,)."""
        self._learner = learner
        self._place = {item_id: at for at, item_id in enumerate(item_ids)}
        learned, cold = ([item_ids[at] for at in np.flatnonzero(is_cold == new).tolist()] for new in (False, True))
        shard = Shard.build(learned, self._vectors(learned), IndexKind.FLAT)
        delta = Delta.empty(learner.config.tower.dimension)
        table = VectorTable([shard], delta)
        space = ItemSpace(table, Retriever([shard], delta, table), met=np.arange(len(learned)))
        vectors = self._vectors(cold)
        self._space = space.with_fresh(cold, vectors, space.heritage(vectors))
        self._row_of = np.array([self._space.row(item_id) for item_id in learner.item_ids])

    def scores(
        self, histories: Sequence[Sequence[HistoryEvent]], seen: np.ndarray, room: tuple[int, int]
    ) -> np.ndarray:
        """(C, N), descending along the slates that these histories are answered with, minus infinity elsewhere.

        Args:
            histories: C.
            seen: (C, N), what may not be in them.
            room: of the first places one in so many is a fitting new item's, and of those below.
        """
        found = np.full(seen.shape, -np.inf)
        for row, events in enumerate(histories):
            for rank, item_id in enumerate(self._slate(events, seen[row], room)):
                found[row, self._place[item_id]] = -rank
        return found

    @torch.inference_mode()
    def _slate(self, events: Sequence[HistoryEvent], seen: np.ndarray, room: tuple[int, int]) -> list[str]:
        learner = self._learner
        learner.user_tower.eval()
        sequence = learner.tokens(events)
        tensors = collate([sequence], learner.config.tower, learner.text_features)
        interests = learner.user_tower(tensors, learner.vectors(tensors.item_rows))[0].numpy()  # (K, d)
        gained = learner.bonuses(sequence, learner.blend)
        rows = self._row_of[gained.items - 1]
        order = np.argsort(rows)
        bonuses = self._space.inherited(Bonuses(rows[order], gained.values[order]))

        def passes(item_id: str) -> bool:
            return not seen[self._place[item_id]]

        found = self._space.retrieve(interests, _SLATE, passes, bonuses=bonuses)
        slate = [Candidate(each.item_id, each.score, (each.source,)) for each in found]
        fitting = self._space.fitting_new(interests, _SLATE, _FITTING_SHARE, passes, bonuses)
        use = SourceUse(name=FRESH, every=room[0], every_below=room[1])
        placed = give_places(slate, [use], {FRESH: fitting})
        return [candidate.item_id for candidate in placed]

    def _vectors(self, item_ids: Sequence[str]) -> np.ndarray:
        return self._learner.item_vectors(np.array([self._learner.row(item_id) for item_id in item_ids]))


def main() -> int:
    """Print a table for each set of candidates."""
    arguments = parse(str(__doc__).splitlines()[0])
    data = read(arguments)
    if not data.features:
        sys.exit("error: without texts nothing is known of a cold item: give --items")
    cold = choose_cold(data.histories, arguments.seed)
    division = divide(data.histories, cold, data.events.is_target)
    learner = train(data, division.training, arguments)
    tables = compare(learner, division, data.item_ids, data.features_of(data.item_ids).astype(np.float32), cold)
    facts = {"cold_items": len(cold), "items": len(data.item_ids), "tuning_cases": _n_tuning(division.cases)}
    facts["cases"] = len(division.cases) - facts["tuning_cases"]
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for name, rows in tables.items():
        print(f"\n{name}\n\n{_table(rows)}")
    ratio = _ratio(tables["among all items"])
    print(f"\nHR@50 among all items over nearest-text's: {ratio:.2f}")
    shown = {
        name: {
            method: {k: v.tolist() for k, v in zip(m._fields, _intervals(m), strict=True)} for method, m in rows.items()
        }
        for name, rows in tables.items()
    }
    report(arguments, {**facts, "epochs": arguments.epochs, "seed": arguments.seed, "ratio": ratio, **shown})
    if arguments.plot:
        _draw(arguments.plot, tables)
    return 0


def compare(
    learner: Learner, division: Division, item_ids: Sequence[str], features: np.ndarray, cold: Collection[str]
) -> dict[str, dict[str, Metrics]]:
    """By set of candidates and method, the metrics of the cases that choose nothing.

    Args:
        learner: trained on `division.training`; knows all items.
        division: the last of its cases are measured, the first tune nearest-text.
        item_ids: N, cold ones among them.
        features: (N, F), of their texts.
        cold: what was held out.
    """
    place = {item_id: at for at, item_id in enumerate(item_ids)}
    is_cold = np.array([item_id in cold for item_id in item_ids])
    cases = division.cases
    histories = [[place[event.item_id] for event in case.history if event.item_id] for case in cases]
    targets = [[place[item_id] for item_id in case.targets] for case in cases]
    left_out = np.zeros((len(cases), len(item_ids)), bool)
    for index, seen in enumerate(histories):
        left_out[index, seen] = True
    n_tuning = _n_tuning(cases)
    measured = slice(n_tuning, None)

    def hidden(scores: np.ndarray, which: slice, among: np.ndarray) -> np.ndarray:
        return np.where(left_out[which] | ~among, -np.inf, scores)

    def nearest_text(among: np.ndarray) -> np.ndarray:
        def value(options: Options) -> float:
            found = hidden(text_scores(features, histories[:n_tuning], options), slice(n_tuning), among)
            return float(measure(found, targets[:n_tuning]).hr_at_50.mean())

        options, _ = climb(_TEXT_GRID, _TEXT_START, value)
        print(f"nearest-text's options: {options}", file=sys.stderr)
        return text_scores(features, histories[measured], options)

    ours = [case.history[-learner.config.tower.history_length :] for case in cases[measured]]
    scores = LearnerScorer(learner, item_ids).score_batch(ours)
    server = Server(learner, item_ids, is_cold)
    popularity = np.tile(learner.counts[[learner.row(item_id) for item_id in item_ids]], (len(ours), 1))
    everything = np.ones_like(is_cold)
    methods: dict[str, dict[str, Callable[[], np.ndarray]]] = {
        "among all items": {
            "random": lambda: np.zeros_like(scores),
            "popular": lambda: popularity,
            "nearest-text": lambda: nearest_text(everything),
            "headwater, scores": lambda: scores,
            SERVED: lambda: server.scores(ours, left_out[measured], _ROOM),
        },
        "among the cold items": {
            "random": lambda: np.zeros_like(scores),
            "nearest-text": lambda: nearest_text(is_cold),
            "headwater, scores": lambda: scores,
            SERVED: lambda: server.scores(ours, left_out[measured] | ~is_cold, _ROOM),
        },
    }
    among = {"among all items": everything, "among the cold items": is_cold}
    tables = {
        name: {
            method: measure(hidden(make(), measured, among[name]), targets[measured]) for method, make in rows.items()
        }
        for name, rows in methods.items()
    }
    for wanted in ("targets", "learned_targets"):
        asked = [index for index, case in enumerate(cases[measured]) if getattr(case, wanted)]
        places = [[place[item_id] for item_id in getattr(cases[measured][index], wanted)] for index in asked]
        tables[f"by the places for new items: {wanted.replace('_', ' ')}"] = {
            f"one in {room[0]}, below one in {room[1]}": measure(
                server.scores([ours[index] for index in asked], left_out[measured][asked], room), places
            )
            for room in sorted({*_OTHER_ROOMS, _ROOM}, reverse=True)
        }
    return tables


def _n_tuning(cases: Sequence[Case]) -> int:
    return round(TUNING_SHARE * len(cases))


def _intervals(found: Metrics) -> list[np.ndarray]:
    return [np.array(bootstrap_interval(values, 0)) for values in found]


def _table(rows: Mapping[str, Metrics]) -> str:
    columns = ("", *(name.upper().replace("_AT_", "@") for name in Metrics._fields), "95 % of HR@50")
    lines: list[list[str | float]] = []
    for name, found in rows.items():
        interval = bootstrap_interval(found.hr_at_50, 0)
        means = [float(values.mean()) for values in found]
        lines.append([name, *means, f"{interval.low:.4f} to {interval.high:.4f}"])
    return markdown(columns, lines)


def _ratio(rows: Mapping[str, Metrics]) -> float:
    """How many times nearest-text's HR@50 the served slates reach."""
    return float(rows[SERVED].hr_at_50.mean() / max(rows["nearest-text"].hr_at_50.mean(), 1e-9))


def _draw(path: Path, tables: Mapping[str, Mapping[str, Metrics]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tables), figsize=(5 * len(tables), 3.2), layout="constrained")
    for axis, (name, rows) in zip(axes, tables.items(), strict=True):
        intervals = [bootstrap_interval(found.hr_at_50, 0) for found in rows.values()]
        means = [interval.mean for interval in intervals]
        spread = [[each.mean - each.low for each in intervals], [each.high - each.mean for each in intervals]]
        axis.barh(list(rows), means, xerr=spread, color="#4477aa", ecolor="#333333")
        axis.invert_yaxis()
        axis.set_xlabel("HR@50 of items never trained on")
        axis.set_title(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
