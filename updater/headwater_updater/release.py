"""Under which label a session's generations go out, and what becomes of them as live targets are watched."""

from __future__ import annotations

from typing import NoReturn

import structlog

from headwater_core.errors import ArtifactError, ConflictError
from headwater_core.feedback_log import Rejection
from headwater_core.registry import CANARY, STABLE, Lease
from headwater_updater.gate import WATCH, CandidateRefusedError
from headwater_updater.metrics import UpdaterMetrics
from headwater_updater.resources import Resources
from headwater_updater.watch import Watch

_PAGE = 1000
_MOST_TARGETS = 200_000
"""A canary that is not decided after so many live targets goes: `stable` stands still as long as it is there."""

_log = structlog.get_logger(__name__)


class Release:
    """A label and the watch beside it.

    Attributes:
        number: what the label names, as far as this session knows; 0: nothing yet.
    """

    def __init__(self, resources: Resources, metrics: UpdaterMetrics, watch: Watch, number: int) -> None:
        """Args: resources: labels, log, store; metrics: what to report to; watch: the session's; number: see above."""
        self._resources, self._metrics, self._watch = resources, metrics, watch
        self.number = number

    @property
    def label(self) -> str:
        """`canary` while a canary proves itself, else `stable`."""
        return CANARY if self._watch.is_canary else STABLE

    def heed(self, offset: int, lease: Lease) -> None:
        """Take back what has become worse; let a canary serve all that surely has not.

        The label moves first, under the lease: who lost that puts nothing on record.

        Args:
            offset: up to where the log was learned.
            lease: under which this process leads.

        Raises:
            CandidateRefusedError: it was taken back; the session must be dropped.
            LeaseLostError, ConflictError: nothing has moved.
        """
        watch = self._watch
        if watch.is_canary and self._resources.registry.labels().get(STABLE) != watch.reference:
            raise ConflictError(f"`stable` does not name {watch.reference} any more, which the canary is beside")
        if watch.test.has_fallen:
            self._take_back(offset, lease)
        if watch.is_canary and watch.test.has_held:
            self._resources.registry.set_label(STABLE, self.number, expected=watch.reference, lease=lease)
            self._mirror(self.number)
            self._resources.registry.drop_label(CANARY, expected=self.number, lease=lease)
            self._metrics.promoted.inc()
            _log.info("canary_promoted", generation=self.number, **watch.metrics(watch.test.n))
            watch.begin(0)
        elif watch.is_canary and watch.test.n >= _MOST_TARGETS:
            self._end_canary(f"nothing is sure after {watch.test.n} targets beside {watch.reference}", lease)

    def _take_back(self, offset: int, lease: Lease) -> NoReturn:
        watch, registry = self._watch, self._resources.registry
        reason = f"NDCG@10 of {watch.test.n} live targets fell by {watch.test.fall:.1%} beside {watch.reference}"
        if watch.is_canary:
            self._end_canary(reason, lease)
        registry.take_back(STABLE, watch.reference, expected=self.number, lease=lease)
        record = registry.get(watch.reference)
        assert record is not None  # a label names it
        self._reject(record.watermark, offset, reason)
        self._mirror(watch.reference)
        self._end_session(reason)

    def _end_canary(self, reason: str, lease: Lease) -> NoReturn:
        """Let the canary go; `stable` learns on from where it stood."""
        self._resources.registry.drop_label(CANARY, expected=self.number, lease=lease)
        self._end_session(reason)

    def _end_session(self, reason: str) -> NoReturn:
        self._metrics.taken_back.inc()
        _log.error("generations_taken_back", label=self.label, generation=self.number, reason=reason)
        raise CandidateRefusedError(reason)

    def _mirror(self, number: int) -> None:
        try:
            self._resources.store.mirror_label(STABLE, number)
        except ArtifactError as error:  # SQL is what counts
            _log.warning("label_not_mirrored", label=STABLE, generation=number, reason=str(error))

    def _reject(self, after: int, up_to: int, reason: str) -> None:
        """Put what was learned between two positions on record as refused: learned again it would end the same way."""
        log = self._resources.log
        while after < up_to and (events := log.read_after(after, _PAGE)):
            log.reject([Rejection(each.position, WATCH, reason) for each in events if each.position <= up_to])
            after = events[-1].position
