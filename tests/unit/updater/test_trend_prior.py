"""What was popular at each target's time, as training sees it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headwater_core.co_visits import Blend
from headwater_core.losses import Prior, full_softmax_loss, sampled_softmax_loss
from headwater_updater.trend_prior import TrendPrior, choose_prior

N_ITEMS = 200
BLEND = Blend(trend_strength=1.0, trend_half_life=100, trend_sharpness=1e5)


def short_lived(n: int, life: int) -> np.ndarray:
    """A log on which every item lives for so many events, ten at a time."""
    rng = np.random.default_rng(0)
    return (np.arange(n) // life * 10 + rng.integers(0, 10, n)) % N_ITEMS + 1


def test_a_prior_knows_nothing_of_its_own_time_or_later() -> None:
    """Whatever happens from a moment on, the prior of that moment is the same."""
    rows, times_us = short_lived(2000, 50), np.arange(2000) // 2
    other = rows.copy()
    other[1000:] = N_ITEMS
    asked, candidates = np.array([0, 250, 499, 500]), np.arange(1, N_ITEMS + 1)
    found = [TrendPrior(each, times_us, N_ITEMS, BLEND).at(asked, candidates) for each in (rows, other)]
    for values, which in found:
        assert torch.equal(values[which], found[0].values[found[0].which])
        assert not values[which][0].any()
        assert values[which][3].any()


def test_a_prior_names_what_lives_then() -> None:
    """At any moment the ten items of the stretch before it have the most; candidates keep their places."""
    rows, times_us = short_lived(4000, 200), np.arange(4000)
    values, which = TrendPrior(rows, times_us, N_ITEMS, BLEND).at(np.array([1999, 3999]), np.arange(1, N_ITEMS + 1))
    for place, start in ((0, 1800), (1, 3800)):
        top = values[which][place].topk(10).indices.numpy() + 1
        assert set(top) == set(np.unique(rows[start : start + 150]))
    some = np.array([rows[1950], rows[1950] + 60])
    few, which = TrendPrior(rows, times_us, N_ITEMS, BLEND).at(np.array([1999]), np.sort(some))
    assert few[which].argmax() == int(np.sort(some).argmin())


def test_only_a_catalogue_that_turns_over_is_learned_beside_the_trend() -> None:
    """Where what is popular stays what it is, the trend says no more than popularity does."""
    chosen = choose_prior(short_lived(6000, 200), np.arange(6000), N_ITEMS)
    assert chosen is not None
    assert chosen.trend_half_life == 100
    lasting = np.random.default_rng(0).zipf(1.5, 6000) % N_ITEMS + 1
    assert choose_prior(lasting, np.arange(6000), N_ITEMS) is None


def test_what_is_popular_at_the_target_s_own_time_is_no_reason() -> None:
    """Items that live a day, in a log whose times are days: what is known before a day says nothing of its items."""
    assert choose_prior(short_lived(6000, 200), np.arange(6000) // 200, N_ITEMS) is None


@pytest.mark.parametrize("rows", [[], [3], [3, 3]])
def test_a_log_of_hardly_anything_has_no_prior(rows: list[int]) -> None:
    """Nothing to choose by is no reason to fail."""
    assert choose_prior(np.array(rows, np.int64), np.arange(len(rows)), N_ITEMS) is None


def test_a_prior_is_added_to_the_logits_of_either_softmax() -> None:
    """The loss, and its gradient, are those of logits plus prior; the prior itself is not learned."""
    torch.manual_seed(0)
    interests, items = torch.randn(5, 1, 8), torch.randn(12, 8)
    targets, weights = torch.tensor([0, 3, 3, 7, 11]), torch.ones(5)
    values, which = torch.randn(2, 12), torch.tensor([0, 1, 1, 0, 1])
    dense = (interests @ items.T).squeeze(1) + values[which]
    wanted = torch.nn.functional.cross_entropy(dense, targets)
    found = full_softmax_loss(interests, items, targets, weights, None, Prior(values, which))
    assert float(found) == pytest.approx(float(wanted), rel=2e-2)  # products may be in bfloat16
    left_out = targets.unsqueeze(1) == torch.arange(12)
    sampled = sampled_softmax_loss(
        interests,
        items[targets],
        items,
        left_out,
        torch.zeros(12),
        weights,
        (values[which, targets], values[which]),
    )
    assert float(sampled) == pytest.approx(float(wanted), rel=1e-5)
