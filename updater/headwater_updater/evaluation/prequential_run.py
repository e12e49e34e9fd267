"""Prequential evaluation of a file: warm up, tune, then foresee and learn an untouched stream, arm by arm.

Everything is chosen on the tuning window: the simple arms' options, and how fast the product learns. Then the product
is trained anew on all that comes before the stream, and every arm goes through the stream by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from headwater_core.events import HistoryEvent
from headwater_updater.blending import without_trend
from headwater_updater.evaluation.learner_arms import (
    Features,
    FrozenArm,
    LeakingArm,
    LiveArm,
    OnlineArm,
    RetrainedArm,
)
from headwater_updater.evaluation.simple_arms import CountingArm, OwnItemsArm, PairArm, PopularArm
from headwater_updater.evaluation.splits import Histories, IsTarget
from headwater_updater.evaluation.streams import Round, Rounds, Timeline, UserEvent, by_user, sampled_targets
from headwater_updater.examples import Example
from headwater_updater.held_out import is_held_out_user
from headwater_updater.learner import Learner
from headwater_updater.prequential import ScoredTarget
from headwater_updater.ranking import Request, gains, hits
from headwater_updater.settings import UpdaterSettings

PACES = (0.5, 1.0, 2.0)
"""What the rates of incremental steps are multiplied with, on trial."""
_TUNING_EVENTS = 20_000
"""Of a longer tuning window the end decides, and what comes before it is trained on."""
_TUNING_TARGETS = 2000
_ROUNDS = 1000
"""About so many rounds a stream is cut into, unless they would be smaller than _MIN_ROUND."""
_MIN_ROUND = 64
_RETRAININGS = 3
_DELAY_SHARE = 0.2
_OLD_TARGETS = 2000
_HALF_LIVES = (100, 1_000, 10_000, 100_000)

ONLINE, LIVE = "online weights, live history", "frozen weights, live history"


class FutureLeakError(Exception):
    """An arm had learned what it was about to foresee."""


class Arm(Protocol):
    """What foresees and learns."""

    name: str
    learned_until_us: int
    """The time of the last event that it learned; -1: none."""

    def judge(self, each: Round) -> list[ScoredTarget]:
        """How the targets that the round asks for fare; nothing is learned."""
        ...

    def learn(self, each: Round) -> None:
        """Learn the round."""
        ...


class ArmResult(NamedTuple):
    """How one arm fared, by target in the stream's order."""

    name: str
    positions: np.ndarray
    """(n,) int64."""
    ranks: np.ndarray
    """(n,) int64; 0 = a miss."""
    shown: int
    """Different items among all first tens."""
    learn_cpu_s: float
    cpu_s: float


