"""The model being trained: first on the whole log, then step by step on every new event.

A learner holds all that a checkpoint needs, and does what full training (`full_training`), incremental steps
(`incremental`) and the ranking of targets (`foresight`, `blending`) have in common.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from headwater_core.co_visits import HISTORY_EVENTS, REPEAT_EVENTS, Blend, Bonuses, Successors, bonuses, trend_bonuses
from headwater_core.dislikes import voters
from headwater_core.events import HistoryEvent
from headwater_core.histories import FIRST_GAP, TextFeatures, TokenSequence, collate, tokens
from headwater_core.towers import ItemTower, JointHeads, TowerConfig, UserTower, score
from headwater_core.trends import TrendTable
from headwater_updater import checkpoint, foresight, full_training, incremental
from headwater_updater.blending import Judged, judge
from headwater_updater.examples import Example, Window, to_batch
from headwater_updater.full_training import FitResult, OnProgress
from headwater_updater.incremental import StepResult
from headwater_updater.learner_config import Budget, LearnerConfig
from headwater_updater.objective import joint_loss
from headwater_updater.optimizer import LazyAdam
from headwater_updater.prequential import ScoredTarget
from headwater_updater.ranking import Request
from headwater_updater.successors import SuccessorTable
from headwater_updater.trend_prior import PriorOf

_BETAS = (0.9, 0.98)
_EPSILON = 1e-9


class Learner:
    """Towers, heads, their optimizers and the item table.

    Attributes:
        user_tower, item_tower, heads: what is published.
        item_ids: row i + 1 belongs to item_ids[i], also after that item was removed.
        watermark: the highest log position learned; kept with the state, set by the caller.
    """

    def __init__(self, config: LearnerConfig, rng: np.random.Generator, text_features: TextFeatures | None) -> None:
        """A learner that knows no item; `create` and `load_state` are the ways to get one."""
        tower = config.tower
        self.config = config
        self.user_tower, self.item_tower, self.heads = UserTower(tower), ItemTower(tower), JointHeads(tower)
        self.item_ids: list[str] = []
        self.watermark = 0
        self.rng = rng
        self.text_features = text_features
        """For the queries of searches."""
        self.item_features = torch.zeros(1, tower.feature_dimension, dtype=torch.float16)
        """(n + 1, F), by row: as `headwater_core.item_features.join` makes them."""
        self.counts = np.zeros(1)
        """(n + 1,), how many events each item was the target of."""
        self.successors = SuccessorTable(keeps_repeats=not config.exclude_seen)
        self.trends = TrendTable()
        self.value_counts = np.zeros(len(tower.event_types), np.int64)
        """(n types,), how many values of each event type its mean and deviation rest on."""
        self.blend = Blend()
        """How co-visits and trends join the towers' scores; full training chooses it, the stream corrects it."""
        self.beside_trend = False
        """Whether the towers were trained with the trend in the softmax, so that they say what differs from it."""
        self.id_adam = LazyAdam(1, tower.dimension)
        self.adam = torch.optim.AdamW(self._parameter_groups(), betas=_BETAS, eps=_EPSILON)
        weights = [config.target_weights.get(name, 0.0) for name in tower.event_types]
        self._type_weights = np.array([0.0, *weights])
        self._rows: dict[str, int] = {}
        self._removed: dict[str, int] = {}
        self.moved = np.zeros(1, np.bool_)
        """(n + 1,), the rows whose part of the state is not what the last whole checkpoint holds."""
        self._table: Tensor | None = None  # (n + 1, d), all items' vectors, kept while they stay what they are

    @classmethod
    def create(cls, config: LearnerConfig, seed: int, text_features: TextFeatures | None = None) -> Learner:
        """A learner that knows nothing and no item yet."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, np.random.default_rng(seed), text_features)

    def state(self) -> bytes:
        """Everything: weights, optimizers, random state, items, configuration, watermark; one safetensors file."""
        return checkpoint.save(self)

    def state_delta(self, n_base_items: int) -> bytes:
        """What differs from the last whole `state`, which knew so many items: everything but the rows that stayed."""
        return checkpoint.save_delta(self, n_base_items)

    @classmethod
    def load_state(
        cls, content: bytes, text_features: TextFeatures | None = None, delta: bytes | None = None
    ) -> Learner:
        """The learner that `state` wrote, or `state_delta` over it; it goes on as if it had never stopped.

        Raises:
            ArtifactError: when a file is damaged or of another schema, or they do not belong together.
        """
        return checkpoint.load(cls, content, text_features, delta)

    # Items

    def row(self, item_id: str) -> int:
        """The item's row, from 1; 0 when it is not known or was removed."""
        return self._rows.get(item_id, 0)

    def knows(self, item_id: str) -> bool:
        """Whether the item was ever added, removed or not."""
        return item_id in self._rows or item_id in self._removed

    def present_rows(self) -> np.ndarray:
        """(n,) int64, ascending: the rows of the items that are there."""
        return np.sort(np.fromiter(self._rows.values(), np.int64, len(self._rows)))

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Take items out of histories, targets and candidates, as serving does; unknown ones are passed over.

        Their rows stay: what was learned of them is there again when they are.
        """
        for item_id in item_ids:
            if item_id in self._rows:
                self._removed[item_id] = self._rows.pop(item_id)

    def restore_items(self) -> None:
        """Take every item that was removed back."""
        self._rows.update(self._removed)
        self._removed.clear()

    def add_items(self, item_ids: Sequence[str], features: np.ndarray) -> None:
        """Append items, or replace the features of known ones; (n, F), all 0 for an item without text and vector."""
        for item_id in self._removed.keys() & set(item_ids):
            self._rows[item_id] = self._removed.pop(item_id)
        new = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in self._rows]
        self._rows.update((item_id, row) for row, item_id in enumerate(new, start=len(self.item_ids) + 1))
        self.item_ids += new
        self.item_tower.grow(len(new))
        self.id_adam.grow(len(new))
        self.successors.grow(len(new))
        self.trends.grow(len(new))
        self.counts = np.concatenate([self.counts, np.zeros(len(new))])
        self.moved = np.concatenate([self.moved, np.ones(len(new), np.bool_)])
        empty = self.item_features.new_zeros(len(new), self.config.tower.feature_dimension)
        self.item_features = torch.cat([self.item_features, empty])
        rows = torch.tensor([self._rows[item_id] for item_id in item_ids], dtype=torch.int64)
        self.item_features[rows] = torch.from_numpy(np.asarray(features, np.float16))
        self.moved[rows.numpy()] = True
        self._refresh_table(rows)

    def item_vectors(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The items' vectors, float32 (n, d): of the given rows, else of all items in the order of `item_ids`."""
        wanted = np.arange(1, len(self.item_ids) + 1) if rows is None else rows
        vectors: np.ndarray = self.vectors(torch.from_numpy(wanted)).numpy()
        return vectors

    def successors_of(self, item_ids: Iterable[str]) -> list[tuple[list[str], np.ndarray]]:
        """For each item what users went on to after it: s ids and (s,) float32 weights; both empty for nothing."""
        found = (self.successors.of(self.row(item_id), self.counts) for item_id in item_ids)
        return [([self.item_ids[row - 1] for row in each.items.tolist()], each.weights) for each in found]

    def trending(self) -> list[tuple[str, float]]:
        """The items that trend by the blend's half-life, and how much."""
        trend = self.trends.trend(int(self.blend.trend_half_life))
        ids = (self.item_ids[row - 1] for row in trend.items.tolist())
        return list(zip(ids, trend.weights.tolist(), strict=True))

    def bonuses(self, sequence: TokenSequence, blend: Blend) -> Bonuses:
        """What a history's items add to scores, by row, as in serving."""
        return bonuses(*self._votes(sequence), blend)

    def _votes(self, sequence: TokenSequence) -> tuple[list[Successors], np.ndarray]:
        """What a history's bonuses are made of: the successors of its last items, and those items, (v,) rows."""
        on_items = np.flatnonzero(sequence.item_rows > 0)[::-1]
        visited, types = sequence.item_rows[on_items], sequence.type_index[on_items]
        against = np.isin(types, [self.config.tower.type_index(name) for name in self.config.tower.negative_types])
        if against.any():
            visited = visited[voters(visited.tolist(), against.tolist())]
        visited = visited[:REPEAT_EVENTS]
        latest = [self._present(self.successors.of(row, self.counts)) for row in visited[:HISTORY_EVENTS].tolist()]
        return latest, visited

    def trend(self, blend: Blend) -> Bonuses:
        """What trending items are given, by row, as in serving."""
        present = np.ones(len(self.counts), np.bool_)
        present[list(self._removed.values())] = False
        return trend_bonuses(self.trends.trend(int(blend.trend_half_life), present), blend)

    def fit(
        self,
        histories: Sequence[Sequence[HistoryEvent]],
        budget: Budget,
        on_progress: OnProgress | None = None,
        *,
        learn_held_out: bool = True,
        with_trend: bool = False,
    ) -> FitResult:
        """Train everything on whole histories; see `full_training.fit`."""
        return full_training.fit(
            self, histories, budget, on_progress, learn_held_out=learn_held_out, with_trend=with_trend
        )

    # Incremental training

    def step(
        self, new: Sequence[Example], replay: Sequence[Example] = (), n_steps: int = 1, rate: float = 1.0
    ) -> StepResult:
        """Learn new events, mixed with replayed ones; see `incremental.step`."""
        return incremental.step(self, new, replay, n_steps, rate)

    def count_latest(self, new: Sequence[Example]) -> np.ndarray:
        """Count new events without moving a weight; the items whose successors were counted, (s,) sorted."""
        return incremental.count(self, new)

    # What both share

    def learn_batch(
        self,
        group: Sequence[Window],
        rate: float,
        id_rate: float,
        touched: np.ndarray | None,
        prior_of: PriorOf | None = None,
    ) -> float:
        """One step of the optimizers; with `touched` an incremental one: only these ids move, no shared weight does."""
        self.user_tower.train()
        self.heads.train()
        self.item_tower.train(touched is None)
        self.item_tower.shared.requires_grad_(touched is None)
        batch = to_batch(group, self.config.tower, self.text_features)
        if touched is None:
            types = batch.tensors.type_index
            types[torch.from_numpy(self.rng.random(types.shape) < self.config.type_dropout)] = 0
        if batch.tensors.query_gap is not None:
            hidden = self.rng.random(len(group)) < self.config.query_gap_dropout
            batch.tensors.query_gap[torch.from_numpy(hidden)] = FIRST_GAP
        towers = self.user_tower, self.item_tower, self.heads
        with self.seeded():
            counts = self._present_counts()
            losses = joint_loss(self.config, towers, self.item_features, counts, batch, self.rng, prior_of)
            self.adam.zero_grad()
            losses.total.backward()  # type: ignore[no-untyped-call]
        moving = [p for group in self.adam.param_groups for p in group["params"] if p.grad is not None]
        nn.utils.clip_grad_norm_(moving, self.config.gradient_norm)
        for parameters in self.adam.param_groups:
            parameters["lr"] = rate
        self.adam.step()
        assert losses.id_vectors.grad is not None
        moves = losses.rows > 0
        if touched is not None:
            moves &= torch.isin(losses.rows, torch.from_numpy(touched))
        self.id_adam.update(
            self.item_tower.id_embedding.data,
            losses.rows[moves],
            losses.id_vectors.grad[moves],
            learning_rate=id_rate,
            weight_decay=self.config.weight_decay,
            # Beside the trend a new item's rise is explained already.
            new_row_boost=0.0 if touched is None or self.beside_trend else self.config.new_item_boost,
        )
        if touched is None:
            self.drop_table()
        else:
            self._refresh_table(losses.rows[moves])
        self.moved[losses.rows[moves].numpy()] = True
        return losses.next_item

    def score(
        self,
        examples: Sequence[Example],
        blends: Sequence[Blend] | None = None,
        asked: Container[int] | None = None,
        among: np.ndarray | None = None,
    ) -> list[ScoredTarget]:
        """Rank each target among the last `n_new` events of the examples; see `foresight.score`."""
        return foresight.score(self, examples, blends, asked, among)

    def ranks(self, requests: Sequence[Request], candidates: np.ndarray, prior_of: PriorOf | None = None) -> np.ndarray:
        """The rank of each request's target after its history, among the candidate rows (ascending); 0 = a miss."""
        ranks: np.ndarray = judge(self, requests, candidates, [self.blend], prior_of).ranks[0]
        return ranks

    def judge(
        self, requests: Sequence[Request], candidates: np.ndarray, blends: Sequence[Blend] | None = None
    ) -> Judged:
        """How each request's target fares among the candidate rows (ascending) under each blend; None: this one's."""
        return judge(self, requests, candidates, [self.blend] if blends is None else blends)

    @torch.inference_mode()
    def interests(self, examples: Sequence[Example]) -> np.ndarray:
        """(q, d), what the subjects of these examples ask for before what is new; K for each that can be read."""
        histories = [self.tokens(example.events[: len(example.events) - example.n_new]) for example in examples]
        readable = [sequence for sequence in histories if len(sequence)]
        if not readable:
            return np.empty((0, self.config.tower.dimension), np.float32)
        self.user_tower.eval()
        interests: np.ndarray = self._interests(readable).flatten(0, 1).numpy()
        return interests

    def _interests(self, sequences: Sequence[TokenSequence]) -> Tensor:
        """(s, K, d)."""
        tensors = collate(sequences, self.config.tower, self.text_features)
        interests: Tensor = self.user_tower(tensors, self.table()[tensors.item_rows])
        return interests

    @torch.inference_mode()
    def tower_scores(
        self, requests: Sequence[Request], candidates: np.ndarray, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The towers' scores of all candidates, (c, N), and which candidate each request's target is, (c,).

        Where users do not repeat items, those of the history have minus infinity.

        Args:
            requests: every target is a candidate.
            candidates: (N,) rows.
            vectors: (N, d), of the candidates.
        """
        self.user_tower.eval()
        # The targets of one block share a history, which is read once.
        different = {id(request.sequence): request.sequence for request in requests}
        reader = {key: index for index, key in enumerate(different)}
        interests = self._interests(list(different.values()))  # (s, K, d)
        scores = score(interests, vectors)  # (s, N)
        scores = scores[[reader[id(request.sequence)] for request in requests]]  # (c, N)
        place = self._places(candidates)
        if self.config.exclude_seen:
            for index, request in enumerate(requests):
                seen = place[request.sequence.item_rows]
                scores[index, torch.from_numpy(seen[seen >= 0])] = -torch.inf
        return scores, torch.from_numpy(place[[request.row for request in requests]])

    def dense_bonuses(
        self, requests: Sequence[Request], candidates: np.ndarray, blends: Sequence[Blend]
    ) -> dict[Blend, Tensor]:
        """What each request's history adds to all candidates' scores under each blend, (c, N)."""
        if not blends:  # nothing asks for votes
            return {}
        place = self._places(candidates)
        dense = {blend: np.zeros((len(requests), len(candidates)), np.float32) for blend in blends}
        first: dict[int, int] = {}  # the targets of one block share a history
        for index, request in enumerate(requests):
            same = first.setdefault(id(request.sequence), index)
            if same != index:
                for found in dense.values():
                    found[index] = found[same]
                continue
            votes = self._votes(request.sequence)
            for blend, found in dense.items():
                items, values = bonuses(*votes, blend)
                at = place[items]
                is_candidate = at >= 0
                found[index, at[is_candidate]] = values[is_candidate]
        return {blend: torch.from_numpy(found) for blend, found in dense.items()}

    def _places(self, candidates: np.ndarray) -> np.ndarray:
        """(n + 1,): which of the candidates (N,) each row is; -1: none."""
        place = np.full(len(self.counts), -1)
        place[candidates] = np.arange(len(candidates))
        return place

    @torch.inference_mode()
    def table(self) -> Tensor:
        """(n + 1, d), the vectors of all rows, as published. Kept: an incremental step moves few of them."""
        if self._table is None:
            self._table = self.vectors(torch.arange(len(self.item_ids) + 1))
        return self._table

    def take_tower_config(self, tower: TowerConfig) -> None:
        """Go on with this configuration; of another one only the statistics of values may differ."""
        self.config = replace(self.config, tower=tower)
        self.user_tower.config = tower

    def drop_table(self) -> None:
        """Say that the vectors of all items may have moved."""
        self._table = None

    @torch.inference_mode()
    def _refresh_table(self, rows: Tensor) -> None:
        """Compute these rows anew; the table may have grown."""
        if self._table is not None:
            n_more = len(self.item_ids) + 1 - len(self._table)
            if n_more:
                self._table = torch.cat([self._table, self._table.new_zeros(n_more, self._table.shape[1])])
            self._table[rows] = self.vectors(rows)

    @torch.inference_mode()
    def vectors(self, rows: Tensor) -> Tensor:
        """(…,) rows → (…, d), computed, as published: no id is hidden."""
        self.item_tower.eval()
        vectors: Tensor = self.item_tower(rows, self.item_features[rows].float())
        return vectors

    def tokens(self, events: Sequence[HistoryEvent]) -> TokenSequence:
        """A history as the towers read it."""
        return tokens(events, self.config.tower, self.row)

    def is_token(self, event: HistoryEvent) -> bool:
        """Whether the towers read the event: its item is known, or it is a search."""
        return bool(event.query or self.row(event.item_id))

    def target_weights(self, sequence: TokenSequence, start: int) -> np.ndarray:
        """(T,): how much each event counts as a target; 0 before `start` and for what is no target."""
        weights: np.ndarray = self._type_weights[sequence.type_index] * (sequence.item_rows > 0)
        weights[:start] = 0.0
        return weights

    def count(self, sequence: TokenSequence, start: int) -> None:
        """Count the targets from `start` on."""
        rows = sequence.item_rows[self.target_weights(sequence, start) > 0]
        np.add.at(self.counts, rows, 1.0)
        self.moved[rows] = True

    def follow_trend(self, sequences: Sequence[tuple[TokenSequence, int]]) -> None:
        """Count the targets from each index on as what happened last, in the order of their times."""
        if self.trends.add(self.targets_in_time(sequences)[0]):
            self.moved[:] = True

    def targets_in_time(self, sequences: Iterable[tuple[TokenSequence, int]]) -> tuple[np.ndarray, np.ndarray]:
        """The targets from each index on, over all sequences in the order of their times: (t,) rows and (t,) µs."""
        rows, times_us = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for sequence, start in sequences:
            targets = self.target_weights(sequence, start) > 0
            rows.append(sequence.item_rows[targets])
            times_us.append(sequence.event_time_us[targets])
        all_times_us = np.concatenate(times_us)
        order = np.argsort(all_times_us, kind="stable")
        return np.concatenate(rows)[order], all_times_us[order]

    def _present_counts(self) -> np.ndarray:
        """(n + 1,), the counts of the items that can be candidates; 0 for those that were removed."""
        if not self._removed:
            return self.counts
        counts = self.counts.copy()
        counts[list(self._removed.values())] = 0.0
        return counts

    def _present(self, successors: Successors) -> Successors:
        """These successors without items that were removed: they take no share of the votes."""
        if not self._removed:
            return successors
        stays = ~np.isin(successors.items, list(self._removed.values()))
        return Successors(successors.items[stays], successors.weights[stays])

    def _parameter_groups(self) -> list[dict[str, object]]:
        """Weights of matrices decay, gains and biases do not."""
        parameters = [p for _, p in checkpoint.dense_parameters(self)]
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Dropout draws from this learner's own random state, whatever else runs in the process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.rng.integers(2**63)))
            yield

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of all weights."""
        return {name: tensor.detach().clone() for name, tensor in checkpoint.weights(self).items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Go back to the weights of a `snapshot`."""
        for name, tensor in checkpoint.weights(self).items():
            tensor.data.copy_(snapshot[name])
        self.drop_table()
