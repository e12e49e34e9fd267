"""Several rankings become one by reciprocal ranks."""

from __future__ import annotations

import pytest

from headwater_server.fusion import K, Ranking, fuse


def test_a_score_is_the_sum_of_reciprocal_ranks() -> None:
    """What two sources name comes before what one of them names first."""
    fused = fuse({"text": Ranking(["a", "b"]), "vector": Ranking(["c", "b"])})
    assert [(item.item_id, item.sources) for item in fused] == [
        ("b", ("text", "vector")),
        ("a", ("text",)),
        ("c", ("vector",)),
    ]
    assert fused[0].score == pytest.approx(2 / (K + 2))
    assert fused[1].score == pytest.approx(1 / (K + 1))


def test_weights_count() -> None:
    """Half the weight at the first place is less than the whole of it at the last."""
    fused = fuse({"text": Ranking(["a"], 0.5), "vector": Ranking(["b", "c", "d"])})
    assert [item.item_id for item in fused] == ["b", "c", "d", "a"]
    assert fused[-1].score == pytest.approx(0.5 / (K + 1))


def test_nothing_gives_nothing() -> None:
    """Neither no rankings nor empty ones."""
    assert fuse({}) == fuse({"text": Ranking([])}) == []
