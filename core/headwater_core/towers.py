"""The model: an item tower, a user tower and the joint heads, in the order in which data flows through them.

The item tower turns an item's id, its text and the caller's own vector into one vector. The user tower reads a history
of such vectors with a pre-norm causal Transformer (RoPE, SwiGLU; Su et al. 2021, Shazeer 2020) and answers with a few
interest vectors; an item's score is its inner product with the interest that suits it best. The heads turn a pair of a
user and an item vector into probabilities and an expected value.

Letters in shapes: B sequences, T events, K interests, d = `dimension`, H heads, F = `feature_dimension`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 the name every reader of PyTorch code expects

from headwater_core.catalogue import MAX_EMBEDDING
from headwater_core.errors import ArtifactError, InvalidFieldError
from headwater_core.histories import HistoryTensors

_BOUNDS: Mapping[str, tuple[float, float]] = {
    "dimension": (4, 4096),
    "n_layers": (1, 48),
    "n_heads": (1, 64),
    "n_interests": (1, 32),
    "history_length": (1, 8192),
    "dropout": (0.0, 0.9),
    "id_dropout": (0.0, 0.9),
    "text_dimension": (1, 8192),
    "vector_dimension": (0, MAX_EMBEDDING),
    "n_gap_buckets": (2, 64),
}
_MAX_EVENT_TYPES = 1024
_MAX_HEADER_BYTES = 1 << 20
_LARGEST_WEIGHT = 1e6
"""Far above any that was trained; with such as these no score leaves what a float32 can hold."""
_INIT_STD = 0.02
UNCALIBRATED = (1.0, 0.0, 0.0, 0.0)
"""The weights of a type's own logit, the score, the bonus and 1: the logit as it is."""


@dataclass(frozen=True, slots=True)
class TowerConfig:
    """Everything needed to build the towers before their weights are loaded; travels in the generation's manifest."""

    dimension: int = 64
    """Length of item and interest vectors."""
    n_layers: int = 2
    n_heads: int = 2
    n_interests: int = 1
    """How many vectors describe one user."""
    history_length: int = 100
    """How many of a user's latest events are read, in training and in serving."""
    dropout: float = 0.3
    id_dropout: float = 0.15
    """How often training hides an item's id, so that its features alone must place it."""
    text_dimension: int = 384
    """Length of the features of a text: an item's or a query's."""
    vector_dimension: int = 0
    """Length of the vectors that callers give to items; 0 reads none."""
    n_gap_buckets: int = 32
    """Buckets of the time since the event before: none, under 1 s, then doubling; 32 reach to 34 years."""
    event_types: tuple[str, ...] = ()
    """The type vocabulary: name i has index i + 1; index 0 stands for every other type."""
    negative_types: tuple[str, ...] = ()
    """Those of them that speak against their item."""
    value_mean: tuple[float, ...] = ()
    """Per event type, for normalising values; as long as `event_types`."""
    value_std: tuple[float, ...] = ()
    value_type: str = ""
    """The event type whose values are told to callers: the one that carries values most often; "" when none does."""
    reads_query_time: bool = False
    """Whether the user tower reads how long after the last event it is asked. Only `evaluate --query-time` sets it.
    Servers keep user vectors until the history changes, so a served tower would be told "unknown": nothing that is
    served is trained with it."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work.

        Raises:
            InvalidFieldError: naming the field.
        """
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            kind = float if isinstance(low, float) else int
            if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
                raise InvalidFieldError(name, f"is {value!r}; must be {'an integer' if kind is int else 'a number'}")
            if not low <= value <= high:
                raise InvalidFieldError(name, f"is {value}; must be from {low} to {high}")
        if not isinstance(self.reads_query_time, bool):
            raise InvalidFieldError("reads_query_time", f"is {self.reads_query_time!r}; must be true or false")
        if self.dimension % (2 * self.n_heads):
            raise InvalidFieldError("n_heads", f"dimension {self.dimension} is no multiple of 2 n_heads")
        if len(self.event_types) > _MAX_EVENT_TYPES or len(set(self.event_types)) != len(self.event_types):
            raise InvalidFieldError("event_types", f"must be at most {_MAX_EVENT_TYPES} different names")
        if not set(self.negative_types) <= set(self.event_types):
            raise InvalidFieldError("negative_types", "must be among event_types")
        for name in ("value_mean", "value_std"):
            numbers = getattr(self, name)
            if len(numbers) != len(self.event_types) or not all(
                abs(number) <= sys.float_info.max for number in numbers
            ):
                raise InvalidFieldError(name, "must hold one finite number for each event type")
        if any(number <= 0 for number in self.value_std):
            raise InvalidFieldError("value_std", "must be above 0")
        if self.value_type and self.value_type not in self.event_types:
            raise InvalidFieldError("value_type", "must be one of event_types, or empty")

    @property
    def feature_dimension(self) -> int:
        """Length of an item's features: those of its text, then the caller's vector."""
        return self.text_dimension + self.vector_dimension

    @property
    def n_types(self) -> int:
        """Size of the type vocabulary, the unknown type included."""
        return len(self.event_types) + 1

    def type_index(self, event_type: str) -> int:
        """The type's place in the vocabulary; 0 when it is not in it."""
        try:
            return self.event_types.index(event_type) + 1
        except ValueError:
            return 0

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON can hold it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TowerConfig:
        """The configuration that `to_dict` wrote; a field left out takes its default.

        Raises:
            InvalidFieldError: naming the field that is unknown or out of bounds.
        """
        known = {field.name for field in fields(cls)}
        for name in content:
            if name not in known:
                raise InvalidFieldError(str(name), "is not a field of the tower configuration")
        arguments = dict(content)
        kinds: dict[str, Any] = {"event_types": str, "negative_types": str}
        for name, kind in {**kinds, "value_mean": (int, float), "value_std": (int, float)}.items():
            entries = arguments.get(name, ())
            if not isinstance(entries, list | tuple) or not all(isinstance(entry, kind) for entry in entries):
                raise InvalidFieldError(name, "must be a list of names" if kind is str else "must be a list of numbers")
            arguments[name] = tuple(entries)
        if not isinstance(arguments.get("value_type", ""), str):
            raise InvalidFieldError("value_type", "must be a name")
        return cls(**arguments)


