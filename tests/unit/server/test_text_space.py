"""The texts' space finds what a plain search over all features finds, whatever came and went."""

from __future__ import annotations

import numpy as np
import pytest

from headwater_server import text_space
from headwater_server.text_space import TextSpace

F = 24


def features(rng: np.random.Generator, count: int) -> np.ndarray:
    drawn = rng.normal(size=(count, F))
    found: np.ndarray = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
    return found


def everything(_: str) -> bool:
    return True


def test_an_empty_space_finds_nothing() -> None:
    """With and without an index."""
    query = np.ones(F, np.float32)
    assert TextSpace(F).nearest(query, 5, everything) == []
    assert TextSpace(F).rebuilt().nearest(query, 5, everything) == []
    assert TextSpace(F).without(["unknown"]).item_count == 0


@pytest.mark.parametrize("rebuilds", [False, True], ids=["beside", "rebuilt"])
def test_it_agrees_with_a_search_of_all(rebuilds: bool) -> None:
    """After random changes and deletions, under a filter; the space before a change stays as it was."""
    rng = np.random.default_rng(0)
    space, truth = TextSpace(F), dict[str, np.ndarray]()
    for step in range(40):
        ids = [f"item-{number}" for number in rng.choice(200, 20, replace=False)]
        changed = features(rng, len(ids))
        before, kept = space, dict(truth)
        if step % 3 == 2:
            space = space.without(ids)
            for item_id in ids:
                truth.pop(item_id, None)
        else:
            space = space.with_texts(ids, changed)
            truth.update(zip(ids, changed, strict=True))
        if rebuilds and step % 4 == 3:
            space = space.rebuilt()
        query = features(rng, 1)[0].astype(np.float32)
        for which, expected in ((space, truth), (before, kept)):
            assert which.item_count == len(expected)
            scores = {item_id: float(theirs.astype(np.float32) @ query) for item_id, theirs in expected.items()}
            best = sorted(scores, key=lambda item_id: -scores[item_id])
            assert which.nearest(query, 10, everything) == best[:10]
            odd = [item_id for item_id in best if int(item_id.split("-")[1]) % 7 == 3]
            assert which.nearest(query, 10, lambda item_id: int(item_id.split("-")[1]) % 7 == 3) == odd[:10]


def test_it_asks_to_be_rebuilt_when_much_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a stated number of texts, or more than an eighth of the index."""
    monkeypatch.setattr(text_space, "MAX_CHANGED", 10)
    rng = np.random.default_rng(1)
    space = TextSpace(F).with_texts([str(number) for number in range(10)], features(rng, 10))
    assert not space.is_full
    space = space.with_texts(["more"], features(rng, 1))
    assert space.is_full
    space = space.with_texts([str(number) for number in range(160)], features(rng, 160)).rebuilt()
    assert (space.is_full, space.item_count) == (False, 161)
    assert not space.with_texts([str(number) for number in range(20)], features(rng, 20)).is_full
    assert space.with_texts([str(number) for number in range(21)], features(rng, 21)).is_full
