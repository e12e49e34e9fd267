"""A generation in service: its towers, its items and what it has embedded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from headwater_core.co_visits import REPEAT_EVENTS, Blend, Bonuses, trend_bonuses
from headwater_core.dislikes import voters
from headwater_core.errors import ArtifactError
from headwater_core.events import HistoryEvent
from headwater_core.generation import LoadedGeneration
from headwater_core.histories import HistoryTensors, TextFeatures, TokenSequence, collate, tokens
from headwater_core.manifest import USER_TOWER, Manifest
from headwater_core.newcomers import Heritage
from headwater_core.reading_on import read_on
from headwater_core.shards import Vectors
from headwater_core.strategies import CO_VISIT, POPULAR, REPEAT
from headwater_core.towers import ItemFeatureTower, JointHeads, TowerConfig, UserTower, check_size, load_state
from headwater_server.item_space import ItemSpace

_AS_LEARNED: Mapping[str, float] = MappingProxyType({})


class Scores(NamedTuple):
    """What the towers and heads say of n items."""

    ranking: npt.NDArray[np.float32]  # (n,) the best interest's inner product, plus the bonus
    probabilities: npt.NDArray[np.float32]  # (n, types), in the order of `learned_types`
    expected_values: npt.NDArray[np.float32] | None  # (n,) in the events' own units; None when none carried a value


class Reading(NamedTuple):
    """A history to be read, and what is remembered of its first events."""

    history: Sequence[HistoryEvent]
    n_read: int = 0
    """How many of its events were read before."""
    keys_values: torch.Tensor | None = None
    """What `read_on` gave for them."""


class ServingGeneration:
    """What requests are answered from. Methods that compute are for the compute threads, not the event loop."""

    def __init__(self, loaded: LoadedGeneration, text_features: TextFeatures) -> None:
        """Build the towers and fill them from the loaded files.

        Args:
            loaded: the verified, mapped files.
            text_features: for the queries of searches in histories; while it fails they are read without.

        Raises:
            ArtifactError: weights and configuration do not belong together.
        """
        self.manifest: Manifest = loaded.manifest
        self.config = TowerConfig.from_dict(loaded.manifest.tower_config)
        self._text_features = text_features
        if self.config.dimension != self.manifest.dimension:
            reason = f"has towers for vectors of {self.config.dimension}; the manifest says {self.manifest.dimension}"
            raise ArtifactError("load", f"generation {self.manifest.number}", reason)
        check_size(self.config, self.manifest.files[USER_TOWER].bytes, str(loaded.user_tower))
        self._user_tower = UserTower(self.config).eval()
        self._item_feature_tower = ItemFeatureTower(self.config).eval()
        self._joint_heads = JointHeads(self.config).eval()
        load_state(self._user_tower, loaded.user_tower)
        load_state(self._item_feature_tower, loaded.item_tower)
        load_state(self._joint_heads, loaded.joint_heads)
        self._known = loaded.table
        self._negative_types = frozenset(self.config.negative_types)
        self._co_visits = loaded.co_visits
        self._blend = loaded.blend
        self.ranker = loaded.ranker
        """Orders candidates by what was learned from impressions, if anything was."""
        self._trend = trend_bonuses(loaded.trend, loaded.blend)
        # What a delta adds and nobody met yet is new; what the base holds unmet has had its time.
        met = loaded.co_visits.met
        added = loaded.table.added_rows
        unmet = added[~np.isin(added, met)] if len(met) else added[:0]
        self.items = ItemSpace(loaded.table, loaded.retriever, met=met, unmet=unmet)
        """Replaced as a whole when items come and go, at any moment: take it once for rows and what belongs to them."""
        strongest = np.argsort(-self._trend.values, kind="stable")
        self.trending = tuple(self.items.item_id(row) for row in self._trend.items[strongest].tolist())
        """The items of the trend, where it counts, the strongest first."""

    @property
    def number(self) -> int:
        """Which generation it is."""
        return self.manifest.number

    @torch.inference_mode()
    def embed(self, histories: Sequence[Sequence[HistoryEvent]]) -> list[Vectors]:
        """The interests (K, d) of each history; (0, d) where no event is on an item with a vector."""
        items = self.items
        sequences = [tokens(events, self.config, lambda item_id: _from_one(items.row(item_id))) for events in histories]
        readable = [sequence for sequence in sequences if len(sequence)]
        if not readable:
            return [items.no_interests() for _ in sequences]
        batch = self._collated(readable)
        interests = iter(self._user_tower(batch, item_vectors(items, batch)).numpy())  # (B, K, d)
        return [next(interests) if len(sequence) else items.no_interests() for sequence in sequences]

    @torch.inference_mode()
    def read_on(self, readings: Sequence[Reading]) -> list[tuple[Vectors, torch.Tensor]]:
        """The interests (K, d) of histories whose first events may have been read before, and what to remember.

        Args:
            readings: each with an event to be read; every item in them is one that the generation itself knows.
        """
        items = self.items
        sequences = [
            tokens(
                reading.history[max(0, reading.n_read - 1) :],  # the last that was read tells the gap to the next
                self.config,
                lambda item_id: _from_one(items.row(item_id)),
            )
            for reading in readings
        ]
        batch = self._collated(sequences, [min(1, reading.n_read) for reading in readings])
        vectors = item_vectors(items, batch)
        interests, remembered = read_on(self._user_tower, batch, vectors, [reading.keys_values for reading in readings])
        return list(zip(interests.numpy(), remembered, strict=True))

    def bonuses(self, history: Sequence[HistoryEvent], weights: Mapping[str, float] = _AS_LEARNED) -> Bonuses:
        """What a history, oldest event first, adds to the scores of items, by their rows.

        Args:
            history: the user's.
            weights: what the parts of CO_VISIT and REPEAT are multiplied with; 1 where they are not named.
        """
        co_visits, repeats = weights.get(CO_VISIT, 1.0), weights.get(REPEAT, 1.0)
        if co_visits == repeats == 1.0:
            return self._bonuses(history, self._blend)
        of_co_visits = self._bonuses(history, replace(self._blend, repeat_strength=0.0)).times(co_visits)
        return of_co_visits.joined(self._bonuses(history, replace(self._blend, strength=0.0)).times(repeats))

    def co_visit_bonuses(self, history: Sequence[HistoryEvent]) -> Bonuses:
        """What others went on to after the history's last items, whether or not the blend makes use of it."""
        return self._bonuses(history, replace(self._blend, strength=1.0, repeat_strength=0.0))

    def repeat_bonuses(self, history: Sequence[HistoryEvent]) -> Bonuses:
        """What the history has itself, whether or not the blend makes use of it."""
        return self._bonuses(history, replace(self._blend, strength=0.0, repeat_strength=1.0))

    def gains(
        self, items: ItemSpace, history: Sequence[HistoryEvent], weights: Mapping[str, float] = _AS_LEARNED
    ) -> Bonuses:
        """All that is added to the towers' scores: by the history, also to what inherits, and by the trend.

        Args:
            items: what inherits.
            history: the user's.
            weights: as in `bonuses`, and POPULAR for the trend.
        """
        trend = self._trend.times(weights.get(POPULAR, 1.0))
        return items.inherited(self.bonuses(history, weights)).joined(trend)

    def _bonuses(self, history: Sequence[HistoryEvent], blend: Blend) -> Bonuses:
        known = [event for event in reversed(history) if event.item_id in self._known]
        item_ids = [event.item_id for event in known]
        against = [event.event_type in self._negative_types for event in known]
        if any(against):
            item_ids = [item_ids[at] for at in voters(item_ids, against)]
        return self._co_visits.bonuses(item_ids[:REPEAT_EVENTS], blend)

    def _collated(self, sequences: Sequence[TokenSequence], read_before: Sequence[int] | None = None) -> HistoryTensors:
        try:
            return collate(sequences, self.config, self._text_features, read_before)
        except Exception:  # noqa: BLE001 - whoever gives the features has noted why; without them a search is still a search
            return collate(sequences, self.config, read_before=read_before)

    @torch.inference_mode()
    def place(self, features: npt.NDArray[np.float16]) -> tuple[Vectors, Heritage]:
        """Where items that the generation never saw belong, by their features alone, and what they inherit.

        (n, F) → (n, d) and the heritage of n.
        """
        vectors: Vectors = self._item_feature_tower(torch.from_numpy(features.astype(np.float32))).numpy()
        return vectors, self.items.heritage(vectors)

    @torch.inference_mode()
    def score(
        self, items: ItemSpace, interests: Vectors, rows: Sequence[int], history: Sequence[HistoryEvent] = ()
    ) -> Scores:
        """Score items for interests (K, d); K = 0 scores for nobody in particular.

        Args:
            items: the space, as it was, that the rows are of.
            interests: the user's.
            rows: of n items.
            history: the user's, oldest event first, for the bonuses.
        """
        vectors = torch.from_numpy(items.vectors(rows))  # (n, d)
        user = torch.from_numpy(interests) if len(interests) else torch.zeros(1, items.dimension)  # (K, d)
        towers, best = (vectors @ user.T).max(dim=1)  # (n, K) -> (n,)
        logits, values = self._joint_heads(user[best], vectors)  # (n, types), (n,)
        wanted = np.asarray(rows, np.int64)
        bonuses = torch.from_numpy(items.inherited(self.bonuses(history)).of(wanted))  # (n,), as the heads were fitted
        probabilities = self._joint_heads.probabilities(logits, towers, bonuses).numpy()
        scale = self._value_scale
        ranking = towers.numpy() + self.gains(items, history).of(wanted)
        # The first column is the unknown type's.
        return Scores(ranking, probabilities[:, 1:], None if scale is None else values.numpy() * scale[1] + scale[0])

    @property
    def learned_types(self) -> tuple[str, ...]:
        """The event types that the generation knows."""
        return self.config.event_types

    @property
    def _value_scale(self) -> tuple[float, float] | None:
        """Mean and deviation of the values of the type that carries them most often; None when none does."""
        if not self.config.value_type:
            return None
        at = self.config.event_types.index(self.config.value_type)
        return self.config.value_mean[at], self.config.value_std[at]


def _from_one(row: int | None) -> int:
    return 0 if row is None else row + 1


def item_vectors(items: ItemSpace, batch: HistoryTensors) -> torch.Tensor:
    """(B, T, d), 0 where there is no item. Args: items: the space, as it was, that the rows are of."""
    rows = batch.item_rows.numpy()  # (B, T)
    vectors = np.zeros((*rows.shape, items.dimension), dtype=np.float32)
    known = rows > 0
    vectors[known] = items.vectors(rows[known] - 1)
    return torch.from_numpy(vectors)
