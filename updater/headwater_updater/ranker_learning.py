"""Learning the ranker: now and then, from the latest slates whose strategies read features for one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import structlog

from headwater_core.feedback_log import subject_hash
from headwater_core.impressions import Impression
from headwater_core.ranker import FEATURES, Ranker, unpack
from headwater_updater.learner_config import target_weights
from headwater_updater.ranker_fitting import Shown, divided, fit, judged
from headwater_updater.resources import Resources
from headwater_updater.settings import UpdaterSettings

MAX_SLATES = 20_000
"""The latest so many are learned from: of ten items each that takes about a second and 300 MB, and meanwhile nothing
else is learned."""
_log = structlog.get_logger(__name__)


class RankerLearning:
    """Fits a ranker when it is time and there is enough to learn from. For the updater that leads."""

    def __init__(self, resources: Resources, settings: UpdaterSettings) -> None:
        """Learn from these resources, as often as the settings say."""
        self._resources = resources
        self._settings = settings
        self._due_us = 0

    def step(self, now_us: int) -> Ranker | None:
        """A ranker that orders what held-out users acted on surely better than it was served.

        None: it is not time yet, there is too little to learn from, or what was learned is not that much better.

        Raises:
            DatabaseUnavailableError: when the database cannot be reached.
        """
        if now_us < self._due_us:
            return None
        self._due_us = now_us + int(self._settings.ranker_interval_s * 1e6)
        before_us = now_us - int(self._settings.ranker_wait_s * 1e6)
        slates = self._resources.impressions.with_features(before_us, MAX_SLATES)
        shown = table(slates, self._worth(slates, now_us))
        n_actions = int((shown.worth > 0).sum())
        if n_actions < self._settings.ranker_min_actions:
            if slates:
                _log.info("ranker_waits", actions=n_actions, needed=self._settings.ranker_min_actions)
            return None
        learned_from, judges = divided(shown)
        try:
            found = fit(learned_from)
        except ValueError as error:
            _log.info("ranker_refused", reason=str(error))
            return None
        gain = judged(found, judges)
        told = {"actions": n_actions, "users": gain.users, "gain": round(gain.mean, 4), "low": round(gain.low, 4)}
        if not gain.is_sure:
            _log.info("ranker_refused", reason="it is not surely better than what served", **told)
            return None
        _log.info("ranker_learned", **told)
        return found.ranker

    def _worth(self, slates: Sequence[Impression], now_us: int) -> dict[tuple[str, str], float]:
        """What the actions on each item of each slate are worth, by the weights of their types as targets."""
        weights = target_weights(self._resources.event_types.all())
        worth: defaultdict[tuple[str, str], float] = defaultdict(float)
        if slates:
            for outcome in self._resources.outcomes.between(min(each.time_us for each in slates), now_us):
                worth[outcome.slate_id, outcome.item_id] += weights.get(outcome.event_type, 0.0)
        return worth


def table(slates: Sequence[Impression], worth: dict[tuple[str, str], float]) -> Shown:
    """Slates as fitting reads them; those whose features are of another release, and items without, are left out.

    Args:
        slates: what was shown.
        worth: what the actions on an item of a slate are worth, by both ids.
    """
    features = [np.empty((0, len(FEATURES)), np.float32)]
    rows: list[tuple[int, float, int, int]] = []  # place, worth, slate, user
    for number, slate in enumerate(slates):
        read = unpack(slate.features, len(slate.items))
        if read is None:
            continue
        user = _user(slate)
        features.append(read)
        rows += [
            (place, worth.get((slate.slate_id, item.item_id), 0.0), number, user)
            for place, item in enumerate(slate.items, start=1)
        ]
    place, acted, slate_of, user_of = (np.array(column) for column in zip(*rows, strict=True)) if rows else [[]] * 4
    shown = Shown(
        np.concatenate(features),
        np.asarray(place, np.int64),
        np.asarray(acted, np.float64),
        np.asarray(slate_of, np.int64),
        np.asarray(user_of, np.int64),
    )
    return shown.of(np.asarray(np.isfinite(shown.features).all(axis=1)))


def _user(slate: Impression) -> int:
    """Somebody's slates belong together; nobody's each to itself."""
    key = subject_hash(slate.subject) if slate.subject is not None else slate.slate_id.encode().ljust(8)
    return int.from_bytes(key[:7], "big")
