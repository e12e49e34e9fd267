"""How alike items are to somebody who looks at them: by their categories and by their texts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from headwater_core.catalogue import Item
from headwater_core.shards import Vectors

Likeness = npt.NDArray[np.float32]


def likeness(items: Sequence[Item | None], texts: Mapping[str, Vectors], vectors: Vectors) -> Likeness:
    """How alike n items are in pairs, at most 1.

    The mean of the categories' Jaccard index and the texts' cosine, or that of the two which both items have; where
    they share neither kind of description, the cosine of their vectors.

    Args:
        items: n of them, None for one that the catalogue does not have.
        texts: the features (F,) of those that have a text, by item id.
        vectors: the items' vectors, shape (n, d).

    Returns:
        (n, n), symmetric.
    """
    by_category, have_categories = _by_category([item.categories if item else () for item in items])
    by_text, have_texts = _by_text([texts.get(item.item_id) if item else None for item in items])
    kinds = have_categories.astype(np.float32) + have_texts
    described = (by_category * have_categories + by_text * have_texts) / np.maximum(kinds, 1.0)
    alike: Likeness = np.where(kinds > 0, described, _cosines(vectors))
    return alike


def _by_category(categories: Sequence[Sequence[str]]) -> tuple[Likeness, npt.NDArray[np.bool_]]:
    """(n, n) Jaccard indices, and where both have categories."""
    column_of = {name: column for column, name in enumerate(sorted({name for each in categories for name in each}))}
    has = np.zeros((len(categories), len(column_of)), np.float32)
    for row, names in enumerate(categories):
        has[row, [column_of[name] for name in names]] = 1.0
    shared, counts = has @ has.T, has.sum(1)
    union = counts[:, None] + counts - shared
    return shared / np.maximum(union, 1.0), (counts[:, None] > 0) & (counts > 0)


def _by_text(texts: Sequence[Vectors | None]) -> tuple[Likeness, npt.NDArray[np.bool_]]:
    """(n, n) cosines, and where both have texts."""
    dimension = next((len(text) for text in texts if text is not None), 1)
    features = np.zeros((len(texts), dimension), np.float32)
    for row, text in enumerate(texts):
        if text is not None:
            features[row] = text
    has: npt.NDArray[np.bool_] = np.any(features != 0.0, axis=1)
    return _cosines(features), has[:, None] & has


def _cosines(vectors: Vectors) -> Likeness:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines: Likeness = unit @ unit.T
    return cosines
