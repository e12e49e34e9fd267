"""Text features of searches: in memory, bounded, and never a reason to fail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from headwater_server.query_features import QueryFeatures


class Encoder:
    """Gives a text's length as its features, and notes what it was asked."""

    id = "test/mean"
    dimension = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_broken = False

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if self.is_broken:
            raise RuntimeError("broken")
        self.asked += texts
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float16)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def test_no_query_is_encoded_twice(encoder: Encoder) -> None:
    """Neither within one call nor later; the encoder is loaded with the first."""
    loads: list[Encoder] = []

    def load() -> Encoder:
        loads.append(encoder)
        return encoder

    features = QueryFeatures(load)
    assert loads == []
    assert features(["ab", "abc", "ab"])[:, 0].tolist() == [2.0, 3.0, 2.0]
    found = features(["abc", "a"])
    assert found.dtype == np.dtype(np.float32)
    assert found[:, 0].tolist() == [3.0, 1.0]
    assert (encoder.asked, len(loads)) == (["ab", "abc", "a"], 1)


def test_the_queries_used_last_are_kept(encoder: Encoder) -> None:
    """Over the bound the others go; a call larger than the bound is answered in full."""
    features = QueryFeatures(lambda: encoder, capacity=2)
    features(["a", "b"])
    features(["a"])
    features(["c"])
    features(["a"])
    assert encoder.asked == ["a", "b", "c"]
    features(["b"])
    assert encoder.asked == ["a", "b", "c", "b"]
    assert len(features(["d", "e", "f"])) == 3


def test_no_query_is_kept_in_clear(encoder: Encoder) -> None:
    """Whose a query was is not known here, so that erasing a user could not take it away."""
    features = QueryFeatures(lambda: encoder)
    features(["a rare disease"])
    assert "a rare disease" not in repr(features._kept)
    features(["a rare disease"])
    assert encoder.asked == ["a rare disease"]


def test_a_failure_is_noted_until_a_query_is_encoded_again(encoder: Encoder) -> None:
    """Whether the encoder cannot be loaded or breaks."""

    def load() -> Encoder:
        if encoder.is_broken:
            raise OSError("no such file")
        return encoder

    features = QueryFeatures(load)
    encoder.is_broken = True
    with pytest.raises(OSError, match="no such file"):
        features(["a"])
    assert features.is_failing
    encoder.is_broken = False
    features(["a"])
    assert not features.is_failing
    encoder.is_broken = True
    with pytest.raises(RuntimeError):
        features(["b"])
    assert features.is_failing
