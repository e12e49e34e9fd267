"""The learned ranker's weights and what it reads."""

from __future__ import annotations

import numpy as np
import pytest

from headwater_core.errors import InvalidFieldError
from headwater_core.ranker import FEATURES, Ranker, Weight, pack, unpack


def features(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, len(FEATURES))).astype(np.float32)


def test_scores_are_sums_of_what_features_weigh() -> None:
    """Features without a weight count nothing."""
    read = features(5)
    ranker = Ranker({"popularity": Weight(2.0, -9.0, 9.0), "tower": Weight(-1.0, -9.0, 9.0)})
    expected = 2.0 * read[:, FEATURES.index("popularity")] - read[:, FEATURES.index("tower")]
    assert ranker.scores(read) == pytest.approx(expected, abs=1e-5)
    assert ranker
    assert not Ranker()


def test_beyond_what_it_was_learned_from_a_feature_counts_as_at_the_end() -> None:
    """Nothing is known there."""
    read = np.zeros((3, len(FEATURES)), np.float32)
    read[:, FEATURES.index("age")] = [-1.0, 0.5, 9.0]
    assert Ranker({"age": Weight(2.0, 0.0, 1.0)}).scores(read).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("weights", "field"),
    [
        ({"magic": Weight(1.0, 0.0, 1.0)}, "magic"),
        ({"age": Weight(float("nan"), 0.0, 1.0)}, "age"),
        ({"age": Weight(1.0, 1.0, 0.0)}, "age"),
    ],
)
def test_weights_that_cannot_work_are_refused(weights: dict[str, Weight], field: str) -> None:
    """By the feature's name."""
    with pytest.raises(InvalidFieldError) as refused:
        Ranker(weights)
    assert refused.value.field == field


def test_what_is_packed_is_read_back() -> None:
    """To half precision; what was not read stays not a number."""
    read = features(3)
    read[1] = np.nan
    back = unpack(pack(read), 3)
    assert back is not None
    assert back == pytest.approx(read, abs=2e-3, nan_ok=True)


@pytest.mark.parametrize("content", [None, b"", b"abcd", pack(features(2)), b"\0" + pack(features(3))[1:]])
def test_what_is_no_row_of_these_features_is_none(content: bytes | None) -> None:
    """Nothing kept, another number of items, another release's features."""
    assert unpack(content, 3) is None