class ItemFeatureTower(nn.Module):
    """The part of the item tower that all items share: features → vector.

    It has no bias, so an item without text and vector (all features 0) gets 0 from it and is placed by its id alone.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(config.feature_dimension, config.dimension, bias=False)
        nn.init.normal_(self.projection.weight, std=_INIT_STD)

    def forward(self, features: Tensor) -> Tensor:
        """(…, F) float → (…, d)."""
        vectors: Tensor = self.projection(features)
        return vectors


class ItemTower(nn.Module):
    """Item vector = id embedding + projected features. Row 0 is "no item" and stays 0.

    `shared` holds what one gradient step moves for all items at once; the id table is sparse by nature and kept
    apart, so that servers need only `shared` to place a new item.
    """

    def __init__(self, config: TowerConfig, n_items: int = 0) -> None:
        super().__init__()
        self.config = config
        self.shared = ItemFeatureTower(config)
        self.id_embedding = nn.Parameter(torch.zeros(n_items + 1, config.dimension))

    @property
    def n_items(self) -> int:
        """How many items have a row (row 0 not counted)."""
        return self.id_embedding.shape[0] - 1

    def grow(self, n: int) -> None:
        """Append n rows of zeros: until an item is learned, its features alone place it."""
        rows = self.id_embedding.new_zeros(n, self.config.dimension)
        self.id_embedding = nn.Parameter(torch.cat([self.id_embedding.detach(), rows]))

    def forward(self, item_rows: Tensor, features: Tensor) -> Tensor:
        """The items' vectors. (…,) int64 rows and (…, F) features → (…, d)."""
        return self.compose(self.id_embedding[item_rows], features)

    def compose(self, id_vectors: Tensor, features: Tensor) -> Tensor:
        """Join id vectors (n, d) with features (n, F) → (n, d); in training some ids are hidden.

        Only items that have features can be placed without their id, so only theirs are hidden.
        """
        if self.training and self.config.id_dropout > 0:
            hidden = torch.rand(id_vectors.shape[:-1], device=id_vectors.device) < self.config.id_dropout
            hidden &= (features != 0).any(-1)
            id_vectors = id_vectors.masked_fill(hidden.unsqueeze(-1), 0.0)
        vectors: Tensor = id_vectors + self.shared(features)
        return vectors

    def item_vectors_from_features(self, features: Tensor) -> Tensor:
        """Where never-seen items belong, by their features alone. (n, F) → (n, d)."""
        vectors: Tensor = self.shared(features)
        return vectors


