"""Reading a history on: events that the user tower has read before are not read again.

No position of the tower sees a later one, so what it made of an event stays as it is when more events come: its keys
and values are remembered, and only new events are read. The answer is the whole history's, to rounding, as long as no
event has fallen off its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from headwater_core.histories import HistoryTensors
from headwater_core.towers import EncoderBlock, UserTower


def read_on(
    tower: UserTower, new: HistoryTensors, item_vectors: Tensor, memories: Sequence[Tensor | None]
) -> tuple[Tensor, list[Tensor]]:
    """The interests at the end of each of B histories, and what to remember of each.

    Args:
        tower: one that does not read when it is asked.
        new: the events that were not read yet, at least one each, T of the longest; gaps count from the event before.
        item_vectors: (B, T, d), theirs.
        memories: of the events before, what this function gave for them; None: there are none.

    Returns:
        (B, K, d), and B memories: (L + 1, 2, H, events, hd), keys and values of each encoder layer and of the decoder.
    """
    known = torch.tensor([0 if memory is None else memory.shape[3] for memory in memories])  # (B,)
    b, t, _ = item_vectors.shape
    p = int(known.max())
    past = _padded(tower, memories, p)  # (L + 1, 2, B, H, P, hd)
    at = new.lengths - 1
    positions = (known.unsqueeze(1) + torch.arange(t)).clamp_max(tower.config.history_length - 1)  # (B, T)
    cosine, sine = tower.cosine[positions].unsqueeze(1), tower.sine[positions].unsqueeze(1)  # (B, 1, T, hd/2)
    is_known = (torch.arange(p) < known.unsqueeze(1)).unsqueeze(1).expand(b, t, p)
    is_before = torch.ones(t, t, dtype=torch.bool).tril().expand(b, t, t)
    mask = torch.cat([is_known, is_before], dim=2).unsqueeze(1)  # (B, 1, T, P + T)
    x = tower.tokens(new, item_vectors)
    found: list[Tensor] = []
    for layer, module in enumerate(tower.blocks):
        block = cast(EncoderBlock, module)
        query, key, value = block.projected(x, cosine, sine)
        both = torch.cat([past[layer], torch.stack([key, value])], dim=3)  # (2, B, H, P + T, hd)
        x = x + block.mixed(query, both[0], both[1], mask)
        x = x + block.feed_forward(block.feed_forward_norm(x))
        found.append(both)
    decoder = tower.decoder
    both = torch.cat([past[-1], torch.stack(decoder.projected(x, cosine, sine))], dim=3)
    found.append(both)
    each = torch.arange(b)
    last = x[each, at].unsqueeze(1)  # (B, 1, d)
    cosine, sine = (part[each, 0, at].view(b, 1, 1, 1, -1) for part in (cosine, sine))
    interests = decoder.answered(last, both[0], both[1], cosine, sine, mask[each, :, at].unsqueeze(2))
    joined = torch.stack(found)  # (L + 1, 2, B, H, P + T, hd)
    remembered = [
        torch.cat([joined[:, :, index, :, :before], joined[:, :, index, :, p : p + count]], dim=3)
        for index, (before, count) in enumerate(zip(known.tolist(), new.lengths.tolist(), strict=True))
    ]
    return interests.squeeze(1), remembered


def _padded(tower: UserTower, memories: Sequence[Tensor | None], p: int) -> Tensor:
    """The memories side by side, padded on the right: (L + 1, 2, B, H, P, hd)."""
    config = tower.config
    head = config.dimension // config.n_heads
    past = torch.zeros(config.n_layers + 1, 2, len(memories), config.n_heads, p, head)
    for index, memory in enumerate(memories):
        if memory is not None:
            past[:, :, index, :, : memory.shape[3]] = memory
    return past
