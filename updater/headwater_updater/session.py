"""A training session: from a generation's checkpoint, round by round, to the next generations.

One round: read the log after the offset → clean → follow the catalogue → score → learn, with replay. Everything that
a round moves is in the files that publishing writes, so a session may end anywhere and another goes on from there.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import structlog

from headwater_core.artifact_store import ArtifactStore
from headwater_core.cleaning import Cleaner, count_by_rule
from headwater_core.errors import ArtifactError
from headwater_core.events import EventType, LoggedEvent
from headwater_core.feedback_log import Rejection
from headwater_core.generation import LoadedGeneration
from headwater_core.manifest import CHECKPOINT, CHECKPOINT_DELTA
from headwater_core.ranker import Ranker
from headwater_core.registry import CANARY, STABLE, Lease
from headwater_updater.blend_search import BlendSearch
from headwater_updater.bootstrap import OnProgress, bootstrap
from headwater_updater.catalogue_feed import CatalogueStep, follow
from headwater_updater.gate import GATE, WATCH, CandidateRefusedError, Gate, Verdict
from headwater_updater.gatekeeper import Gatekeeper
from headwater_updater.held_out import is_held_out
from headwater_updater.learner import Learner
from headwater_updater.lease import Leadership, now_us
from headwater_updater.log_examples import events_before_their_item, links_of, new_examples, replay_examples
from headwater_updater.metrics import UpdaterMetrics
from headwater_updater.online import OnlineLearning
from headwater_updater.pacing import Pacing
from headwater_updater.prequential import Prequential
from headwater_updater.publisher import Draft, Published, Publisher
from headwater_updater.ranker_learning import RankerLearning
from headwater_updater.release import Release
from headwater_updater.replay import ReplayBuffer
from headwater_updater.resources import Resources
from headwater_updater.retention import retire
from headwater_updater.session_state import REPLAY, SESSION, SessionState
from headwater_updater.settings import UpdaterSettings
from headwater_updater.watch import Watch

_CANDIDATES = 20
_PAGE = 1000

_log = structlog.get_logger(__name__)


class TrainingSession:
    """A learner between two generations. Use it from one thread, under the updater's lease."""

    def __init__(
        self,
        resources: Resources,
        settings: UpdaterSettings,
        metrics: UpdaterMetrics,
        learner: Learner,
        state: SessionState,
        *,
        items: set[str],
        catalogue_revision: int,
        published: Published | None,
        labelled: int,
    ) -> None:
        """Go on with a learner whose watermark says what it has learned; `resume` and `bootstrap` make sessions.

        Args:
            resources: what to read from and write to.
            settings: how to learn and publish.
            metrics: what to report to.
            learner: the model.
            state: replay and the rest.
            items: what can be retrieved.
            catalogue_revision: up to where the catalogue's changes are followed.
            published: the generation that the learner comes from.
            labelled: what the label names that this session publishes under; 0: nothing yet.
        """
        self._resources = resources
        self._settings = settings
        self._metrics = metrics
        self._learner = learner
        self._state = state
        self._online = OnlineLearning(learner, settings, state.search, state.pacing)
        self._items = items
        self._revision = catalogue_revision
        self._published = published
        self._release = Release(resources, metrics, state.watch, labelled)
        self._reference = state.watch.reference  # as the next session would find it, were nothing published any more
        self._changed: set[str] = set()
        self._moved_visits: set[str] = set()
        self._oldest_live_us: int | None = None
        self._extra_metrics: dict[str, float] = {}
        self._publisher = Publisher(
            resources.store,
            resources.registry,
            index_kind=None if settings.index_kind == "auto" else settings.index_kind,
            index_recall=settings.index_recall,
            shard_items=settings.shard_items,
            fold_share=settings.fold_share,
        )
        self._gatekeeper = Gatekeeper(resources.log, learner, state.gate, settings)
        self._learned: list[int] = []  # positions since the last publication
        self._cleaner = self._warm_cleaner()
        self._has_changes = False
        self._told_of_unread_vectors = False
        self._ranker = Ranker() if published is None else Ranker.from_dict(published.manifest.ranker)
        self._ranker_learning = RankerLearning(resources, settings)
        self._number: int | None = None  # allocated for the next generation, where it was before learning began

    @property
    def has_news(self) -> bool:
        """Whether there is something that no generation has yet: vectors, items, or how far the log was read.

        Where nothing of what was read could be learned, the watermark still has to be published: it says so.
        """
        published = self._published
        return published is None or self._has_changes or self.offset > published.manifest.watermark

    @property
    def offset(self) -> int:
        """The highest position read and learned."""
        return self._learner.watermark

    @classmethod
    def resume(cls, resources: Resources, settings: UpdaterSettings, metrics: UpdaterMetrics) -> TrainingSession | None:
        """The session that goes on from the generation `stable` names; None: it names none.

        When that one's files are damaged, the newest whole one that `stable` named before takes its place: its
        watermark is lower, so what came after is learned again, by a learner that never saw it.

        Raises:
            ArtifactError: when no recorded generation can be loaded.
        """
        labels = resources.registry.labels()
        if STABLE not in labels:
            return None
        if CANARY in labels and (canary := cls._resume_canary(resources, settings, metrics, labels)):
            return canary
        label = labels[STABLE]
        problem: ArtifactError | None = None
        for number in (label, *resources.registry.earlier(STABLE, _CANDIDATES)):
            try:
                generation = LoadedGeneration.load(resources.store, number)
                learner, state = _load_training(resources, settings, generation)
            except ArtifactError as error:
                _log.error("generation_damaged", generation=number, reason=str(error))
                problem = problem or error
                continue
            if state.watch.is_canary:  # it was promoted by hand, or the process ended in the middle of promoting it
                state.watch.begin(0)
            return cls._of(resources, settings, metrics, generation, (learner, state), label)
        assert problem is not None
        raise problem

    @classmethod
    def _resume_canary(
        cls, resources: Resources, settings: UpdaterSettings, metrics: UpdaterMetrics, labels: Mapping[str, int]
    ) -> TrainingSession | None:
        """The session of a canary that is beside what `stable` names; None: it is not, or the label is not ours."""
        try:
            generation = LoadedGeneration.load(resources.store, labels[CANARY])
            learner, state = _load_training(resources, settings, generation)
        except ArtifactError as error:
            _log.error("canary_damaged", generation=labels[CANARY], reason=str(error))
            return None
        if not state.watch.is_canary:
            return None  # an operator's
        if state.watch.reference == labels[STABLE]:
            return cls._of(resources, settings, metrics, generation, (learner, state), labels[CANARY])
        _log.warning("canary_ended", generation=labels[CANARY], reason=f"`stable` names {labels[STABLE]} now")
        resources.registry.drop_label(CANARY, expected=labels[CANARY])
        return None

    @classmethod
    def _of(
        cls,
        resources: Resources,
        settings: UpdaterSettings,
        metrics: UpdaterMetrics,
        generation: LoadedGeneration,
        training: tuple[Learner, SessionState],
        labelled: int,
    ) -> TrainingSession:
        session = cls(
            resources,
            settings,
            metrics,
            *training,
            items=set(generation.table.item_ids()),
            catalogue_revision=generation.manifest.catalogue_revision,
            published=Published.of(generation),
            labelled=labelled,
        )
        _log.info("resumed", generation=generation.number, offset=session.offset, label=session._release.label)
        session._report()
        return session

    @classmethod
    def bootstrap(
        cls,
        resources: Resources,
        settings: UpdaterSettings,
        metrics: UpdaterMetrics,
        leadership: Leadership,
        on_progress: OnProgress | None = None,
        check: Callable[[], None] | None = None,
    ) -> TrainingSession:
        """Learn the whole log anew, publish it, and go on from there.

        Args:
            resources: what to read from and write to.
            settings: how to learn and publish.
            metrics: what to report to.
            leadership: under which this process leads.
            on_progress: told how far it is.
            check: called now and then; what it raises ends the bootstrap. Default: the leadership's own.

        Raises:
            NotFoundError: when there is nothing to learn from.
            LeaseLostError: when another updater took over meanwhile.
        """
        # Before the log is read: whoever is erased from now on can tell by the number that this one may know them.
        number = resources.registry.allocate()
        erasure = _last_erasure(resources)
        labels = resources.registry.labels()
        first = bootstrap(resources, settings, on_progress, check or leadership.check)
        state = SessionState(
            ReplayBuffer(settings.replay_capacity, settings.seed),
            Prequential(settings.prequential_window),
            BlendSearch(first.learner.blend, with_repeats=not first.learner.config.exclude_seen),
            Gate(),
            Pacing(settings.steps_per_round),
            Watch(settings.canary_tolerance),
            erasure,
        )
        if settings.canary and STABLE in labels:
            state.watch.begin(labels[STABLE], is_canary=True)
        state.replay.add(first.learned)
        session = cls(
            resources,
            settings,
            metrics,
            first.learner,
            state,
            items=set(first.items),
            catalogue_revision=first.catalogue_revision,
            published=None,
            labelled=labels.get(CANARY if state.watch.is_canary else STABLE, 0),
        )
        for rule, count in first.rejected.items():
            metrics.rejected.labels(rule).inc(count)
        metrics.learned.inc(len(first.learned))
        session._gatekeeper.take_in_old(first.left_out)
        session._extra_metrics, session._number = first.metrics, number
        session.publish(leadership.lease)
        return session

    def learn(self) -> bool:
        """One round; False when there was nothing new, and nothing was done.

        Raises:
            DatabaseUnavailableError: when the database cannot be reached; the session must be dropped.
        """
        log, settings, learner = self._resources.log, self._settings, self._learner
        head = log.head()
        events = log.read_after(self.offset, settings.batch_events)
        kept = self._not_erased(events)
        self._metrics.head.set(head)
        self._metrics.lag.set(max(0, head - self.offset))
        started_s = time.perf_counter()
        step = follow(self._resources.catalogue, self._resources.text, learner, self._revision, settings.batch_items)
        if not events and not step.seen:
            learner.watermark = max(self.offset, head)  # the log's last events were erased, if it was behind
            return False
        event_types = self._resources.event_types.all()
        kept = self._not_refused(kept)
        self._follow(step)
        late = events_before_their_item(log, step.added, self.offset, event_types, settings.cleaning)
        late = self._not_refused(late)
        kept = self._clean(kept, event_types)
        self._score_and_learn(late, kept, event_types)
        read_up_to = events[-1].position if events else 0
        learner.watermark = read_up_to if len(events) == settings.batch_events else max(self.offset, head, read_up_to)
        self._metrics.round_s.observe(time.perf_counter() - started_s)
        self._report()
        return True

    def learn_ranking(self) -> None:
        """Fit the ranker if it is time.

        Raises:
            DatabaseUnavailableError: when the database cannot be reached; the session must be dropped.
        """
        ranker = self._ranker_learning.step(now_us())
        if ranker is not None:
            self._ranker, self._has_changes = ranker, True

    def publish(self, lease: Lease) -> None:
        """Make a generation of what was learned and let old ones go.

        Raises:
            CandidateRefusedError, LeaseLostError, ConflictError, ArtifactError, DatabaseUnavailableError: nothing was
                published, and what had become worse was taken back; the session must be dropped.
        """
        self._release.heed(self.offset, lease)
        self._choose_reference()
        verdict = self._gatekeeper.verdict()
        with self._metrics.publish_s.time():
            draft = Draft(
                learner=self._learner,
                text_encoder=self._resources.text.id,
                items=self._items,
                changed=self._changed,
                moved_visits=self._moved_visits,
                watermark=self.offset,
                catalogue_revision=self._revision,
                metrics=_finite({**self._extra_metrics, **self._live_metrics(), **verdict.metrics()}),
                training_state=self._state.files(),
                examples=self._gatekeeper.examples,
                ranker=self._ranker,
                number=self._number,
            )
            if not verdict.passes:
                self._refuse(draft, verdict, lease)
            try:
                self._published = self._publisher.publish(
                    draft, self._published, label=self._release.label, expected=self._release.number, lease=lease
                )
            except ArtifactError:
                self._retire(lease)  # a full disk may have room for the next try then
                raise
        self._gatekeeper.accepted()
        self._release.number, self._number = self._published.manifest.number, None
        self._reference = self._state.watch.reference
        self._metrics.published.labels("full" if self._published.manifest.full else "fast").inc()
        if self._oldest_live_us is not None:
            self._metrics.freshness_s.observe((now_us() - self._oldest_live_us) / 1_000_000)
        self._changed, self._moved_visits, self._learned = set(), set(), []
        self._oldest_live_us, self._extra_metrics, self._has_changes = None, {}, False
        self._report()
        self._retire(lease)

    def _refuse(self, draft: Draft, verdict: Verdict, lease: Lease) -> NoReturn:
        """Put the candidate's events on record, and it aside: who goes on from the last good state passes over them.

        The record first: where the store takes no file, the same events would be learned and refused for ever. Under
        the lease: whoever leads now may not have read them yet, and no candidate of its own was refused.
        """
        refused = [Rejection(position, GATE, verdict.reason) for position in self._learned]
        self._resources.log.reject(refused, lease)
        self._metrics.refused.inc()
        _log.error("candidate_refused", events=len(self._learned), reason=verdict.reason)
        try:
            number = self._publisher.keep_aside(draft, self._published, verdict.reason)
        except ArtifactError as error:
            _log.warning("candidate_not_kept", reason=str(error))
        else:
            _log.info("candidate_kept_aside", generation=number)
        self._retire(lease)
        raise CandidateRefusedError(verdict.reason)

    def _choose_reference(self) -> None:
        """When it is time for another one, what serves now is what is compared with from now on."""
        watch, wanted = self._state.watch, self._settings.watch_targets
        is_other_training = self._published is None  # its canary, if it has one, is compared; else nothing is
        is_time = not watch.reference or watch.test.n >= wanted
        if wanted and is_time and not is_other_training and not watch.is_canary:
            watch.begin(self._release.number)

    def _live_metrics(self) -> dict[str, float]:
        state = self._state
        return {**state.prequential.metrics(), **state.watch.metrics(self._settings.watch_targets)}

    def _warm_cleaner(self) -> Cleaner:
        """A cleaner that remembers what the log has before the offset, so that rules reach over a restart."""
        cleaner = Cleaner(self._settings.cleaning)
        lookback = self._settings.cleaning.remembered_events // 10
        events = self._resources.log.read_after(max(0, self.offset - lookback), lookback)
        past = [logged for logged in events if logged.position <= self.offset]
        cleaner.clean(past, self._resources.event_types.all(), links_of(self._resources.log, past))
        return cleaner

    def _follow(self, step: CatalogueStep) -> None:
        self._revision = step.revision
        returned = set(step.present) - self._items
        self._items.update(step.present)
        self._items.difference_update(step.deleted)
        self._changed.update(step.moved)
        if step.seen:
            self._metrics.items_waiting.set(self._resources.catalogue.changed_after(self._revision))
        self._has_changes |= bool(step.moved or step.deleted or returned)
        if step.n_vectors_unread and not self._told_of_unread_vectors:
            self._told_of_unread_vectors = True
            _log.warning(
                "item_vectors_not_read",
                catalogue_length=self._resources.catalogue.embedding_length(),
                model_length=self._learner.config.tower.vector_dimension,
                hint="the next bootstrap reads them",
            )

    def _not_erased(self, events: list[LoggedEvent]) -> list[LoggedEvent]:
        """The events less those that were erased since they were read; what else is in memory of the erased goes."""
        log = self._resources.log
        erasure = _last_erasure(self._resources, self._state.erasure)
        if erasure == self._state.erasure:
            return events
        self._state.erasure = erasure
        self._gatekeeper.forget()
        self._cleaner = self._warm_cleaner()
        left = {each.position for each in log.read_at([each.position for each in events])}
        return [each for each in events if each.position in left]

    def _not_refused(self, events: list[LoggedEvent]) -> list[LoggedEvent]:
        """The events less those of candidates that the gate refused, and of what was taken back."""
        against = self._resources.log.rejections([each.position for each in events])
        refused = {each.position for each in against if each.rule in (GATE, WATCH)}
        return [each for each in events if each.position not in refused]

    def _clean(self, events: Sequence[LoggedEvent], event_types: dict[str, EventType]) -> list[LoggedEvent]:
        batch = self._cleaner.clean(events, event_types, links_of(self._resources.log, events))
        self._resources.log.reject(batch.rejections)
        for rule, count in count_by_rule(batch.rejections).items():
            self._metrics.rejected.labels(rule).inc(count)
        return batch.events

    def _score_and_learn(
        self, late: Sequence[LoggedEvent], kept: Sequence[LoggedEvent], event_types: dict[str, EventType]
    ) -> None:
        log, settings, learner = self._resources.log, self._settings, self._learner
        fresh = new_examples(log, kept, event_types, settings.foreseen_length)
        examples = list(fresh.values())
        if kept:
            self._state.pacing.arrived(len(kept), kept[-1].received_time_us)
        foreseen = self._online.foresee(examples)
        self._state.prequential.add(foreseen)
        self._state.watch.observe(learner, examples, self._load_reference)
        self._gatekeeper.take_in([example for subject, example in fresh.items() if is_held_out(subject)])
        both = itertools.chain(fresh.items(), new_examples(log, late, event_types, settings.foreseen_length).items())
        new = [example for subject, example in both if not is_held_out(subject)]
        if not new:
            return
        n_new = sum(example.n_new for example in new)
        wanted = self._state.replay.sample(self._online.n_replayed(n_new), self.offset)
        found = log.read_at(wanted)
        self._state.replay.forget(set(wanted).difference(each.position for each in found))  # erased, or pruned
        replayed = replay_examples(log, found, settings.history_length)
        result = self._online.learn(new, replayed, foreseen)
        # Rows count from 1: row 0 is "no item".
        self._changed.update(learner.item_ids[row - 1] for row in result.touched_rows)
        self._moved_visits.update(learner.item_ids[row - 1] for row in result.touched_sources)
        learned = [each for each in (*late, *kept) if not is_held_out(each.event.subject)]
        self._learned += [each.position for each in learned]
        targets = learner.config.target_weights
        self._state.replay.add(each.position for each in learned if each.event.event_type in targets)
        live = [each.received_time_us for each in learned if not each.event.backfill]
        if live:
            self._oldest_live_us = min(self._oldest_live_us or live[0], *live)
        self._metrics.learned.inc(len(learned))
        self._has_changes = True

    def _load_reference(self, number: int) -> Learner:
        return _load_training(self._resources, self._settings, LoadedGeneration.load(self._resources.store, number))[0]

    def _retire(self, lease: Lease) -> None:
        settings, resources = self._settings, self._resources
        keep, grace_s = settings.keep_generations, settings.garbage_grace_s
        try:
            needed = {self._reference, self._state.watch.reference}
            gone = retire(resources.store, resources.registry, keep, grace_s, now_us(), needed, lease)
        except ArtifactError as error:
            # What was done before stands; what should have gone goes another time.
            _log.warning("retention_failed", reason=str(error))
        else:
            _log.debug("generations_retired", generations=gone)

    def _report(self) -> None:
        metrics = self._metrics
        metrics.offset.set(self.offset)
        metrics.lag.set(max(0, self._resources.log.head() - self.offset))
        metrics.items.set(len(self._items))
        metrics.show_prequential(self._live_metrics())
        if self._published is not None:
            metrics.generation.set(self._published.manifest.number)
            metrics.watermark.set(self._published.manifest.watermark)


