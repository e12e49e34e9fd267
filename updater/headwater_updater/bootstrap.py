"""The first generation: everything trained at once, on the whole log."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple

import structlog

from headwater_core.cleaning import Cleaner, CleaningLimits, count_by_rule
from headwater_core.errors import NotFoundError
from headwater_core.events import HistoryEvent, Subject
from headwater_core.histories import fit_vocabulary
from headwater_core.towers import TowerConfig
from headwater_updater.catalogue_feed import follow
from headwater_updater.full_training import Progress
from headwater_updater.held_out import is_held_out
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget, LearnerConfig, negative_types, target_weights, users_repeat
from headwater_updater.log_examples import by_subject
from headwater_updater.resources import Resources
from headwater_updater.settings import UpdaterSettings

_READ_EVENTS = 10_000

_log = structlog.get_logger(__name__)

OnProgress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 to 1."""


class Bootstrapped(NamedTuple):
    """A learner that has learned the whole log."""

    learner: Learner
    items: frozenset[str]
    catalogue_revision: int
    learned: list[int]
    """The positions of all events that can be targets, those of held-out subjects excepted; ascending."""
    rejected: dict[str, int]
    """Events that cleaning refused, by rule."""
    metrics: dict[str, float]
    left_out: list[int]
    """The positions of held-out subjects' latest targets, which training did not see; ascending."""


class CleanLog(NamedTuple):
    """What the log says up to a position, cleaned."""

    histories: dict[Subject, list[HistoryEvent]]
    """Oldest event first."""
    rejected: dict[str, int]


def bootstrap(
    resources: Resources,
    settings: UpdaterSettings,
    on_progress: OnProgress | None = None,
    check: Callable[[], None] | None = None,
) -> Bootstrapped:
    """Train a learner on the log as it is now; its watermark is where the log ended.

    Args:
        resources: the log and the catalogue.
        settings: the towers' sizes, the budget and the seed.
        on_progress: told how far it is.
        check: called now and then; what it raises ends the training.

    Raises:
        NotFoundError: when there is nothing to learn from.
    """

    def report(stage: str, share: float) -> None:
        if check is not None:
            check()
        if on_progress is not None:
            on_progress(stage, share)

    head = resources.log.head()
    cleaned = read_clean(resources, head, settings.cleaning, report)
    registered = resources.event_types.all()
    targets = target_weights(registered)
    left_out = leave_out(cleaned.histories, targets)
    histories = list(cleaned.histories.values())
    tower = TowerConfig(
        dimension=settings.dimension,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        n_interests=settings.n_interests,
        history_length=settings.history_length,
        text_dimension=resources.text.dimension,
        vector_dimension=resources.catalogue.embedding_length() or 0,
    )
    config = LearnerConfig(
        # Registered types have their place from the start: what was only imported as ratings may get likes tomorrow.
        fit_vocabulary(tower, histories, registered, negative_types(registered)),
        targets,
        exclude_seen=not users_repeat(histories, targets),
    )
    learner = Learner.create(config, settings.seed, resources.queries.features)
    items, revision = _read_catalogue(resources, learner, settings.batch_items, report)
    if not histories or not items:
        raise NotFoundError(f"the {'catalogue holds no items' if histories else 'log holds no events'} to learn from")

    def training(progress: Progress) -> None:
        report("training", progress.elapsed_fraction)

    budget = Budget(seconds=settings.bootstrap_seconds, epochs=settings.bootstrap_epochs)
    result = learner.fit(histories, budget, training, with_trend=True)
    learner.watermark = head
    metrics = {
        "validation_hr_at_10": result.validation_hr_at_10,
        "validation_ndcg_at_10": result.validation_ndcg_at_10,
        "loss": result.loss,
    }
    _log.info("bootstrapped", watermark=head, subjects=len(histories), items=len(items), epochs=result.epochs)
    learned = sorted(
        event.position
        for subject, events in cleaned.histories.items()
        if not is_held_out(subject)
        for event in events
        if event.event_type in targets
    )
    return Bootstrapped(learner, frozenset(items), revision, learned, cleaned.rejected, metrics, left_out)


def read_clean(resources: Resources, head: int, limits: CleaningLimits, report: OnProgress) -> CleanLog:
    """Read and clean the log up to `head`; what is refused is recorded."""
    log, event_types, links = resources.log, resources.event_types.all(), resources.log.links()
    cleaner = Cleaner(limits)
    grouped: dict[Subject, list[HistoryEvent]] = {}
    rejected: dict[str, int] = {}
    position = 0
    while position < head:
        events = [logged for logged in log.read_after(position, _READ_EVENTS) if logged.position <= head]
        if not events:
            break
        batch = cleaner.clean(events, event_types, links)
        log.reject(batch.rejections)
        for rule, count in count_by_rule(batch.rejections).items():
            rejected[rule] = rejected.get(rule, 0) + count
        for subject, theirs in by_subject(batch.events, event_types).items():
            grouped.setdefault(subject, []).extend(theirs)
        position = events[-1].position
        report("reading", position / head)
    for events_of in grouped.values():
        events_of.sort(key=lambda event: (event.event_time_us, event.position))
    return CleanLog(grouped, rejected)


def leave_out(histories: dict[Subject, list[HistoryEvent]], targets: Container[str]) -> list[int]:
    """Cut held-out subjects' latest events off, from their latest target's timestamp on; the targets' positions.

    They are what the gate judges on: until the next full training nothing learns them. A subject who did nothing
    before is left as it is.
    """
    positions: list[int] = []
    for subject, events in histories.items():
        if not is_held_out(subject):
            continue
        latest = next((event for event in reversed(events) if event.item_id and event.event_type in targets), None)
        if latest is not None and events[0].event_time_us < latest.event_time_us:
            kept = [event for event in events if event.event_time_us < latest.event_time_us]
            cut = events[len(kept) :]
            positions += [event.position for event in cut if event.item_id and event.event_type in targets]
            histories[subject] = kept
    return sorted(positions)


def _read_catalogue(
    resources: Resources, learner: Learner, batch_items: int, report: OnProgress
) -> tuple[set[str], int]:
    items: set[str] = set()
    revision, last = 0, max(1, resources.catalogue.revision())
    while True:
        step = follow(resources.catalogue, resources.text, learner, revision, batch_items)
        if not step.seen:
            return items, revision
        items.update(step.present)
        items.difference_update(step.deleted)
        revision = step.revision
        report("encoding items", min(1.0, revision / last))
