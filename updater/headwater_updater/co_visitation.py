"""Where id embeddings start: items that are visited together lie together before the first gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headwater_core.histories import TokenSequence

_REACH = 5
_ITERATIONS = 3


def co_visitation_vectors(sequences: Sequence[TokenSequence], n_rows: int, dimension: int) -> Tensor:
    """Vectors whose inner products approximate how much more often two items follow each other than by chance.

    A truncated factorisation of the positive pointwise mutual information, which is what word2vec's skip-gram factors
    implicitly (Levy & Goldberg 2014). Costs seconds where gradients need epochs.

    Args:
        sequences: histories; row 0 in them is no item.
        n_rows: of the id table, row 0 included.
        dimension: of the vectors.

    Returns:
        (n_rows, dimension); mean square 1 over the rows of items that have neighbours, 0 elsewhere. The random part
        of the factorisation draws from torch's random state.
    """
    strengths = _pairs(sequences, n_rows)
    found = torch.zeros(n_rows, dimension)
    if not strengths.values().numel():
        return found
    index, value = strengths.indices(), strengths.values()
    totals = torch.zeros(n_rows).index_add_(0, index[0], value)  # (n_rows,); symmetric, so of columns too
    information = (value * totals.sum() / (totals[index[0]] * totals[index[1]])).log()
    kept = information > 0
    matrix = torch.sparse_coo_tensor(
        index[:, kept], information[kept], (n_rows, n_rows), is_coalesced=True, check_invariants=False
    )
    rank = min(dimension, n_rows)
    left, scale, _ = torch.svd_lowrank(matrix, q=rank, niter=_ITERATIONS)
    found[:, :rank] = left * scale.sqrt()
    used = found.abs().sum(1) > 0
    return found / found[used].square().mean().sqrt().clamp_min(1e-9)


def _pairs(sequences: Sequence[TokenSequence], n_rows: int) -> Tensor:
    """(n_rows, n_rows) sparse: for each two different items, the sum of 1 / distance over their meetings."""
    firsts, seconds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    weights = [np.empty(0, np.float32)]
    for sequence in sequences:
        rows = sequence.item_rows[sequence.item_rows > 0]
        for distance in range(1, min(_REACH, len(rows) - 1) + 1):
            firsts.append(rows[:-distance])
            seconds.append(rows[distance:])
            weights.append(np.full(len(rows) - distance, 1 / distance, np.float32))
    first, second, weight = np.concatenate(firsts), np.concatenate(seconds), np.concatenate(weights)
    other = first != second
    first, second, weight = first[other], second[other], weight[other]
    index = torch.from_numpy(np.stack([np.concatenate([first, second]), np.concatenate([second, first])]))
    value = torch.from_numpy(np.concatenate([weight, weight]))
    return torch.sparse_coo_tensor(index, value, (n_rows, n_rows), check_invariants=False).coalesce()