def _load_training(
    resources: Resources, settings: UpdaterSettings, generation: LoadedGeneration
) -> tuple[Learner, SessionState]:
    manifest = generation.manifest
    if manifest.text_encoder != resources.text.id:
        reason = f"was trained with text encoder {manifest.text_encoder}, not {resources.text.id}"
        raise ArtifactError("resume", f"generation {manifest.number}", reason)
    contents = {
        name: _content(resources.store, generation, name)
        for name in (CHECKPOINT, CHECKPOINT_DELTA, REPLAY, SESSION)
        if name in manifest.files
    }
    if CHECKPOINT not in contents:
        raise ArtifactError("resume", f"generation {manifest.number}", "has no checkpoint")
    learner = Learner.load_state(contents[CHECKPOINT], resources.queries.features, contents.get(CHECKPOINT_DELTA))
    if learner.watermark != manifest.watermark:
        reason = f"has watermark {learner.watermark}; the manifest says {manifest.watermark}"
        raise ArtifactError("resume", f"generation {manifest.number}", reason)
    return learner, SessionState.load(contents, settings.steps_per_round)


def _content(store: ArtifactStore, generation: LoadedGeneration, name: str) -> bytes:
    path = store.open_blob(generation.manifest.files[name])
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError("read", str(path), str(error)) from error


def _last_erasure(resources: Resources, number: int = 0) -> int:
    while records := resources.log.erasures_after(number, _PAGE):
        number = records[-1].number
    return number


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
