"""The losses, against their plain definitions."""

from __future__ import annotations

import math

import pytest
import torch

from headwater_core import losses
from headwater_core.losses import Offsets, full_softmax_loss, sampled_softmax_loss, type_loss, value_loss


def plain(
    interests: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    added: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """The full softmax as one would write it without regard to memory; `added` to the logits, (P, N)."""
    logits = (interests @ items.T).amax(1) + added
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No product is rounded to bfloat16, whatever the CPU can do."""
    monkeypatch.setattr(losses, "has_fast_bfloat16", lambda: False)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("n_interests", [1, 3])
@pytest.mark.parametrize("chunk_elements", [1, 100, 10**6])
def test_full_softmax_is_the_plain_one(monkeypatch: pytest.MonkeyPatch, n_interests: int, chunk_elements: int) -> None:
    """Loss and gradients are those of the plain definition, whatever the size of the chunks."""
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", chunk_elements)
    torch.manual_seed(0)
    interests = torch.randn(17, n_interests, 8, dtype=torch.float64, requires_grad=True)
    items = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 23, (17,)), torch.rand(17, dtype=torch.float64)
    expected = torch.autograd.grad(2 * plain(interests, items, targets, weights), [interests, items])
    loss = full_softmax_loss(interests, items, targets, weights)
    torch.testing.assert_close(loss, plain(interests, items, targets, weights))
    for found, wanted in zip(torch.autograd.grad(2 * loss, [interests, items]), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("n_interests", [1, 3])
@pytest.mark.parametrize("chunk_elements", [1, 100, 10**6])
def test_offsets_are_added_to_the_logits(
    monkeypatch: pytest.MonkeyPatch, n_interests: int, chunk_elements: int
) -> None:
    """What is named more than once is offset once, and minus infinity is as if the candidate were not there."""
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", chunk_elements)
    torch.manual_seed(0)
    interests = torch.randn(17, n_interests, 8, dtype=torch.float64, requires_grad=True)
    items = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 23, (17,)), torch.rand(17, dtype=torch.float64)
    added = torch.randn(17, 23).masked_fill(torch.rand(17, 23) < 0.3, -torch.inf)
    added[torch.arange(17), targets] = torch.randn(17)
    places = torch.randint(0, 23, (17, 12))
    places[:, 6:] = places[:, :6]
    named = torch.zeros(17, 23).scatter_(1, places, added.gather(1, places))
    assert torch.isinf(named).any()
    expected = torch.autograd.grad(plain(interests, items, targets, weights, named), [interests, items])
    loss = full_softmax_loss(interests, items, targets, weights, Offsets(places, added.gather(1, places)))
    torch.testing.assert_close(loss, plain(interests, items, targets, weights, named))
    for found, wanted in zip(torch.autograd.grad(loss, [interests, items]), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_bfloat16_products_stay_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one interest they move the loss by less than a thousandth and the gradients by less than a hundredth."""
    torch.manual_seed(0)
    interests, items = torch.randn(200, 1, 64) / 4, torch.randn(500, 64) / 4
    targets, weights = torch.randint(0, 500, (200,)), torch.rand(200)
    found: list[tuple[torch.Tensor, tuple[torch.Tensor, ...]]] = []
    for is_fast in (False, True):
        monkeypatch.setattr(losses, "has_fast_bfloat16", lambda is_fast=is_fast: is_fast)
        leaves = interests.clone().requires_grad_(), items.clone().requires_grad_()
        loss = full_softmax_loss(*leaves, targets, weights)
        found.append((loss.detach(), torch.autograd.grad(loss, leaves)))
    (exact_loss, exact_gradients), (loss, gradients) = found
    assert float(loss) == pytest.approx(float(exact_loss), rel=1e-3)
    for rounded, wanted in zip(gradients, exact_gradients, strict=True):
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, wanted)
        assert float((rounded - wanted).norm()) < 0.01 * float(wanted.norm())


def test_several_interests_are_never_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which interest is the best must not be decided by rounding."""
    torch.manual_seed(0)
    interests, items = torch.randn(20, 2, 16), torch.randn(30, 16)
    targets, weights = torch.randint(0, 30, (20,)), torch.rand(20)
    found = []
    for is_fast in (False, True):
        monkeypatch.setattr(losses, "has_fast_bfloat16", lambda is_fast=is_fast: is_fast)
        found.append(full_softmax_loss(interests, items, targets, weights))
    assert torch.equal(*found)


def test_full_softmax_stands_large_logits() -> None:
    """Logits in the thousands neither overflow nor give NaN."""
    loss = full_softmax_loss(torch.full((1, 1, 2), 1e3), torch.eye(2), torch.tensor([0]), torch.ones(1))
    assert float(loss) == pytest.approx(math.log(2))


def test_sampled_softmax_estimates_the_full_one() -> None:
    """With the logQ correction, many unevenly drawn negatives give the full softmax's loss."""
    torch.manual_seed(0)
    interests, items = torch.randn(50, 2, 4), torch.randn(30, 4)
    targets, weights = torch.randint(0, 30, (50,)), torch.rand(50)
    odds = torch.rand(30) + 0.1
    odds /= odds.sum()
    negatives = torch.multinomial(odds, 50_000, replacement=True)
    loss = sampled_softmax_loss(
        interests,
        items[targets],
        items[negatives],
        targets.unsqueeze(1) == negatives,
        (odds[negatives] * len(negatives)).log(),
        weights,
    )
    assert float(loss) == pytest.approx(float(plain(interests, items, targets, weights)), abs=0.01)


def test_value_loss_is_over_given_values_only() -> None:
    """Targets without a value neither count nor get a gradient; without any the loss is 0."""
    predicted = torch.tensor([1.0, 5.0, 2.0], requires_grad=True)
    loss = value_loss(predicted, torch.tensor([0.0, math.nan, 4.0]))
    assert float(loss.detach()) == pytest.approx((1 + 4) / 2)
    assert torch.autograd.grad(loss, predicted)[0].tolist() == [1.0, 0.0, -2.0]
    assert float(value_loss(predicted, torch.full((3,), math.nan)).detach()) == 0.0


def test_type_loss_is_least_at_the_stated_odds() -> None:
    """Where targets and reference items cannot be told apart, the best answer is one in `exposure` + 1."""
    logit = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=50)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = type_loss(logit.expand(5, 2), torch.ones(5, dtype=torch.int64), logit.expand(5, 3, 2), exposure=99)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert float(logit[1].detach().sigmoid()) == pytest.approx(0.01, rel=1e-2)
    assert float(logit[0].detach().sigmoid()) < 1e-3
