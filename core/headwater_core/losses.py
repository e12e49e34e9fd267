"""What the towers are trained on: the next item, its value, and the type of the event.

Letters in shapes: P targets, N candidate items, M sampled negatives, K interests, d = dimension.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 the name every reader of PyTorch code expects

_CHUNK_ELEMENTS = 4_000_000
"""Logits held at a time (16 MB): what bounds the memory of the full softmax, however many targets there are."""

_ROWS = 128
"""Products have a multiple of so many rows. oneDNN compiles and keeps a kernel for each shape that it meets: with any
number of rows it kept gigabytes, and compiling took half of the time."""


class Offsets(NamedTuple):
    """What is added to some candidates' logits; the others' stay as they are. One of minus infinity leaves it out."""

    places: Tensor
    """(P, S) int64, which candidates; one that is named twice has the same value twice."""
    values: Tensor
    """(P, S) float32; never minus infinity for the target itself."""


class Prior(NamedTuple):
    """What is known beforehand of each target's candidates: added to their logits, not learned."""

    values: Tensor
    """(U, N) float32, at U different moments."""
    which: Tensor
    """(P,) int64, each target's moment."""


class _FullSoftmax(torch.autograd.Function):
    """Mean cross-entropy over all candidates, chunk by chunk, with the gradient made on the way forward.

    Autograd would keep every chunk's (P, K, N) logits until the backward pass. Here each chunk's are turned into its
    share of the gradient at once, in buffers that are used again, so memory does not grow with P.
    """

    @staticmethod
    def forward(
        ctx: Any,
        interests: Tensor,
        items: Tensor,
        targets: Tensor,
        weights: Tensor,
        offsets: Offsets | None,
        prior: Prior | None,
    ) -> Tensor:
        p, k, d = interests.shape
        n = items.shape[0]
        # Several interests need exact logits: rounded ones tie, and a tie has two best interests.
        kind = torch.bfloat16 if k == 1 and has_fast_bfloat16() else interests.dtype
        total_weight = weights.sum().clamp_min(1e-12)
        interests_gradient = torch.empty_like(interests)
        items_gradient = torch.zeros_like(items)
        chunk = max(1, min(_padded(p), _CHUNK_ELEMENTS // (n * k)))
        buffer, best_buffer = items.new_empty(chunk * k, n, dtype=kind), items.new_empty(chunk, n)
        item_factors = items.to(kind)  # (N, d)
        loss = items.new_zeros(())
        for start in range(0, p, chunk):
            stop = min(start + chunk, p)
            c = stop - start
            rows = torch.arange(c)
            flat = interests.new_zeros(min(_padded(c), chunk) * k, d, dtype=kind)
            flat[: c * k] = interests[start:stop].reshape(c * k, d)
            logits = torch.mm(flat, item_factors.T, out=buffer[: len(flat)])[: c * k].view(c, k, n)
            best = best_buffer[:c]  # (c, N), in full precision
            if k > 1:
                torch.amax(logits, dim=1, out=best)
                chosen = logits >= best.unsqueeze(1)  # (c, K, N)
            else:
                best.copy_(logits.squeeze(1))
            if prior is not None:
                best += prior.values[prior.which[start:stop]]
            if offsets is not None:
                places = offsets.places[start:stop]
                best.scatter_(1, places, best.gather(1, places) + offsets.values[start:stop])
            top = best.amax(1, keepdim=True)
            target_logit = best[rows, targets[start:stop]]
            probability = best.sub_(top).exp_()
            mass = probability.sum(1)
            weight = weights[start:stop] / total_weight
            loss += (((top.squeeze(1) - target_logit) + mass.log()) * weight).sum()
            probability.mul_((weight / mass).unsqueeze(1))
            probability[rows, targets[start:stop]] -= weight
            if k > 1:
                torch.mul(chosen, probability.unsqueeze(1), out=logits)
            else:
                buffer[:c] = probability
            gradient = buffer[: len(flat)]  # (c·K, N), and zeros for the padding
            interests_gradient[start:stop] = torch.mm(gradient, item_factors)[: c * k].view(c, k, d)
            items_gradient += torch.mm(gradient.T, flat)
        ctx.save_for_backward(interests_gradient, items_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        interests_gradient, items_gradient = ctx.saved_tensors
        return interests_gradient * gradients[0], items_gradient * gradients[0], None, None, None, None


def _padded(rows: int) -> int:
    return -(-rows // _ROWS) * _ROWS


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware, about three times as fast as float32 ones."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def full_softmax_loss(
    interests: Tensor,
    items: Tensor,
    targets: Tensor,
    weights: Tensor,
    offsets: Offsets | None = None,
    prior: Prior | None = None,
) -> Tensor:
    """Cross-entropy of the next item over all candidates; a candidate's logit is its best interest's.

    With one interest, products are in bfloat16 where the CPU has it; exponentials and sums are float32 always.

    Args:
        interests: (P, K, d), one set for each target.
        items: (N, d), the candidates' vectors.
        targets: (P,) int64, which candidate each target is.
        weights: (P,), how much each target counts; the loss is the weighted mean.
        offsets: what is added to some logits before the softmax; it is not learned.
        prior: what is added to all of them; it is not learned either.
    """
    arguments = (interests, items, targets, weights, offsets, prior)
    loss: Tensor = _FullSoftmax.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss


def sampled_softmax_loss(
    interests: Tensor,
    target_vectors: Tensor,
    negative_vectors: Tensor,
    is_left_out: Tensor,
    negative_log_counts: Tensor,
    weights: Tensor,
    priors: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The same with M sampled negatives, shared by all targets, in place of all candidates.

    The logQ correction makes the sampled sum an estimate of the full one: a negative's term is divided by how often
    it is expected among the M draws. The target's own term is exact, so it takes no correction, and draws that hit it
    are left out.

    Args:
        interests: (P, K, d).
        target_vectors: (P, d).
        negative_vectors: (M, d).
        is_left_out: (P, M) bool, where a negative is the target itself or no candidate for this user.
        negative_log_counts: (M,), log of the expected number of draws of each negative.
        weights: (P,).
        priors: (P,) and (P, M), added to the targets' logits and to the negatives'; not learned.
    """
    target_logits = torch.einsum("pkd,pd->pk", interests, target_vectors).amax(1)  # (P,)
    negative_logits = (interests @ negative_vectors.T).amax(1) - negative_log_counts  # (P, M)
    if priors is not None:
        target_logits, negative_logits = target_logits + priors[0], negative_logits + priors[1]
    negative_logits = negative_logits.masked_fill(is_left_out, -torch.inf)
    logits = torch.cat([target_logits.unsqueeze(1), negative_logits], dim=1)  # (P, 1 + M)
    losses = torch.logsumexp(logits, dim=1) - target_logits
    return (losses * weights).sum() / weights.sum().clamp_min(1e-12)


def value_loss(predicted: Tensor, value: Tensor) -> Tensor:
    """Mean squared error over the targets that carry a value. (P,), (P,) with NaN = none; 0 when none does."""
    has_value = ~torch.isnan(value)
    error = torch.where(has_value, predicted - torch.nan_to_num(value), 0.0)
    return error.square().sum() / has_value.sum().clamp_min(1)


def type_loss(positive_logits: Tensor, type_index: Tensor, reference_logits: Tensor, exposure: int) -> Tensor:
    """Binary cross-entropy of each event type, for a stated reference exposure.

    Without impressions nobody knows what was shown. The probabilities are therefore relative to a reference: each
    target was shown among `exposure` items drawn by popularity, and only the target got an event. Fewer may be drawn
    than stated; they then count for all of them.

    Args:
        positive_logits: (P, n_types), of the targets.
        type_index: (P,) int64, the type of each target's event.
        reference_logits: (P, R, n_types), of R items drawn by popularity for each target.
        exposure: how many drawn items each target stands among, 99 for "1 to 99".
    """
    labels = F.one_hot(type_index, positive_logits.shape[1]).to(positive_logits.dtype)
    positive = F.binary_cross_entropy_with_logits(positive_logits, labels, reduction="none").sum(-1).mean()
    reference = F.softplus(reference_logits).sum(-1).mean()  # every label is 0
    return (positive + exposure * reference) / (1 + exposure)