class Plan(NamedTuple):
    """What a run is given."""

    timeline: Timeline
    is_target: IsTarget
    allow_repeats: bool
    train: Callable[[str, Mapping[str, Sequence[HistoryEvent]]], Learner]
    """What it is for, and the histories → the product's learner, trained."""
    features: Features
    settings: UpdaterSettings
    max_targets: int
    """So many of the stream's targets are foreseen, evenly spread."""
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found."""

    results: list[ArmResult]
    controls: dict[str, ArmResult]
    facts: dict[str, Any]
    new_items: frozenset[int]
    """Positions of the foreseen targets whose item had no event before the stream."""
    new_users: frozenset[int]
    """The same of users."""
    user_of: dict[int, str]
    round_of: dict[int, int]


def run(plan: Plan, on_share: Callable[[str, float], None]) -> Outcome:
    """Tune, train and go through the stream.

    Args:
        plan: what and how.
        on_share: told the stage and how far it is.
    """
    timeline = plan.timeline
    pace, simple, tuning = _tuned(plan, on_share)
    held = [each for each in timeline.tuning if is_held_out_user(each.user_id)]
    not_held = [each for each in timeline.tuning if not is_held_out_user(each.user_id)]
    before = by_user(timeline.before_stream)
    # Old targets of held-out users are learned by nobody: what happens to them later is forgetting.
    trained = plan.train("training", by_user([*timeline.warm_up, *not_held]))
    _join_items(trained, before, plan.features)
    state = trained.state()

    asked = sampled_targets(timeline.stream, plan.is_target, plan.max_targets)
    size = max(_MIN_ROUND, len(timeline.stream) // _ROUNDS)
    parts = Rounds(before, timeline.stream, size, asked)
    interval = len(timeline.stream) // (_RETRAININGS + 1)
    delay = int(_DELAY_SHARE * len(parts))

    def learner() -> Learner:
        return _at_pace(Learner.load_state(state, trained.text_features), pace)

    def online(name: str, kind: type[OnlineArm] = OnlineArm, **options: Any) -> OnlineArm:
        return kind(name, learner(), plan.features, before, plan.settings, **options)

    arms: list[Callable[[], Arm]] = [
        *simple,
        lambda: FrozenArm("frozen weights, frozen history", learner(), plan.features, before),
        lambda: LiveArm(LIVE, learner(), plan.features),
        lambda: online("counts alone, live history", is_counting_only=True),
        lambda: RetrainedArm(
            f"retrained {_RETRAININGS} times, live history",
            learner(),
            plan.features,
            before,
            lambda histories: plan.train("retraining", histories),
            interval,
        ),
    ]
    results = [_run_arm(make(), parts, on_share) for make in arms]
    product = online(ONLINE)
    old = _old_slice(plan, trained, held)
    n_old_items = len(trained.item_ids)
    kept_before = _old_ranks(product.learner, old, n_old_items)
    results.append(_run_arm(product, parts, on_share))
    kept_after = _old_ranks(product.learner, old, n_old_items)

    others = _permuted(timeline.stream, plan.seed)
    controls = {
        "permuted": _run_arm(online("items permuted in what is learned", other_items=others), parts, on_share),
        "delayed": _run_arm(online("learned late", delay_rounds=delay), parts, on_share),
        "shuffled": _run_arm(
            online("learned in any order", delay_rounds=delay, order=np.random.default_rng(plan.seed)), parts, on_share
        ),
    }
    leaking = Rounds(before, timeline.stream[: max(1, len(timeline.stream) // 5)], size, asked)
    controls["leaking"] = _run_arm(online("learns what it is asked", LeakingArm), leaking, on_share, is_guarded=False)
    caught = False
    try:
        _run_arm(online("learns what it is asked", LeakingArm), leaking, on_share)
    except FutureLeakError:
        caught = True

    known_items = {each.event.item_id for each in timeline.before_stream}
    of_position = {each.event.position: each for each in timeline.stream if each.event.position in asked}
    facts = {
        "events": {
            "warm_up": len(timeline.warm_up),
            "tuning": len(timeline.tuning),
            "stream": len(timeline.stream),
        },
        "stream_users": len({each.user_id for each in timeline.stream}),
        "stream_items_unseen_before": len({each.event.item_id for each in timeline.stream} - known_items - {""}),
        "targets_foreseen": len(asked),
        "rounds": len(parts),
        "events_in_a_round": size,
        "chosen": {"pace": pace, **tuning},
        "blend": {"start": trained.blend.to_dict(), "end": product.learner.blend.to_dict()},
        "delay_rounds": delay,
        "leak_caught": caught,
        "forgetting": _forgetting(kept_before, kept_after),
        "staleness": _staleness(parts),
    }
    return Outcome(
        results,
        controls,
        facts,
        frozenset(p for p, each in of_position.items() if each.event.item_id not in known_items),
        frozenset(p for p, each in of_position.items() if each.user_id not in before),
        {position: each.user_id for position, each in of_position.items()},
        {position: index for index, part in enumerate(parts) for position in part.asked},
    )


def _run_arm(arm: Arm, parts: Rounds, on_share: Callable[[str, float], None], *, is_guarded: bool = True) -> ArmResult:
    """Foresee and learn all rounds.

    Raises:
        FutureLeakError: the arm had learned an event of a round when it had foreseen it.
    """
    ranks: dict[int, int] = {}
    shown: set[int] = set()
    learn_s, started_s = 0.0, time.process_time()
    for index, part in enumerate(parts):
        for target in arm.judge(part):
            ranks[target.position] = target.rank
            shown.update(target.top)
        if is_guarded and arm.learned_until_us >= part.start_us:
            raise FutureLeakError(f"{arm.name} has learned until {arm.learned_until_us}; asked of {part.start_us}")
        before_s = time.process_time()
        arm.learn(part)
        learn_s += time.process_time() - before_s
        on_share(arm.name, (index + 1) / len(parts))
    positions = np.array(sorted(ranks), np.int64)
    found = np.array([ranks[position] for position in positions.tolist()], np.int64)
    return ArmResult(arm.name, positions, found, len(shown - {0}), learn_s, time.process_time() - started_s)


def _tuned(
    plan: Plan, on_share: Callable[[str, float], None]
) -> tuple[float, list[Callable[[], CountingArm]], dict[str, Any]]:
    """How fast the product learns, the simple arms ready for the stream, and what was chosen for them."""
    timeline = plan.timeline
    start = max(0, len(timeline.tuning) - _TUNING_EVENTS)
    while 0 < start < len(timeline.tuning) and _time_us(timeline.tuning[start]) == _time_us(timeline.tuning[start - 1]):
        start -= 1
    known, window = [*timeline.warm_up, *timeline.tuning[:start]], timeline.tuning[start:]
    warm = by_user(known)
    asked = sampled_targets(window, plan.is_target, _TUNING_TARGETS)
    parts = Rounds(warm, window, max(_MIN_ROUND, len(window) // _ROUNDS), asked)
    chosen: dict[str, Any] = {}
    simple: list[Callable[[], CountingArm]] = []
    for name, options in _simple_arms(plan).items():
        found = {label: _gain(_run_arm(_prepared(make(), known), parts, on_share)) for label, make in options.items()}
        best = max(found, key=found.__getitem__)
        chosen[name] = best
        simple.append(lambda make=options[best]: _prepared(make(), timeline.before_stream))  # type: ignore[misc]
    first = plan.train("training to tune", warm)
    state = first.state()
    gains: dict[float, float] = {}
    for pace in PACES:
        learner = _at_pace(Learner.load_state(state, first.text_features), pace)
        arm = OnlineArm(f"pace {pace:g}", learner, plan.features, warm, plan.settings)
        gains[pace] = _gain(_run_arm(arm, parts, on_share))
    chosen["ndcg_at_10_by_pace"] = {str(pace): round(gain, 4) for pace, gain in gains.items()}
    return max(gains, key=gains.__getitem__), simple, chosen


def _simple_arms(plan: Plan) -> dict[str, dict[str, Callable[[], CountingArm]]]:
    """By name, the simple arms with each of their options."""
    is_target, repeats = plan.is_target, plan.allow_repeats

    def popular(half_life: float | None) -> Callable[[], CountingArm]:
        name = "popular" if half_life is None else "recent-popular"
        return lambda: PopularArm(name, is_target, allow_repeats=repeats, half_life=half_life)

    def pairs(name: str, reach: int, n_last: int, power: float, *, is_directed: bool) -> Callable[[], CountingArm]:
        return lambda: PairArm(
            name,
            is_target,
            allow_repeats=repeats,
            reach=reach,
            n_last=n_last,
            is_directed=is_directed,
            popularity_power=power,
        )

    arms = {
        "popular": {"all time": popular(None)},
        "recent-popular": {f"half-life {half_life}": popular(half_life) for half_life in _HALF_LIVES},
        "last-item co-visitation": {
            f"reach {reach}, power {power}": pairs("last-item co-visitation", reach, 1, power, is_directed=True)
            for reach in (1, 3)
            for power in (0.0, 0.25, 0.5)
        },
        "item-kNN": {
            f"last {n_last}, power {power}": pairs("item-kNN", 50, n_last, power, is_directed=False)
            for n_last in (5, 20, 100)
            for power in (0.25, 0.5)
        },
    }
    if repeats:
        arms["own items"] = {
            f"decay {decay}": lambda decay=decay: OwnItemsArm("own items", is_target, decay=decay)  # type: ignore[misc]
            for decay in (0.9, 0.97, 1.0)
        }
    return arms


def _prepared(arm: CountingArm, events: Iterable[UserEvent]) -> CountingArm:
    histories = by_user(list(events))
    arm.learn_examples(Example(theirs, len(theirs)) for theirs in histories.values())
    return arm


def _at_pace(learner: Learner, pace: float) -> Learner:
    rates = learner.config.online_learning_rate, learner.config.online_id_learning_rate
    learner.config = replace(
        learner.config, online_learning_rate=pace * rates[0], online_id_learning_rate=pace * rates[1]
    )
    return learner


def _join_items(learner: Learner, histories: Histories, features: Features) -> None:
    """Add the items that only held-out users met."""
    met = dict.fromkeys(event.item_id for events in histories.values() for event in events if event.item_id)
    new = [item_id for item_id in met if not learner.knows(item_id)]
    if new:
        learner.add_items(new, features(new))


def _time_us(each: UserEvent) -> int:
    return each.event.event_time_us


def _gain(result: ArmResult) -> float:
    return float(gains(result.ranks).mean()) if len(result.ranks) else 0.0


def _permuted(events: Sequence[UserEvent], seed: int) -> dict[int, str]:
    """By position, another item in place of the event's: always the same one, so that not even popularity is left."""
    items = sorted({each.event.item_id for each in events} - {""})
    order = np.random.default_rng(seed).permutation(len(items)).tolist()
    other = dict(zip(items, (items[at] for at in order), strict=True))
    return {each.event.position: other[each.event.item_id] for each in events if each.event.item_id}


