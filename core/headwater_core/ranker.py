"""The learned ranker: how likely a user acts on an item, by what is known of both when the slate is made.

A logistic regression over a few features. Its weights travel in the generation's manifest by name, so anybody can read
what it goes by; the updater fits them from impressions and what came of them (`headwater_updater.ranker_fitting`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headwater_core.errors import InvalidFieldError
from headwater_core.strategies import SOURCES

SCORE, GAIN, PROBABILITY, POPULARITY, AGE, AFFINITY = (
    "score",
    "gain",
    "probability",
    "popularity",
    "age",
    "affinity",
)
FEATURES: tuple[str, ...] = (*SOURCES, SCORE, GAIN, PROBABILITY, POPULARITY, AGE, AFFINITY)
"""What the ranker reads of a candidate, in the order of a row.

By a source's name: K / (K + the candidate's rank in what it proposed), 0 where it did not (K as in reciprocal-rank
fusion). `score`: the blend's, of towers, co-visits, repeats and the trend; `gain`: what of it is not the towers';
`probability`: the logarithm of what the joint heads expect, the types' probabilities by their weights; `popularity`:
log(1 + decayed weight); `age`: log(1 + days since it was published); `affinity`: the share of what the user turns to
that is of its categories.
"""

Features = npt.NDArray[np.float32]
_NOTHING = (0.0, 0.0, 0.0)
_FINGERPRINT = zlib.crc32(",".join(FEATURES).encode()).to_bytes(4, "big")


class Weight(NamedTuple):
    """What a feature counts, between the lowest and the highest value that the ranker was learned from.

    Beyond these it counts as at them: nothing is known there.
    """

    weight: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Ranker:
    """Weights by feature; without any there is no ranker."""

    weights: Mapping[str, Weight] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InvalidFieldError: naming the field.
        """
        for name, weight in self.weights.items():
            if name not in FEATURES:
                raise InvalidFieldError(name, "is no feature of the ranker")
            if not all(map(math.isfinite, weight)) or weight.lowest > weight.highest:
                raise InvalidFieldError(
                    name, f"is {tuple(weight)}; must be finite, the lowest value before the highest"
                )

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self.weights)

    def scores(self, features: Features) -> npt.NDArray[np.float32]:
        """Log-odds up to a constant. (n, F) → (n,)."""
        named = [self.weights.get(name, _NOTHING) for name in FEATURES]
        weights, lowest, highest = np.array(named, np.float32).T
        found: npt.NDArray[np.float32] = np.clip(features, lowest, highest) @ weights
        return found

    def to_dict(self) -> dict[str, tuple[float, float, float]]:
        """As a manifest holds it."""
        return {name: (each.weight, each.lowest, each.highest) for name, each in self.weights.items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, tuple[float, float, float]]) -> Ranker:
        """What `to_dict` wrote.

        Raises:
            InvalidFieldError: naming the field.
        """
        return cls({name: Weight(*values) for name, values in content.items()})


def pack(features: Features) -> bytes:
    """Features (n, F) as impressions keep them: half precision, and which features they are."""
    return _FINGERPRINT + np.ascontiguousarray(features, np.float16).tobytes()


def unpack(content: bytes | None, n: int) -> Features | None:
    """What `pack` made of n items; None where there is none, or of another release's features."""
    if content is None or content[:4] != _FINGERPRINT or len(content) != 4 + 2 * n * len(FEATURES):
        return None
    return np.frombuffer(content, np.float16, offset=4).reshape(n, len(FEATURES)).astype(np.float32)