def _rotation(length: int, head_dimension: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position encoding, each (length, head_dimension / 2)."""
    rates = 10_000.0 ** (-torch.arange(0, head_dimension, 2, dtype=torch.float32) / head_dimension)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), rates)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair of features by its position's angle. x: (…, T, hd); cosine, sine broadcast as (…, T, hd/2)."""
    even, odd = x.chunk(2, dim=-1)  # (…, T, hd/2) each
    return torch.cat([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)  # (…, T, hd)


class SwiGLU(nn.Module):
    """Gated feed-forward net, its inner width 8/3 d so that it costs what a plain 4 d one does."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = 8 * math.ceil(config.dimension / 3)
        self.into = nn.Linear(config.dimension, 2 * width, bias=False)
        self.out = nn.Linear(width, config.dimension, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d) → (…, d)."""
        gate, content = self.into(x).chunk(2, dim=-1)  # (…, width) each
        mixed: Tensor = self.out(F.silu(gate) * content)
        return mixed


class EncoderBlock(nn.Module):
    """One pre-norm layer: causal self-attention, then SwiGLU, each beside a residual path."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.attention_norm = nn.RMSNorm(config.dimension)
        self.query_key_value = nn.Linear(config.dimension, 3 * config.dimension, bias=False)
        self.attention_out = nn.Linear(config.dimension, config.dimension, bias=False)
        self.feed_forward_norm = nn.RMSNorm(config.dimension)
        self.feed_forward = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """(B, T, d) → (B, T, d); position t sees positions up to t."""
        x = x + self.dropout(self.attended(x, cosine, sine))
        mixed: Tensor = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return mixed

    def attended(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """What attention adds, (B, T, d) → (B, T, d)."""
        return self.mixed(*self.projected(x, cosine, sine))

    def projected(self, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values. (B, T, d) and (T, hd/2) or (B, 1, T, hd/2) → (B, H, T, hd) each."""
        b, t, d = x.shape
        packed = self.query_key_value(self.attention_norm(x)).view(b, t, 3, self.n_heads, d // self.n_heads)
        packed = packed.permute(2, 0, 3, 1, 4)  # (3, B, H, T, hd)
        query, key = _rotate(packed[:2], cosine, sine)
        return query, key, packed[2]

    def mixed(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """What attention adds, (B, T, d); by default position t sees positions up to t.

        Args:
            query: (B, H, T, hd).
            key: (B, H, S, hd); S = T without a mask.
            value: (B, H, S, hd).
            mask: (B, 1, T, S), True where a position is seen.
        """
        attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)  # (B, H, T, hd)
        added: Tensor = self.attention_out(attended.transpose(1, 2).flatten(2))  # (B, T, d)
        return added


class InterestDecoder(nn.Module):
    """Learned interest queries read the encoder's states and become a user's interest vectors.

    Interest k at position t starts as state t plus its learned query, attends to the states up to t and passes a
    SwiGLU, so it is defined at every position: training uses all of them, serving the last one only.
    """

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.interests = nn.Parameter(torch.empty(config.n_interests, config.dimension))
        self.state_norm = nn.RMSNorm(config.dimension)
        self.query_norm = nn.RMSNorm(config.dimension)
        self.query = nn.Linear(config.dimension, config.dimension, bias=False)
        self.key_value = nn.Linear(config.dimension, 2 * config.dimension, bias=False)
        self.attention_out = nn.Linear(config.dimension, config.dimension, bias=False)
        self.feed_forward_norm = nn.RMSNorm(config.dimension)
        self.feed_forward = SwiGLU(config)
        self.norm = nn.RMSNorm(config.dimension)
        self.dropout = nn.Dropout(config.dropout)
        # As large as the states of an untrained encoder: the interests differ from the start, the history still counts.
        nn.init.normal_(self.interests, std=_INIT_STD * math.sqrt(config.dimension))

    def forward(
        self, states: Tensor, cosine: Tensor, sine: Tensor, at: Tensor | None = None, asked: Tensor | None = None
    ) -> Tensor:
        """Interests at every position, or at one position for each sequence.

        Args:
            states: (B, T, d), of the encoder.
            cosine: (T, hd/2), of the rotary encoding.
            sine: (T, hd/2).
            at: (B,) int64, the one position wanted in each sequence; None for all.
            asked: (B, T, d), what is known of the query at each position; it joins the interests, not what they read.

        Returns:
            (B, T, K, d), with T = 1 where `at` is given.
        """
        b, t, _ = states.shape
        key, value = self.projected(states, cosine, sine)
        mask = None
        if asked is not None:
            states = states + asked
        if at is not None:
            states = states[torch.arange(b, device=at.device), at].unsqueeze(1)  # (B, 1, d)
            cosine, sine = cosine[at].view(b, 1, 1, 1, -1), sine[at].view(b, 1, 1, 1, -1)
            mask = (torch.arange(t, device=at.device) <= at.unsqueeze(1)).view(b, 1, 1, t)
        return self.answered(states, key, value, cosine, sine, mask)

    def projected(self, states: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values. (B, T, d) and (T, hd/2) or (B, 1, T, hd/2) → (B, H, T, hd) each."""
        b, t, d = states.shape
        packed = self.key_value(self.state_norm(states)).view(b, t, 2, self.n_heads, d // self.n_heads)
        key, value = packed.permute(2, 0, 3, 1, 4)  # (B, H, T, hd) each
        return _rotate(key, cosine, sine), value

    def answered(
        self, states: Tensor, key: Tensor, value: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor | None
    ) -> Tensor:
        """The interests that begin at some states.

        Args:
            states: (B, T', d).
            key: (B, H, S, hd).
            value: (B, H, S, hd).
            cosine: of the states' positions, (T', hd/2) or (B, 1, 1, T', hd/2).
            sine: the same.
            mask: (B, 1, T', S), True where a position is seen; None: S = T', and each sees those up to itself.

        Returns:
            (B, T', K, d).
        """
        b, k, head = len(states), self.interests.shape[0], key.shape[-1]
        x = states.unsqueeze(2) + self.interests  # (B, T', K, d)
        query = self.query(self.query_norm(x)).view(b, -1, k, self.n_heads, head).permute(0, 2, 3, 1, 4)
        query = _rotate(query, cosine, sine)  # (B, K, H, T', hd)
        attended = F.scaled_dot_product_attention(
            query.flatten(1, 2), key.repeat(1, k, 1, 1), value.repeat(1, k, 1, 1), mask, is_causal=mask is None
        )  # (B, K·H, T', hd)
        attended = attended.view(b, k, self.n_heads, -1, head).permute(0, 3, 1, 2, 4).flatten(3)  # (B, T', K, d)
        x = x + self.dropout(self.attention_out(attended))
        x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        interests: Tensor = self.norm(x)
        return interests


class UserTower(nn.Module):
    """Reads a history and answers with the user's interest vectors.

    An event's token = its item's vector + its type + its value + the time since the event before; a search's token
    holds its query's text features instead of an item. Item vectors are scaled by √d: they are small (inner products
    with them are logits), the other parts are not. With `reads_query_time` the decoder is told when it is asked.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.type_embedding = nn.Embedding(config.n_types, config.dimension)
        self.value_direction = nn.Embedding(config.n_types, config.dimension)
        self.gap_embedding = nn.Embedding(config.n_gap_buckets, config.dimension)
        self.query_projection = nn.Linear(config.text_dimension, config.dimension, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layers))
        self.decoder = InterestDecoder(config)
        cosine, sine = _rotation(config.history_length, config.dimension // config.n_heads)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        for embedding in (self.type_embedding, self.value_direction, self.gap_embedding):
            nn.init.normal_(embedding.weight, std=_INIT_STD)
        for name, weight in self.named_parameters():
            if name.endswith(("attention_out.weight", "feed_forward.out.weight")):
                # Each residual branch starts small, so that depth does not blow up the sum (GPT-2's rule).
                nn.init.normal_(weight, std=_INIT_STD / math.sqrt(2 * (config.n_layers + 1)))
        self.query_gap_embedding: nn.Embedding | None = None
        if config.reads_query_time:  # the last to draw: all other weights start as they do without it
            self.query_gap_embedding = nn.Embedding(config.n_gap_buckets, config.dimension)
            nn.init.normal_(self.query_gap_embedding.weight, std=_INIT_STD)

    def forward(self, tensors: HistoryTensors, item_vectors: Tensor) -> Tensor:
        """The interests at the end of each history.

        Args:
            tensors: a batch from `histories.collate`.
            item_vectors: (B, T, d), the vectors of `tensors.item_rows`, 0 where the row is 0.

        Returns:
            (B, K, d).
        """
        t = item_vectors.shape[1]
        states = self._encode(tensors, item_vectors)
        interests: Tensor = self.decoder(
            states, self.cosine[:t], self.sine[:t], at=tensors.lengths - 1, asked=self._asked(tensors)
        )
        return interests.squeeze(1)

    def forward_all(self, tensors: HistoryTensors, item_vectors: Tensor) -> Tensor:
        """The interests after every event, as training needs them. Arguments as `forward` → (B, T, K, d)."""
        t = item_vectors.shape[1]
        states = self._encode(tensors, item_vectors)
        interests: Tensor = self.decoder(states, self.cosine[:t], self.sine[:t], asked=self._asked(tensors))
        return interests

    def _asked(self, tensors: HistoryTensors) -> Tensor | None:
        """What is known of the query at each position, (B, T, d)."""
        if self.query_gap_embedding is None:
            return None
        assert tensors.query_gap is not None  # `collate` fills it where the configuration says that it is read
        asked: Tensor = self.query_gap_embedding(tensors.query_gap)
        return asked

    def _encode(self, tensors: HistoryTensors, item_vectors: Tensor) -> Tensor:
        """The encoder's states, (B, T, d). Right padding needs no mask: no event sees a later one."""
        x = self.tokens(tensors, item_vectors)
        t = x.shape[1]
        for block in self.blocks:
            x = block(x, self.cosine[:t], self.sine[:t])
        return x

    def tokens(self, tensors: HistoryTensors, item_vectors: Tensor) -> Tensor:
        """What the encoder reads, (B, T, d). Arguments as `forward`."""
        value = torch.nan_to_num(tensors.value).unsqueeze(-1)  # (B, T, 1); no value reads as the type's mean
        x: Tensor = item_vectors * math.sqrt(self.config.dimension)
        x = x + self.type_embedding(tensors.type_index) + self.gap_embedding(tensors.gap)
        x = x + value * self.value_direction(tensors.type_index)
        if tensors.query_features is not None:
            x = x + self.query_projection(tensors.query_features)
        read: Tensor = self.dropout(x)
        return read


class JointHeads(nn.Module):
    """From a user and an item vector to the logit of each event type and the expected value."""

    calibration: Tensor

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * config.dimension, config.dimension)
        self.type_logits = nn.Linear(config.dimension, config.n_types)
        self.value = nn.Linear(config.dimension, 1)
        # No parameter: gradients teach the logits by themselves, in incremental steps too; how far these are to be
        # believed beside score and bonus, what was held out from them says, until the next full training.
        self.register_buffer("calibration", torch.tensor(UNCALIBRATED).repeat(config.n_types, 1))

    def forward(self, user_vectors: Tensor, item_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(…, d) each → type logits (…, n_types) and values (…,), normalised as the configuration's are."""
        # The item's length (its popularity, mostly) would drown the rest beside the interests' unit scale.
        scaled = item_vectors * math.sqrt(item_vectors.shape[-1])
        joined = torch.cat([user_vectors, scaled, user_vectors * scaled], dim=-1)  # (…, 3d)
        hidden = F.silu(self.hidden(joined))
        return self.type_logits(hidden), self.value(hidden).squeeze(-1)

    def probabilities(self, type_logits: Tensor, scores: Tensor, bonuses: Tensor) -> Tensor:
        """The calibrated probability of each event type.

        Args:
            type_logits: (…, n_types), as `forward` gives them.
            scores: (…,), of the items with the interest that suits them best.
            bonuses: (…,), what co-visits add to them: the heads know of them from here alone.
        """
        return calibrated(self.calibration, type_logits, scores, bonuses).sigmoid()

    def of_best_interest(self, interests: Tensor, item_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Items (P, R, d), each read by the interest of (P, K, d) that suits it best → (P, R, n_types) and (P, R)."""
        best = torch.einsum("pkd,prd->prk", interests, item_vectors).argmax(-1, keepdim=True)  # (P, R, 1)
        users = interests.gather(1, best.expand(-1, -1, interests.shape[-1]))  # (P, R, d)
        outputs: tuple[Tensor, Tensor] = self(users, item_vectors)
        return outputs


def calibrated(weights: Tensor, type_logits: Tensor, scores: Tensor, bonuses: Tensor) -> Tensor:
    """The logits that count. Args: weights: (n_types, 4); the others, and what comes back, as in `probabilities`."""
    own, of_score, of_bonus, shift = weights.unbind(-1)  # (n_types,) each
    return own * type_logits + of_score * scores.unsqueeze(-1) + of_bonus * bonuses.unsqueeze(-1) + shift


def score(interests: Tensor, item_vectors: Tensor) -> Tensor:
    """An item's score is its inner product with the interest that suits it best. (…, K, d), (N, d) → (…, N)."""
    scores: Tensor = (interests @ item_vectors.T).amax(-2)
    return scores


def save_state(module: nn.Module) -> bytes:
    """The module's weights as a safetensors file."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}
    return safetensors.torch.save(tensors)


def load_state(module: nn.Module, source: bytes | Path) -> None:
    """Fill the module from a safetensors file that holds exactly its tensors.

    Raises:
        ArtifactError: when the file cannot be read, a name, shape or dtype differs, or a weight is absurd.
    """
    module.load_state_dict(_checked_weights(module, source))


def check_size(config: TowerConfig, size: int, path: str) -> None:
    """Refuse a configuration whose user tower would take many times the memory that the file of its weights has.

    To be asked before a tower is built from a configuration that came with a file.

    Args:
        config: what came with it.
        size: the file's bytes.
        path: where it is, for the error.

    Raises:
        ArtifactError: when it would.
    """
    least = config.n_layers * config.dimension**2 * torch.float32.itemsize  # a layer has some twelve such matrices
    if size < least:
        raise ArtifactError("load weights", path, f"is {size} bytes; its layers alone have more than {least}")


def _checked_weights(module: nn.Module, source: bytes | Path) -> dict[str, Tensor]:
    """What the source holds: exactly the module's tensors."""
    path = "<bytes>" if isinstance(source, bytes) else str(source)
    expected = module.state_dict()
    most = _MAX_HEADER_BYTES + sum(tensor.nbytes for tensor in expected.values())
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > most:
            raise ArtifactError(
                "load weights", path, f"is {size} bytes; its tensors and their names have at most {most}"
            )
        tensors = safetensors.torch.load(source if isinstance(source, bytes) else source.read_bytes())
    except (SafetensorError, OSError) as error:
        raise ArtifactError("load weights", path, str(error)) from error
    if tensors.keys() != expected.keys():
        differing = sorted(tensors.keys() ^ expected.keys())
        raise ArtifactError("load weights", path, f"tensors missing or unknown: {', '.join(differing[:5])}"[:500])
    for name, tensor in expected.items():
        found = tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            reason = f"{name} is {tuple(found.shape)} {found.dtype}, not {tuple(tensor.shape)} {tensor.dtype}"
            raise ArtifactError("load weights", path, reason)
        if not (found.abs() <= _LARGEST_WEIGHT).all():  # nor is NaN
            raise ArtifactError("load weights", path, f"{name} has a weight that no training gives")
    return tensors
