"""What the item tower reads of an item: the features of its text, then the caller's own vector at unit length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = Sequence[float] | npt.NDArray[np.float32]


def fits(vector: Vector | None, vector_dimension: int) -> bool:
    """Whether an item's vector says something to a model that reads vectors of this length."""
    return vector is not None and len(vector) == vector_dimension and any(vector)


def join(
    text_features: npt.NDArray[np.float16], vectors: Sequence[Vector | None], vector_dimension: int
) -> npt.NDArray[np.float16]:
    """The features of items from both sources.

    Args:
        text_features: (n, text_dimension), 0 where there is no text.
        vectors: of the n items, of any scale; None and those of another length than the model's read as 0.
        vector_dimension: the model's; 0 reads none.

    Returns:
        (n, text_dimension + vector_dimension).
    """
    n, text_dimension = text_features.shape
    joined = np.zeros((n, text_dimension + vector_dimension), np.float16)
    joined[:, :text_dimension] = text_features
    for row, vector in zip(joined, vectors, strict=True):
        if vector is not None and fits(vector, vector_dimension):
            numbers = np.asarray(vector, np.float64)  # squares of large float32 numbers would overflow
            row[text_dimension:] = numbers / np.linalg.norm(numbers)
    return joined
