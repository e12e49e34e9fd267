"""What was shown and what came of it, added up by source, strategy, place, arm or surface. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from headwater_core.events import IMPRESSION
from headwater_core.impressions import Impression, ShownItem
from headwater_core.outcomes import Outcome
from headwater_core.schema import REPORTED

GROUPS = ("source", "strategy", "place", "arm", "surface")


@dataclass(slots=True)
class OutcomeRow:
    """One line of a report."""

    key: str
    """The source, the strategy with its version, the place, `experiment/arm` or the surface."""
    shown: int = 0
    """Items."""
    events: Counter[str] = field(default_factory=Counter)
    """By event type, how many of them such an event followed."""
    reward: float = 0.0


def report(impressions: Iterable[Impression], outcomes: Iterable[Outcome], group_by: str) -> list[OutcomeRow]:
    """The lines of a report, what was shown most first. An item of several sources counts for each.

    Args:
        impressions: what was shown.
        outcomes: what came of it, and of what callers reported.
        group_by: one of GROUPS.
    """
    rows: defaultdict[str, OutcomeRow] = defaultdict(lambda: OutcomeRow(""))
    keys_of_item, keys_of_outcome = _BY_ITEM[group_by], _BY_OUTCOME[group_by]
    for slate in impressions:
        for place, item in enumerate(slate.items, start=1):
            for key in keys_of_item(slate, place, item):
                rows[key].shown += 1
    for outcome in outcomes:
        for key in keys_of_outcome(outcome):
            if outcome.strategy == REPORTED and outcome.event_type == IMPRESSION:
                rows[key].shown += 1
            else:
                rows[key].events[outcome.event_type] += 1
                rows[key].reward += outcome.reward
    for key, row in rows.items():
        row.key = key
    return sorted(rows.values(), key=lambda row: (-row.shown, row.key))


def _arm(experiment: str, arm: str) -> list[str]:
    return [f"{experiment}/{arm}"] if arm else []


_BY_ITEM: Mapping[str, Callable[[Impression, int, ShownItem], Iterable[str]]] = {
    "source": lambda slate, place, item: item.sources,
    "strategy": lambda slate, place, item: [slate.strategy],
    "place": lambda slate, place, item: [str(place)],
    "arm": lambda slate, place, item: (
        _arm(slate.assignment.experiment, item.arm or slate.assignment.arm) if slate.assignment else []
    ),
    "surface": lambda slate, place, item: [slate.surface],
}
_BY_OUTCOME: Mapping[str, Callable[[Outcome], Iterable[str]]] = {
    "source": lambda outcome: outcome.sources or ([REPORTED] if outcome.strategy == REPORTED else []),
    "strategy": lambda outcome: [outcome.strategy],
    "place": lambda outcome: [str(outcome.place)],
    "arm": lambda outcome: _arm(outcome.experiment, outcome.arm),
    "surface": lambda outcome: [outcome.surface],
}