def _old_slice(plan: Plan, learner: Learner, held: Sequence[UserEvent]) -> list[Request]:
    """The targets of held-out users in the tuning window, each after what came before its timestamp."""
    asked = sampled_targets(held, plan.is_target, _OLD_TARGETS)
    theirs = {each.user_id for each in held}
    requests: list[Request] = []
    for events in by_user([each for each in plan.timeline.before_stream if each.user_id in theirs]).values():
        for event in events:
            if event.position not in asked:
                continue
            earlier = [other for other in events if other.event_time_us < event.event_time_us]
            if len(sequence := learner.tokens(earlier)):
                requests.append(Request(sequence, learner.row(event.item_id)))
    return requests


def _old_ranks(learner: Learner, requests: Sequence[Request], n_items: int) -> np.ndarray:
    """How old targets rank now among the items of then; without the trend, which is meant to be of today."""
    ranks: np.ndarray = learner.judge(requests, np.arange(1, n_items + 1), [without_trend(learner.blend)]).ranks[0]
    return ranks


def _forgetting(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    if not len(before):
        return {"targets": 0}
    found: dict[str, Any] = {"targets": len(before)}
    for name, values in (("hr_at_10", hits), ("ndcg_at_10", gains)):
        was, now = float(values(before).mean()), float(values(after).mean())
        found[name] = {"before": was, "after": now, "relative": now / was - 1.0 if was else None}
    return found


def _staleness(parts: Rounds) -> dict[str, float]:
    """How long events wait until what learned them foresees, as this evaluation paces it."""
    spans_s = [(part.end_us - part.start_us) / 1e6 for part in parts]
    return {
        "events": float(np.mean([sum(e.n_new for e in part.examples) for part in parts])) / 2,
        "median_round_s": float(np.median(spans_s)),
    }
