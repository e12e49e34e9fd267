"""The model being trained: first on the whole log, then step by step on every new event.

A learner holds all that a checkpoint needs. Full training moves everything. An incremental step keeps the item
tower's shared weights still, moves the user tower a little, and of the id embeddings only those of items that events
were about, so that publishing means a new user tower and a handful of item vectors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from headwater_core.events import HistoryEvent
from headwater_core.histories import TextFeatures, TokenSequence, collate, tokens
from headwater_core.towers import ItemTower, JointHeads, UserTower
from headwater_updater import checkpoint
from headwater_updater.co_visitation import co_visitation_vectors
from headwater_updater.examples import Example, Window, batches, block_starts, to_batch, windows
from headwater_updater.learner_config import Budget, LearnerConfig
from headwater_updater.objective import joint_loss
from headwater_updater.optimizer import LazyAdam
from headwater_updater.prequential import ScoredTarget
from headwater_updater.ranking import hr_at, ndcg_at, ranks

_BETAS = (0.9, 0.98)
_EPSILON = 1e-9
_ID_INIT_STD = 0.02
_SCORE_BATCH = 256


class Progress(NamedTuple):
    """How far full training is."""

    elapsed_fraction: float
    epoch: int
    loss: float
    """Of the next item, a running mean."""
    validation_ndcg_at_10: float | None
    """The latest; None before the first."""


class FitResult(NamedTuple):
    """What full training reached; the validation figures are of the weights that were kept."""

    epochs: int
    loss: float
    validation_hr_at_10: float
    validation_ndcg_at_10: float


class StepResult(NamedTuple):
    """What an incremental step did."""

    loss: float
    """Of the next item; NaN when there was nothing to learn."""
    touched_rows: np.ndarray
    """(m,) int64, sorted: the items whose vectors moved."""


class _HeldOut(NamedTuple):
    """A user's whole history, its last timestamp block kept from training."""

    sequence: TokenSequence
    start: int
    """Where the block begins."""


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
        self.item_features = torch.zeros(1, tower.text_dimension, dtype=torch.float16)
        """(n + 1, F), by row."""
        self.counts = np.zeros(1)
        """(n + 1,), how many events each item was the target of."""
        self.id_adam = LazyAdam(1, tower.dimension)
        self.adam = torch.optim.AdamW(self._parameter_groups(), betas=_BETAS, eps=_EPSILON)
        weights = [config.target_weights.get(name, 0.0) for name in tower.event_types]
        self._type_weights = np.array([0.0, *weights])
        self._rows: dict[str, int] = {}
        self._removed: dict[str, int] = {}

    @classmethod
    def create(cls, config: LearnerConfig, seed: int, text_features: TextFeatures | None = None) -> Learner:
        """A learner that knows nothing and no item yet."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config, np.random.default_rng(seed), text_features)

    def state(self) -> bytes:
        """Everything: weights, optimizers, random state, items, configuration, watermark; one safetensors file."""
        return checkpoint.save(self)

    @classmethod
    def load_state(cls, content: bytes, text_features: TextFeatures | None = None) -> Learner:
        """The learner that `state` wrote; it goes on as if it had never stopped.

        Raises:
            ArtifactError: when the file is damaged or of another schema.
        """
        return checkpoint.load(cls, content, text_features)

    # Items

    def row(self, item_id: str) -> int:
        """The item's row, from 1; 0 when it is not known or was removed."""
        return self._rows.get(item_id, 0)

    def knows(self, item_id: str) -> bool:
        """Whether the item was ever added, removed or not."""
        return item_id in self._rows or item_id in self._removed

    def remove_items(self, item_ids: Iterable[str]) -> None:
        """Take items out of histories, targets and candidates, as serving does; unknown ones are passed over.

        Their rows stay: what was learned of them is there again when they are.
        """
        for item_id in item_ids:
            if item_id in self._rows:
                self._removed[item_id] = self._rows.pop(item_id)

    def add_items(self, item_ids: Sequence[str], text_features: np.ndarray) -> None:
        """Append items, or replace the text features of known ones; (n, F), all 0 for an item without text."""
        for item_id in self._removed.keys() & set(item_ids):
            self._rows[item_id] = self._removed.pop(item_id)
        new = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in self._rows]
        self._rows.update((item_id, row) for row, item_id in enumerate(new, start=len(self.item_ids) + 1))
        self.item_ids += new
        self.item_tower.grow(len(new))
        self.id_adam.grow(len(new))
        self.counts = np.concatenate([self.counts, np.zeros(len(new))])
        self.item_features = torch.cat(
            [self.item_features, self.item_features.new_zeros(len(new), text_features.shape[1])]
        )
        rows = torch.tensor([self._rows[item_id] for item_id in item_ids], dtype=torch.int64)
        self.item_features[rows] = torch.from_numpy(np.asarray(text_features, np.float16))

    def item_vectors(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The items' vectors, float32 (n, d): of the given rows, else of all items in the order of `item_ids`."""
        wanted = np.arange(1, len(self.item_ids) + 1) if rows is None else rows
        vectors: np.ndarray = self._vectors(torch.from_numpy(wanted)).numpy()
        return vectors

    # Full training

    def fit(
        self,
        histories: Sequence[Sequence[HistoryEvent]],
        budget: Budget,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        learn_held_out: bool = True,
    ) -> FitResult:
        """Train everything on whole histories; keep the weights with the best validation NDCG@10.

        Validation is on the last timestamp block of up to `max_validation_users` users, which training does not see.
        After the choice its targets are learned too, by incremental steps, so that all of the log has been learned.

        Args:
            histories: per subject, oldest event first, on items that `add_items` has made known.
            budget: by epochs alone, the seed fixes the result.
            on_progress: called after every batch and every validation.
            learn_held_out: False leaves the validation targets unlearned.
        """
        started = time.monotonic()
        sequences = [sequence for events in histories if len(sequence := self._tokens(events))]
        held = self._hold_out(sequences)
        training = [s for i, s in enumerate(sequences) if i not in held] + [
            h.sequence.window(0, h.start) for h in held.values()
        ]
        for sequence in training:
            self._count(sequence, 0)
        self._start_ids(training)
        best: FitResult | None = None
        weights: dict[str, Tensor] = {}
        validation: float | None = None
        loss, epoch, stale, share, validation_s = math.nan, 0, 0, 0.0, 0.0
        while share < 1.0 and stale < self.config.patience:
            groups = list(batches(self._varied_windows(training), self.config.batch_tokens, self.rng))
            for index, group in enumerate(groups):
                share = budget.share(time.monotonic() - started, epoch + index / len(groups))
                if share >= 1.0:
                    break
                rate = self.config.scheduled_rate(share)
                batch_loss = self._learn(group, rate, rate, None)
                loss = batch_loss if math.isnan(loss) else 0.95 * loss + 0.05 * batch_loss
                if on_progress:
                    on_progress(Progress(share, epoch + 1, loss, validation))
            epoch += 1
            elapsed_s = time.monotonic() - started
            share = budget.share(elapsed_s, epoch) if groups else 1.0
            # By the clock, validation may cost a tenth of the time; by epochs it must not depend on the clock.
            if share >= 1.0 or budget.seconds is None or validation_s <= 0.1 * elapsed_s:
                hr, validation = self._validate(list(held.values()))
                validation_s += time.monotonic() - started - elapsed_s
                stale += 1
                if best is None or validation > best.validation_ndcg_at_10:
                    best, stale, weights = FitResult(epoch, loss, hr, validation), 0, self._snapshot()
                if on_progress:
                    on_progress(Progress(share, epoch, loss, validation))
        assert best is not None  # the last round always validates
        self._restore(weights)
        self._settle_types(training)
        if learn_held_out:
            self._learn_held_out(list(held.values()))
        self._explain_by_text()
        return best

    @torch.no_grad()
    def _explain_by_text(self) -> None:
        """Let the text explain all of the items' vectors that it can; ids keep the rest, so no learned vector moves.

        The projection becomes the ridge regression from features to vectors, items weighted by log(1 + targets).
        Gradients alone leave it far from that: they come through the id dropout only, and ids learn faster.
        """
        rows = torch.from_numpy(np.flatnonzero(self.counts))
        rows = rows[(self.item_features[rows] != 0).any(1)]
        if not len(rows):
            return
        vectors = self._vectors(rows).double()  # (n, d)
        features = self.item_features[rows].double()  # (n, F)
        weights = torch.from_numpy(np.log1p(self.counts))[rows].unsqueeze(1)  # (n, 1)
        gram = features.T @ (weights * features)  # (F, F)
        gram += self.config.text_ridge * float(weights.mean()) * torch.eye(len(gram), dtype=gram.dtype)
        projection = torch.linalg.solve(gram, features.T @ (weights * vectors))  # (F, d)
        self.item_tower.shared.projection.weight.copy_(projection.T)
        self.item_tower.id_embedding[rows] = (vectors - features @ projection).float()

    def _hold_out(self, sequences: Sequence[TokenSequence]) -> dict[int, _HeldOut]:
        """By index, the histories whose last timestamp block is kept from training: some of those of three blocks."""
        eligible: dict[int, _HeldOut] = {}
        for index, sequence in enumerate(sequences):
            starts = block_starts(sequence.event_time_us)
            last = int(starts[-1])
            if last and starts[last - 1] > 0 and self._weights(sequence, last).any():
                eligible[index] = _HeldOut(sequence, last)
        if len(eligible) <= self.config.max_validation_users:
            return eligible
        chosen = self.rng.choice(list(eligible), self.config.max_validation_users, replace=False)
        return {index: eligible[index] for index in sorted(chosen.tolist())}

    def _start_ids(self, training: Sequence[TokenSequence]) -> None:
        """Give items about to be trained for the first time a place: near what they were visited with, plus noise."""
        fresh = torch.from_numpy(self.counts > 0) & (self.id_adam.steps == 0)
        shape = (len(self.counts), self.config.tower.dimension)
        with self._seeded():
            start = torch.randn(shape) + self.config.co_visitation_scale * co_visitation_vectors(training, *shape)
        self.item_tower.id_embedding.data[fresh] += _ID_INIT_STD * start[fresh]

    @torch.no_grad()
    def _settle_types(self, training: Sequence[TokenSequence]) -> None:
        """Let event types that training did not meet read as the unknown type, which it did (`type_dropout`)."""
        met = np.unique(np.concatenate([np.zeros(1, np.int64), *(sequence.type_index for sequence in training)]))
        unmet = torch.from_numpy(np.setdiff1d(np.arange(self.config.tower.n_types), met))
        for embedding in (self.user_tower.type_embedding, self.user_tower.value_direction):
            embedding.weight[unmet] = embedding.weight[0].clone()

    def _varied_windows(self, training: Sequence[TokenSequence]) -> list[Window]:
        """All windows of an epoch; where they are cut differs from epoch to epoch."""
        length = self.config.tower.history_length
        offsets = self.rng.integers(0, length // 2 + 1, len(training))
        cut = (
            windows(sequence, self._weights(sequence, 0), length, int(offset))
            for sequence, offset in zip(training, offsets, strict=True)
        )
        return [window for part in cut for window in part]

    def _validate(self, held: Sequence[_HeldOut]) -> tuple[float, float]:
        """HR@10 and NDCG@10 of the held-out targets among the items that training has seen."""
        requests = [
            (h.sequence.window(0, h.start), int(row))
            for h in held
            for row in h.sequence.item_rows[h.start :][self._weights(h.sequence, h.start)[h.start :] > 0]
        ]
        found = self._ranks(requests, np.flatnonzero(self.counts))
        return hr_at(found), ndcg_at(found)

    def _learn_held_out(self, held: Sequence[_HeldOut]) -> None:
        for start in range(0, len(held), 64):
            part = held[start : start + 64]
            self._online([(h.sequence, h.start) for h in part], [], 1)

    # Incremental training

    def step(self, new: Sequence[Example], replay: Sequence[Example] = (), n_steps: int = 1) -> StepResult:
        """Learn new events, mixed with replayed ones.

        Args:
            new: one example per subject; its last `n_new` events have not been learned yet.
            replay: examples whose last `n_new` events have.
            n_steps: how many times to go through the round.
        """
        return self._online([self._split(e) for e in new], [self._split(e) for e in replay], n_steps)

    def _online(
        self, new: Sequence[tuple[TokenSequence, int]], replay: Sequence[tuple[TokenSequence, int]], n_steps: int
    ) -> StepResult:
        """As `step`, on pairs of a history and the index of its first new event."""
        for sequence, start in new:
            self._count(sequence, start)
        fresh = [window for sequence, start in new for window in self._recent_windows(sequence, start)]
        old = [window for sequence, start in replay for window in self._recent_windows(sequence, start)]
        touched = _target_rows(fresh)
        others = np.setdiff1d(_target_rows(old), touched)
        if len(others) > self.config.touched_replay_rows:
            others = self.rng.choice(others, self.config.touched_replay_rows, replace=False)
        touched = np.union1d(touched, others)
        mixed = fresh + _reweighted(old, fresh, self.config.replay_share)
        if not mixed:
            return StepResult(math.nan, touched)
        n_batches = max(1, round(sum(len(window.tokens) for window in mixed) / self.config.batch_tokens))
        losses = []
        for _ in range(n_steps):
            order = self.rng.permutation(len(mixed))
            for part in np.array_split(order, n_batches):
                group = [mixed[index] for index in part]
                rates = self.config.online_learning_rate, self.config.online_id_learning_rate
                losses.append(self._learn(group, *rates, touched))
        return StepResult(float(np.mean(losses)), touched)

    def _recent_windows(self, sequence: TokenSequence, start: int) -> list[Window]:
        """Windows for the targets from `start` on, with as much before them as steps read."""
        length = min(self.config.online_history_length, self.config.tower.history_length)
        first = max(start - length, 0)
        weights = self._weights(sequence, start)
        return windows(sequence.window(first, len(sequence)), weights[first:], length)

    # What both share

    def _learn(self, group: Sequence[Window], rate: float, id_rate: float, touched: np.ndarray | None) -> float:
        """One step of the optimizers; with `touched` an incremental one: only these ids move, no shared weight does."""
        self.user_tower.train()
        self.heads.train()
        self.item_tower.train(touched is None)
        self.item_tower.shared.requires_grad_(touched is None)
        batch = to_batch(group, self.config.tower, self.text_features)
        if touched is None:
            types = batch.tensors.type_index
            types[torch.from_numpy(self.rng.random(types.shape) < self.config.type_dropout)] = 0
        towers = self.user_tower, self.item_tower, self.heads
        with self._seeded():
            losses = joint_loss(self.config, towers, self.item_features, self._present_counts(), batch, self.rng)
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
        )
        return losses.next_item

    def score(self, examples: Sequence[Example]) -> list[ScoredTarget]:
        """Rank each target among the last `n_new` events of the examples, among all items there are now.

        Each is predicted from the events before its timestamp block, as serving would have: nothing is learned here.
        """
        scored: list[ScoredTarget] = []
        requests: list[tuple[TokenSequence, int]] = []
        waiting: list[int] = []
        candidates = np.sort(np.fromiter(self._rows.values(), np.int64, len(self._rows)))
        for example in examples:
            sequence = self._tokens(example.events)
            times_us = np.array([event.event_time_us for event in example.events], np.int64)
            starts = block_starts(times_us)
            kept = np.cumsum([0, *(self._is_token(event) for event in example.events)])
            for index in range(len(example.events) - example.n_new, len(example.events)):
                event = example.events[index]
                if not self.config.target_weights.get(event.event_type) or not event.item_id:
                    continue
                row, known = self.row(event.item_id), int(kept[starts[index]])
                scored.append(ScoredTarget(event.position, 0, bool(self.counts[row] == 0), known == 0))
                if row and known:
                    waiting.append(len(scored) - 1)
                    requests.append((sequence.window(0, known), row))
                elif row:
                    rank = int((self.counts[candidates] >= self.counts[row]).sum())
                    scored[-1] = scored[-1]._replace(rank=rank)
        found = self._ranks(requests, candidates)
        for index, rank in zip(waiting, found.tolist(), strict=True):
            scored[index] = scored[index]._replace(rank=rank)
        return scored

    @torch.inference_mode()
    def _ranks(self, requests: Sequence[tuple[TokenSequence, int]], candidates: np.ndarray) -> np.ndarray:
        """The rank of each request's target row after its history, among the candidate rows (sorted); 0 = a miss."""
        self.user_tower.eval()
        found = np.zeros(len(requests), np.int64)
        vectors = self._vectors(torch.from_numpy(candidates))
        place = np.full(len(self.counts), -1)
        place[candidates] = np.arange(len(candidates))
        known = [index for index, (_, row) in enumerate(requests) if place[row] >= 0]
        known.sort(key=lambda index: len(requests[index][0]))  # like lengths together: less padding
        for start in range(0, len(known), _SCORE_BATCH):
            part = known[start : start + _SCORE_BATCH]
            tensors = collate([requests[index][0] for index in part], self.config.tower, self.text_features)
            interests = self.user_tower(tensors, self._vectors(tensors.item_rows))
            targets = place[[requests[index][1] for index in part]]
            seen = None
            if self.config.exclude_seen:
                seen = [place[requests[index][0].item_rows] for index in part]
                seen = [places[places >= 0] for places in seen]
            found[part] = ranks(interests, vectors, targets, seen)
        return found

    @torch.inference_mode()
    def _vectors(self, rows: Tensor) -> Tensor:
        """(…,) rows → (…, d), as published: no id is hidden."""
        self.item_tower.eval()
        vectors: Tensor = self.item_tower(rows, self.item_features[rows].float())
        return vectors

    def _tokens(self, events: Sequence[HistoryEvent]) -> TokenSequence:
        return tokens(events, self.config.tower, self.row)

    def _is_token(self, event: HistoryEvent) -> bool:
        return bool(event.query or self.row(event.item_id))

    def _split(self, example: Example) -> tuple[TokenSequence, int]:
        """The example's tokens and the index of the first new one."""
        context = example.events[: len(example.events) - example.n_new]
        return self._tokens(example.events), sum(self._is_token(event) for event in context)

    def _weights(self, sequence: TokenSequence, start: int) -> np.ndarray:
        """(T,): how much each event counts as a target; 0 before `start` and for what is no target."""
        weights: np.ndarray = self._type_weights[sequence.type_index] * (sequence.item_rows > 0)
        weights[:start] = 0.0
        return weights

    def _count(self, sequence: TokenSequence, start: int) -> None:
        np.add.at(self.counts, sequence.item_rows[self._weights(sequence, start) > 0], 1.0)

    def _present_counts(self) -> np.ndarray:
        """(n + 1,), the counts of the items that can be candidates; 0 for those that were removed."""
        if not self._removed:
            return self.counts
        counts = self.counts.copy()
        counts[list(self._removed.values())] = 0.0
        return counts

    def _parameter_groups(self) -> list[dict[str, object]]:
        """Weights of matrices decay, gains and biases do not."""
        parameters = [p for _, p in checkpoint.dense_parameters(self)]
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Dropout draws from this learner's own random state, whatever else runs in the process."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.rng.integers(2**63)))
            yield

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in checkpoint.weights(self).items()}

    def _restore(self, snapshot: Mapping[str, Tensor]) -> None:
        for name, tensor in checkpoint.weights(self).items():
            tensor.data.copy_(snapshot[name])


def _target_rows(cut: Sequence[Window]) -> np.ndarray:
    """The items the windows' targets are on, sorted."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *(window.target_rows for window in cut)]))


def _reweighted(old: Sequence[Window], fresh: Sequence[Window], share: float) -> list[Window]:
    """The replayed windows, weighted so that together they make up `share` of the loss."""
    old_weight = sum(float(window.target_weights.sum()) for window in old)
    fresh_weight = sum(float(window.target_weights.sum()) for window in fresh)
    if not old_weight or not fresh_weight:
        return list(old)
    factor = np.float32(share / (1 - share) * fresh_weight / old_weight)
    return [window._replace(target_weights=window.target_weights * factor) for window in old]
