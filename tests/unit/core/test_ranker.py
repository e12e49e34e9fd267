"""The learned ranker's weights and what it reads."""

from __future__ import annotations

import numpy as np
import pytest

from headwater_core.errors import InvalidFieldError
from headwater_core.ranker import FEATURES, Ranker, pack, unpack


def features(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, len(FEATURES))).astype(np.float32)


def test_scores_are_sums_of_what_features_weigh() -> None:
    """Features without a weight count nothing."""
    read = features(5)
    ranker = Ranker({"popularity": 2.0, "tower": -1.0})
    expected = 2.0 * read[:, FEATURES.index("popularity")] - read[:, FEATURES.index("tower")]
    assert ranker.scores(read) == pytest.approx(expected, abs=1e-5)
    assert ranker
    assert not Ranker()


@pytest.mark.parametrize(("weights", "field"), [({"magic": 1.0}, "magic"), ({"age": float("nan")}, "age")])
def test_weights_that_cannot_work_are_refused(weights: dict[str, float], field: str) -> None:
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
