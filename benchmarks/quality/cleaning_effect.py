"""What each rule of cleaning removes from a file of events, and what learning without that is worth.

`python benchmarks/quality/cleaning_effect.py --events E.csv.gz --items I.csv.gz --min-core 5 --epochs 6` reads events
in the order of their times, once as if they had been written as they happened and once as an import, and counts what
each rule refuses. Then the product is trained on all training events and on what each way leaves of them. All are
asked for the same targets, after the same histories.
"""

from __future__ import annotations

import sys

import numpy as np
from fitting import markdown, parse, read, report, train

from headwater_core.cleaning import Cleaner, Rule, count_by_rule
from headwater_core.events import Event, EventType, HistoryEvent, LoggedEvent
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.metrics import bootstrap_interval, user_metrics
from headwater_updater.evaluation.ranked_lists import ranked_lists
from headwater_updater.evaluation.splits import leave_one_out

_BATCH = 10_000


def main() -> int:
    """Print two tables."""
    arguments = parse("What cleaning removes, and what that is worth")
    data = read(arguments)
    split = leave_one_out(data.histories, data.events.is_target)
    ways = {"as it happened": False, "as an import": True}
    counts: dict[str, dict[str, int]] = {}
    trained = {"all events": list(split.training)}
    for name, backfill in ways.items():
        counts[name], refused = _refused(data.histories, data.events.event_types, backfill=backfill)
        kept = [[event for event in events if event.position not in refused] for events in split.training]
        trained[f"cleaned {name}"] = [events for events in kept if events]
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, training in trained.items():
        learner = train(data, training, arguments)
        scorer = LearnerScorer(learner, split.candidates)
        lists = ranked_lists(scorer, [user.history for user in split.test], allow_repeats=arguments.allow_repeats)
        found[name] = user_metrics(lists, [user.targets["last"] for user in split.test])
    n_events = sum(map(len, data.histories.values()))
    removed = [(rule.value, *(counts[name].get(rule, 0) for name in ways)) for rule in Rule]
    sys.stdout.write(f"{n_events} events\n\n" + markdown(("rule", *ways), removed) + "\n\n")
    base = found["all events"]["ndcg_at_10"]
    rows = []
    for name, metrics in found.items():
        low, high = bootstrap_interval(metrics["ndcg_at_10"] - base, arguments.seed)[1:]
        rows.append((name, float(metrics["ndcg_at_10"].mean()), f"{low:+.4f} to {high:+.4f}"))
    sys.stdout.write(markdown(("learned", "NDCG@10", "minus all events, 95 %"), rows) + "\n")
    report(arguments, {"events": n_events, "refused": counts, "ndcg_at_10": {row[0]: row[1] for row in rows}})
    return 0


def _refused(
    histories: dict[str, list[HistoryEvent]], event_types: dict[str, EventType], *, backfill: bool
) -> tuple[dict[str, int], set[int]]:
    """How many events each rule refuses, and the positions of all of them."""
    events = sorted(
        ((user_id, event) for user_id, theirs in histories.items() for event in theirs),
        key=lambda each: (each[1].event_time_us, each[1].position),
    )
    cleaner = Cleaner()
    rejections = []
    for start in range(0, len(events), _BATCH):
        batch = [_logged(*each, backfill=backfill) for each in events[start : start + _BATCH]]
        rejections += cleaner.clean(batch, event_types).rejections
    return count_by_rule(rejections), {each.position for each in rejections}


def _logged(user_id: str, event: HistoryEvent, *, backfill: bool) -> LoggedEvent:
    said = Event(
        f"e{event.position}",
        event.event_type,
        user_id,
        item_id=event.item_id,
        query=event.query,
        value=event.value,
        event_time_us=event.event_time_us,
        backfill=backfill,
    )
    return LoggedEvent(event.position, event.event_time_us, said)


if __name__ == "__main__":
    sys.exit(main())
