"""How alike items are by what they say of themselves."""

from __future__ import annotations

import numpy as np
import pytest

from headwater_core.catalogue import Item
from headwater_server.likeness import likeness

VECTORS = np.array([[1, 0], [0.6, 0.8]], np.float32)


def item(item_id: str, *categories: str) -> Item:
    return Item(item_id=item_id, categories=categories)


def test_categories_and_texts_count_the_same() -> None:
    """The mean of a Jaccard index of 1/3 and a cosine of 0.8; the items' vectors are not looked at."""
    texts = {"a": np.array([1, 0, 0], np.float32), "b": np.array([0.8, 0.6, 0], np.float32)}
    alike = likeness([item("a", "Drama", "War"), item("b", "War", "Comedy")], texts, VECTORS)
    assert alike[0, 1] == alike[1, 0] == pytest.approx((1 / 3 + 0.8) / 2)
    assert np.diag(alike) == pytest.approx(1.0)


def test_only_what_both_have_counts() -> None:
    """An item without a text is compared by categories, one without categories by text."""
    one_text = {"a": np.array([1, 0], np.float32)}
    assert likeness([item("a", "War"), item("b", "War", "Comedy")], one_text, VECTORS)[0, 1] == pytest.approx(0.5)
    texts = {**one_text, "b": np.array([0, 1], np.float32)}
    assert likeness([item("a", "War"), item("b")], texts, VECTORS)[0, 1] == pytest.approx(0.0)


def test_without_descriptions_vectors_say_it() -> None:
    """Items without category or text, and those that have just been deleted, are as alike as their vectors."""
    assert likeness([item("a"), None], {}, VECTORS)[0, 1] == pytest.approx(0.6)
    empty = {"a": np.zeros(3, np.float32), "b": np.zeros(3, np.float32)}
    assert likeness([item("a"), item("b")], empty, VECTORS)[0, 1] == pytest.approx(0.6)


def test_nothing_to_compare() -> None:
    """No items, no likenesses."""
    assert likeness([], {}, np.zeros((0, 2), np.float32)).shape == (0, 0)
