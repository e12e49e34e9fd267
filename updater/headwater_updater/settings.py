"""The updater's settings. Command line > environment (`HEADWATER_…`) > default; checked once, at start.

What the server has a setting of the same purpose for is named `updater_…`, since both read the same environment.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from headwater_core.cleaning import CleaningLimits, Rule
from headwater_core.co_visits import REPEAT_EVENTS
from headwater_core.errors import InvalidFieldError
from headwater_core.indexes import IndexKind
from headwater_core.settings import CoreSettings


class UpdaterSettings(CoreSettings):
    """How one updater learns and publishes."""

    updater_metrics_port: int | None = Field(default=8982, ge=0, le=65535)
    """The HTTP port of /metrics; 0 takes a free one, none (an empty variable) serves none."""
    updater_metrics_host: str = Field(default="127.0.0.1", min_length=1)
    """The address of /metrics."""
    updater_lease_ttl_s: float = Field(default=15.0, gt=0)
    """After this long without a sign of life of the leading updater another one may lead."""
    poll_interval_s: float = Field(default=0.5, gt=0)
    """How long to sleep when there is nothing new."""
    publish_interval_s: float = Field(default=5.0, ge=0)
    """A generation is published this often, if something was learned."""
    training_threads: int = Field(default=1, ge=1)
    """Threads of an incremental round: it shares the machine with servers."""
    bootstrap_threads: int | None = Field(default=None, ge=1)
    """Threads of `bootstrap`; none: one for each core."""

    batch_events: int = Field(default=1000, ge=1, le=100_000)
    """Events learned in one round, at most."""
    batch_items: int = Field(default=500, ge=1, le=100_000)
    """Items whose texts are encoded in one round, at most: a bulk import must not hold learning back for long."""
    steps_per_round: int = Field(default=1, ge=1, le=1000)
    """Gradient steps on one batch."""
    replay_capacity: int = Field(default=10_000, ge=2, le=1_000_000)
    """Earlier events that are remembered for learning them again."""
    replay_ratio: float = Field(default=1.0, ge=0, le=100)
    """Earlier events mixed into a round for each new one."""
    replay_limit: int = Field(default=64, ge=0, le=10_000)
    """Earlier events of a round, at most: each costs a look into the log."""
    gate_new_tolerance: float = Field(default=0.05, ge=0)
    """By how much the mean log rank of the newest held-out targets may rise from one generation to the next before the
    candidate is refused: 0.05 is a twentieth further down."""
    gate_old_tolerance: float = Field(default=0.1, ge=0)
    """The same of held-out targets from before the last full training, compared with what that gave."""
    watch_targets: int = Field(default=20_000, ge=0)
    """After so many live targets what is published is compared with a newer generation; 0: nothing is watched."""
    canary: bool = False
    """Whether a full training serves a fraction of users until it has proved no worse than what serves the others."""
    canary_tolerance: float = Field(default=0.05, ge=0, lt=1)
    """What share of NDCG@10 a canary may surely not lose, to serve all."""
    prequential_window: int = Field(default=1000, ge=1)
    """Over how many of the latest targets the score-then-learn metrics are."""

    clean_without: frozenset[Rule] = frozenset()
    """Rules of cleaning that are switched off, as a JSON list."""
    clean_duplicate_window_s: float = Field(default=1.0, ge=0)
    """Within this time the same said again is a double click or a repeated call, not a second event."""
    clean_burst_events: int = Field(default=10, ge=1)
    """More events than this of one subject on one item within clean_burst_window_s are not learned."""
    clean_burst_window_s: float = Field(default=60.0, gt=0)
    """See clean_burst_events."""
    clean_robot_events: int = Field(default=120, ge=1)
    """More events than this of one subject within clean_robot_window_s are no person's."""
    clean_robot_window_s: float = Field(default=60.0, gt=0)
    """See clean_robot_events."""

    bootstrap_when_events: int | None = Field(default=None, ge=1)
    """`run` trains the first generation itself once the log holds so many events; none: `bootstrap` must be called."""
    bootstrap_seconds: float | None = Field(default=None, gt=0)
    """The longest that the first training may take; none: bootstrap_epochs alone ends it."""
    bootstrap_epochs: int = Field(default=20, ge=1)
    """The most passes over the log that the first training may take."""
    seed: int = Field(default=0, ge=0)
    """Fixes what chance decides in training; by epochs alone the whole result."""

    dimension: int = Field(default=64, ge=4, le=4096)
    """Length of item and interest vectors."""
    n_layers: int = Field(default=2, ge=1, le=48)
    """Of the user tower's encoder."""
    n_heads: int = Field(default=2, ge=1, le=64)
    """Attention heads of a layer."""
    n_interests: int = Field(default=1, ge=1, le=32)
    """How many vectors describe one user."""
    history_length: int = Field(default=100, ge=1, le=1000)
    """How many of a user's latest events the user tower reads; servers keep twice as many of each user in memory."""

    index_kind: IndexKind | Literal["auto"] = "auto"
    """How base shards are searched: flat, sq8 or ivf; auto measures at publication whether flat or ivf is faster."""
    index_recall: float = Field(default=0.98, gt=0, le=1)
    """The share of the hundred best items that a search has to find where what it finds is measured."""
    shard_items: int = Field(default=1_000_000, ge=1)
    """Items in one base shard, at most."""
    fold_share: float = Field(default=0.2, gt=0, le=1)
    """When the delta passes this share of the base, it is folded into new base shards."""
    keep_generations: int = Field(default=5, ge=2)
    """The newest generations that stay, of those that served, beside those that a label names or a server holds."""
    garbage_grace_s: float = Field(default=60.0, ge=0)
    """Files younger than this are never collected."""
    event_id_retention_days: int = Field(default=30, ge=1, le=36_500)
    """So long after its receipt an event sent again is known for a duplicate; events themselves stay."""
    event_retention_days: int | None = Field(default=None, ge=1, le=36_500)
    """So long after its receipt an event is kept, longer where it is not learned or attributed yet; none: for ever.
    Histories, what was seen and full trainings know only what is kept."""
    ranker_interval_s: float = Field(default=600.0, ge=1.0)
    """A ranker is fitted this often, if strategies rank by one."""
    ranker_wait_s: float = Field(default=300.0, ge=0.0)
    """Slates are learned from when they were shown so long ago: by then users have acted, or will hardly do so."""
    ranker_min_actions: int = Field(default=1_000, ge=10)
    """So many shown items must have been acted on before one is fitted."""
    impression_retention_days: int = Field(default=90, ge=1, le=36_500)
    """So long it is remembered what was shown to whom, and what came of it."""

    @field_validator("canary")
    @classmethod
    def _is_watched(cls, canary: bool, others: ValidationInfo) -> bool:
        if canary and not others.data.get("watch_targets"):
            raise ValueError("a canary is decided by what is watched; watch_targets must be above 0")
        return canary

    @field_validator("clean_without")
    @classmethod
    def _can_be_switched_off(cls, rules: frozenset[Rule]) -> frozenset[Rule]:
        try:
            CleaningLimits(without=rules)
        except InvalidFieldError as error:
            raise ValueError(error.reason) from error
        return rules

    @property
    def foreseen_length(self) -> int:
        """How many of a subject's events are read to foresee the next: repeats go further back than the towers."""
        return max(self.history_length, REPEAT_EVENTS)

    @property
    def cleaning(self) -> CleaningLimits:
        """The numbers in the rules of cleaning."""
        return CleaningLimits(
            duplicate_window_s=self.clean_duplicate_window_s,
            burst_events=self.clean_burst_events,
            burst_window_s=self.clean_burst_window_s,
            robot_events=self.clean_robot_events,
            robot_window_s=self.clean_robot_window_s,
            without=self.clean_without,
        )
