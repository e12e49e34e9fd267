"""The daemon: leads or stands by; while it leads, it learns what is new and publishes it at a steady pace.

The offset that counts is the watermark in the checkpoint of the generation that `stable` names. So a daemon that was
killed, lost the lease or the database, or found the label moved by an operator does one and the same thing: it forgets
what it had in memory and goes on from `stable`. What it had learned but not published is learned again, by a learner
that never saw it; what was published is not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import structlog

from headwater_core.errors import (
    ArtifactError,
    ConflictError,
    DatabaseUnavailableError,
    LeaseLostError,
    NotFoundError,
)
from headwater_core.notifications import Notifications, Topic
from headwater_updater import heap
from headwater_updater.gate import CandidateRefusedError
from headwater_updater.lease import Leadership, holder_name, now_us
from headwater_updater.metrics import UpdaterMetrics
from headwater_updater.pruning import Pruner
from headwater_updater.resources import Resources
from headwater_updater.session import TrainingSession
from headwater_updater.settings import UpdaterSettings

_LONGEST_BACKOFF_S = 30.0
_LONGEST_OUTAGE_BACKOFF_S = 3.0
"""Of a database or a store that is away: it is asked cheaply, and learning goes on within 5 s of its return."""
_MOST_DOUBLINGS = 10
_GATHERING_S = 0.1
"""Told of an event, a round still waits so long for more: each costs as much as reading a hundred."""

_log = structlog.get_logger(__name__)


class _Stopped(Exception):  # noqa: N818
    """Asked to stop in the middle of a bootstrap."""


class Updater:
    """One updater process's life, from start to a request to stop."""

    def __init__(
        self,
        resources: Resources,
        settings: UpdaterSettings,
        metrics: UpdaterMetrics | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        """Nothing runs yet.

        Args:
            resources: what to read from and write to.
            settings: how to learn and publish.
            metrics: what to report to.
            wait: how to sleep for so many seconds; None: until then or until asked to stop.
        """
        self._resources = resources
        self._settings = settings
        self._metrics = metrics or UpdaterMetrics()
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._wait_for_news = wait or self._sleep_until_news
        self._news = threading.Event()
        self._notifications = Notifications(resources.database, settings.tenant)
        self._metrics.listening.set_function(lambda: float(self._notifications.is_listening))
        self._holder = holder_name()
        self._failures = 0  # since all that was learned was published
        self._pruner = Pruner(resources, settings)

    def stop(self) -> None:
        """Ask `run` to end: it finishes its round, publishes what was learned and releases the lease."""
        self._stopping.set()
        self._news.set()

    def run(self) -> None:
        """Work until asked to stop; what can pass by itself is waited for."""
        self._notifications.start(self._hear)
        try:
            self._work()
        finally:
            self._notifications.close()

    def _hear(self, topics: Collection[Topic]) -> None:
        self._metrics.notifications.inc()
        if Topic.WRITES in topics:
            self._news.set()

    def _sleep_until_news(self, longest_s: float) -> None:
        gathering_s = min(_GATHERING_S, longest_s)
        if not self._stopping.wait(gathering_s):
            self._news.wait(longest_s - gathering_s)
        self._news.clear()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._lead_or_stand_by()
                self._failures = 0
            except LeaseLostError as error:
                _log.warning("lease_lost", reason=str(error))
            except CandidateRefusedError:
                # Told where it was refused; the next session goes on from the last good state.
                self._notifications.announce(Topic.LABELS)
            except ConflictError as error:
                _log.warning("label_moved", reason=str(error))
            except _Stopped:
                _log.info("bootstrap_given_up", reason="asked to stop")
            except (DatabaseUnavailableError, ArtifactError) as error:
                self._fail(error, _LONGEST_OUTAGE_BACKOFF_S)
            except Exception as error:  # noqa: BLE001
                # A bug, or something that nobody thought of. What was learned is safe: `stable` and its checkpoint.
                self._fail(error, _LONGEST_BACKOFF_S, exc_info=True)
            finally:
                self._metrics.leading.set(0)

    def _fail(self, error: Exception, longest_s: float, *, exc_info: bool = False) -> None:
        """Tell of a failure and wait before the next try, longer each time, at most so many seconds."""
        self._failures += 1
        self._metrics.failures.labels(type(error).__name__).inc()
        _log.error("trying_again", reason=str(error), failures=self._failures, exc_info=exc_info)
        self._back_off(self._failures, longest_s)

    def _back_off(self, failures: int, longest_s: float = _LONGEST_BACKOFF_S) -> None:
        doubled_s = self._settings.poll_interval_s * 2.0 ** min(failures, _MOST_DOUBLINGS)
        self._wait(min(longest_s, doubled_s))

    def _lead_or_stand_by(self) -> None:
        ttl_s = self._settings.updater_lease_ttl_s
        leadership = Leadership.acquire(self._resources.registry, self._holder, ttl_s)
        if leadership is None:
            self._wait(self._settings.poll_interval_s)
            return
        with leadership:
            _log.info("leading", holder=self._holder, epoch=leadership.lease.epoch)
            self._metrics.leading.set(1)
            session = self._open_session(leadership)
            if session is not None:
                self._learn(session, leadership)

    def _open_session(self, leadership: Leadership) -> TrainingSession | None:
        """The session of the generation that `stable` names, or of a first one; None: asked to stop before."""
        said, failures = False, 0

        def check() -> None:
            leadership.check()
            if self._stopping.is_set():
                raise _Stopped

        while not self._stopping.is_set():
            leadership.check()
            session = TrainingSession.resume(self._resources, self._settings, self._metrics)
            if session is not None:
                return session
            self._pruner.step(now_us())
            if self._can_bootstrap():
                try:
                    session = TrainingSession.bootstrap(
                        self._resources, self._settings, self._metrics, leadership, check=check
                    )
                    self._notifications.announce(Topic.LABELS)
                    return session
                except NotFoundError as error:
                    # The whole log was read for nothing: not again soon.
                    failures += 1
                    _log.info("nothing_to_bootstrap_from", reason=str(error))
                    self._back_off(failures)
                    continue
            if not said:
                _log.info("waiting_for_bootstrap", bootstrap_when_events=self._settings.bootstrap_when_events)
                said = True
            self._wait_for_news(self._settings.poll_interval_s)
        return None

    def _can_bootstrap(self) -> bool:
        """Whether a bootstrap is wanted and there are enough events and any item; cheap to ask."""
        wanted = self._settings.bootstrap_when_events
        if wanted is None or self._resources.log.head() < wanted:
            return False
        return bool(self._resources.catalogue.list("", 1))

    def _learn(self, session: TrainingSession, leadership: Leadership) -> None:
        """Learn and publish until asked to stop."""
        settings = self._settings
        published_s = time.monotonic()
        while not self._stopping.is_set():
            leadership.check()
            self._pruner.step(now_us())
            worked = session.learn()
            session.learn_ranking()
            if session.has_news and time.monotonic() - published_s >= settings.publish_interval_s:
                self._publish(session, leadership)
                published_s = time.monotonic()
            if not session.has_news:
                # Not after any round: where publishing fails each time, the rounds before it go well.
                self._failures = 0
            if not worked:
                self._wait_for_news(settings.poll_interval_s)
        if session.has_news:
            self._publish(session, leadership)

    def _publish(self, session: TrainingSession, leadership: Leadership) -> None:
        try:
            session.publish(leadership.lease)
            self._notifications.announce(Topic.LABELS)
        finally:
            heap.give_back()
