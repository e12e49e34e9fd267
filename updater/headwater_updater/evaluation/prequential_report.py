"""What a prequential run found, as figures: means, intervals, slices, differences, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headwater_updater.evaluation.prequential_run import LIVE, ONLINE, ArmResult, Outcome
from headwater_updater.ranking import gains, hits

_RESAMPLES = 1000
_BLOCKS = 50
"""A stream is cut into so many stretches of time, which are drawn with replacement."""
_SEGMENTS = 20
_METRICS = {"hr_at_10": hits, "ndcg_at_10": gains}


def report(outcome: Outcome, seed: int) -> dict[str, Any]:
    """Everything that is to be told, as JSON can hold it.

    Intervals are of means over targets: by blocks of time (what is near in time is alike), and by users (what one user
    does is alike). The wider one is the one to believe.
    """
    arms = {result.name: _figures(result, outcome, seed) for result in outcome.results}
    online = next(result for result in outcome.results if result.name == ONLINE)
    live = next(result for result in outcome.results if result.name == LIVE)
    controls = outcome.controls
    leaked = controls["leaking"]
    same = np.isin(online.positions, leaked.positions)
    return {
        **outcome.facts,
        "arms": arms,
        "online_minus": {
            result.name: _difference(online, result, outcome, seed)
            for result in outcome.results
            if result.name != ONLINE
        },
        "controls": {
            "items_permuted": {
                **_figures(controls["permuted"], outcome, seed),
                "minus_frozen": _difference(controls["permuted"], live, outcome, seed),
            },
            "learned_late": {
                **_figures(controls["delayed"], outcome, seed),
                "online_minus_it": _difference(online, controls["delayed"], outcome, seed),
            },
            "shuffled_in_time": {
                **_figures(controls["shuffled"], outcome, seed),
                "online_minus_it": _difference(online, controls["shuffled"], outcome, seed),
            },
            "future_leak": {
                "caught": outcome.facts["leak_caught"],
                "hr_at_10": float(hits(leaked.ranks).mean()),
                "hr_at_10_without": float(hits(online.ranks[same]).mean()),
            },
        },
    }


def _figures(result: ArmResult, outcome: Outcome, seed: int) -> dict[str, Any]:
    blocks, users = _blocks(result, outcome), _users(result, outcome)
    found: dict[str, Any] = {"targets": len(result.ranks)}
    for name, of in _METRICS.items():
        values = of(result.ranks)
        found[name] = {"mean": float(values.mean()), **_intervals(values, blocks, users, seed)}
        found[f"{name}_over_time"] = [float(part.mean()) for part in np.array_split(values, _SEGMENTS) if len(part)]
    for name, positions in (("new_item", outcome.new_items), ("new_user", outcome.new_users)):
        chosen = np.isin(result.positions, np.fromiter(positions, np.int64, len(positions)))
        found[name] = {"targets": int(chosen.sum())}
        if chosen.any():
            found[name] |= {metric: float(of(result.ranks[chosen]).mean()) for metric, of in _METRICS.items()}
    found["items_shown"] = result.shown
    n_events = outcome.facts["events"]["stream"]
    found["cpu_s"] = round(result.cpu_s, 2)
    found["update_cpu_s_per_1000_events"] = round(1000 * result.learn_cpu_s / n_events, 4)
    return found


def _difference(first: ArmResult, second: ArmResult, outcome: Outcome, seed: int) -> dict[str, Any]:
    """Paired by target."""
    blocks, users = _blocks(first, outcome), _users(first, outcome)
    found: dict[str, Any] = {}
    for name, of in _METRICS.items():
        values, base = of(first.ranks) - of(second.ranks), float(of(second.ranks).mean())
        found[name] = {
            "mean": float(values.mean()),
            **_intervals(values, blocks, users, seed),
            "relative": float(values.mean()) / base if base else None,
        }
    return found


def _intervals(values: np.ndarray, blocks: np.ndarray, users: np.ndarray, seed: int) -> dict[str, list[float]]:
    return {"by_time_95": _interval(values, blocks, seed), "by_user_95": _interval(values, users, seed)}


def _interval(values: np.ndarray, groups: np.ndarray, seed: int) -> list[float]:
    """The 2.5 % and 97.5 % quantiles of the mean when whole groups are drawn with replacement."""
    n_groups = int(groups.max()) + 1
    sums = np.bincount(groups, values, n_groups)
    sizes = np.bincount(groups, minlength=n_groups).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        drawn = rng.integers(0, n_groups, n_groups)
        means[index] = sums[drawn].sum() / max(sizes[drawn].sum(), 1.0)
    return [float(value) for value in np.quantile(means, (0.025, 0.975))]


def _blocks(result: ArmResult, outcome: Outcome) -> np.ndarray:
    """(n,), the stretch of time each target is in."""
    of_round = np.array([outcome.round_of[position] for position in result.positions.tolist()])
    return _numbered((of_round * _BLOCKS // (outcome.facts["rounds"] or 1)).tolist())


def _users(result: ArmResult, outcome: Outcome) -> np.ndarray:
    return _numbered([outcome.user_of[position] for position in result.positions.tolist()])


def _numbered(keys: Sequence[Any]) -> np.ndarray:
    """(n,) int64 from 0, equal for equal keys."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def summary(found: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """A row for each arm: name, HR@10, NDCG@10, what the product has more of HR@10, relative."""
    rows = []
    for name, arm in found["arms"].items():
        more = found["online_minus"].get(name, {}).get("hr_at_10")
        gain = share = ""
        if more is not None:
            gain = f"{more['mean']:+.4f} ({more['by_time_95'][0]:+.4f} to {more['by_time_95'][1]:+.4f})"
            share = "" if more["relative"] is None else f"{more['relative']:+.1%}"
        rows.append((name, f"{arm['hr_at_10']['mean']:.4f}", f"{arm['ndcg_at_10']['mean']:.4f}", gain, share))
    return rows
