"""What was learned before and is learned again, so that today's events do not wash yesterday's away."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from headwater_core.errors import ArtifactError
from headwater_updater.checkpoint import metadata

_METADATA = "replay"


class ReplayBuffer:
    """A bounded choice of learned events, by position: the latest ones, and an even sample of all before them.

    The events themselves stay in the log, and so does whose they are: erasing them there is enough.

    The recent half is a ring. What leaves it enters the reservoir, which keeps every event ever offered with the same
    probability (Vitter's algorithm R). A draw takes half from each, so the mix leans to the recent past without
    forgetting the old. Events must have been learned when they are added: nothing here lies in the future.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        """Args: capacity: how many events are kept, both halves together, at least 2; seed: of the draws."""
        if capacity < 2:
            raise ValueError(f"capacity is {capacity}; must be at least 2")
        self._capacity = capacity
        self._rng = np.random.default_rng(seed)
        self._recent: list[int] = []
        self._next = 0  # where the ring is overwritten next, once it is full
        self._reservoir: list[int] = []
        self._offered = 0  # events that have left the ring so far

    def __len__(self) -> int:
        """How many events are kept."""
        return len(self._recent) + len(self._reservoir)

    def add(self, positions: Iterable[int]) -> None:
        """Keep events that have just been learned, oldest first."""
        ring = self._capacity // 2
        for position in positions:
            if len(self._recent) < ring:
                self._recent.append(position)
                continue
            self._offer(self._recent[self._next])
            self._recent[self._next] = position
            self._next = (self._next + 1) % ring

    def _offer(self, position: int) -> None:
        before, n_kept = self._offered, len(self._reservoir)
        self._offered += 1
        if n_kept < self._capacity - self._capacity // 2:
            # Short again after it forgot: places for all would make the next events likelier than those passed over.
            if n_kept == before or self._rng.integers(before) < n_kept:
                self._reservoir.append(position)
            return
        place = int(self._rng.integers(self._offered))
        if place < len(self._reservoir):
            self._reservoir[place] = position

    def forget(self, positions: Collection[int]) -> None:
        """Keep events no more that the log has lost: what they would take of a draw goes to those that are there."""
        if not positions:
            return
        gone = set(positions)
        in_order = self._recent[self._next :] + self._recent[: self._next]
        self._recent, self._next = [each for each in in_order if each not in gone], 0
        kept = [each for each in self._reservoir if each not in gone]
        # As many of those that were not chosen are taken to be lost, too.
        self._offered = len(kept) and round(self._offered * len(kept) / len(self._reservoir))
        self._reservoir = kept

    def sample(self, n: int, up_to_position: int | None = None) -> list[int]:
        """Draw up to n different events, half of them recent ones where there are as many.

        Args:
            n: how many.
            up_to_position: only events at or before this position of the log. Default: all.
        """
        recent, old = (
            [position for position in part if up_to_position is None or position <= up_to_position]
            for part in (self._recent, self._reservoir)
        )
        n_old = min(len(old), max(n // 2, n - len(recent)))
        n_recent = min(len(recent), n - n_old)
        return self._draw(recent, n_recent) + self._draw(old, n_old)

    def _draw(self, positions: Sequence[int], n: int) -> list[int]:
        return [positions[index] for index in self._rng.choice(len(positions), n, replace=False)] if n else []

    def state(self) -> bytes:
        """Everything, as one safetensors file."""
        tensors = {"position": np.array(self._recent + self._reservoir, np.int64)}
        content = {
            "capacity": self._capacity,
            "n_recent": len(self._recent),
            "next": self._next,
            "offered": self._offered,
            "rng": self._rng.bit_generator.state,
        }
        return safetensors.numpy.save(tensors, {_METADATA: json.dumps(content, sort_keys=True)})

    @classmethod
    def load_state(cls, source: bytes) -> ReplayBuffer:
        """The buffer that `state` wrote; it draws on as if it had never stopped.

        Raises:
            ArtifactError: when the file is damaged.
        """
        try:
            content = metadata(source, _METADATA)
            positions = safetensors.numpy.load(source)["position"].tolist()
            buffer = cls(int(content["capacity"]))
            n_recent = int(content["n_recent"])
            buffer._recent, buffer._reservoir = positions[:n_recent], positions[n_recent:]
            buffer._next, buffer._offered = int(content["next"]), int(content["offered"])
            buffer._rng.bit_generator.state = content["rng"]
            buffer._check()
        except (SafetensorError, LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ArtifactError("load replay buffer", "<bytes>", f"{type(error).__name__}: {error}") from error
        return buffer

    def _check(self) -> None:
        ring = self._capacity // 2
        is_full = len(self._recent) == ring
        fits = len(self._recent) <= ring and len(self._reservoir) <= min(self._capacity - ring, self._offered)
        if not fits or not 0 <= self._next < (ring if is_full else 1):
            raise ValueError("its parts do not fit together")
