"""What the item tower reads: text features and the caller's vector side by side."""

from __future__ import annotations

import numpy as np
import pytest

from headwater_core.catalogue import MAX_FLOAT32
from headwater_core.item_features import Vector, fits, join

TEXTS = np.array([[0.5, -0.25], [0.0, 0.0]], np.float16)


def test_vectors_follow_the_text_features_at_unit_length() -> None:
    """Whatever their scale; an item without one has zeros there."""
    joined = join(TEXTS, [(3.0, 0.0, -4.0), None], 3)
    assert joined.dtype == np.float16
    np.testing.assert_allclose(joined, [[0.5, -0.25, 0.6, 0.0, -0.8], [0.0] * 5], rtol=1e-3)


@pytest.mark.parametrize("scale", [1e-45, 1e-20, 1.0, MAX_FLOAT32])
def test_the_scale_of_a_vector_does_not_matter(scale: float) -> None:
    """The smallest and the largest float32 have a direction, too."""
    joined = join(TEXTS[:1], [np.array([scale, scale], np.float32)], 2)
    np.testing.assert_allclose(joined[0, 2:], [0.5**0.5] * 2, rtol=1e-3)


@pytest.mark.parametrize("vector", [None, (), (1.0,), (1.0, 2.0, 3.0), (0.0, -0.0)])
def test_what_says_nothing_reads_as_zeros(vector: Vector | None) -> None:
    """No vector, one of another length than the model's, or one without a direction."""
    assert not fits(vector, 2)
    assert join(TEXTS[:1], [vector], 2).tolist() == [[0.5, -0.25, 0.0, 0.0]]


def test_a_model_without_vectors_reads_the_text_alone() -> None:
    """Its features are as long as the text's."""
    assert not fits((1.0, 2.0), 0)
    assert not fits((), 0)
    np.testing.assert_array_equal(join(TEXTS, [(1.0, 2.0), None], 0), TEXTS)
    assert join(TEXTS[:0], [], 3).shape == (0, 5)
