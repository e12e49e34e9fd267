"""What was learned before and is learned again, so that today's events do not wash yesterday's away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from headwater_core.errors import ArtifactError
from headwater_core.events import Subject, SubjectKind
from headwater_updater.checkpoint import metadata

_METADATA = "replay"


class ReplayRef(NamedTuple):
    """Points at a learned event; the event itself stays in the log, so erasing it there is enough."""

    subject: Subject
    position: int


class ReplayBuffer:
    """A bounded choice of learned events: the latest ones, and an even sample of all before them.

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
        self._recent: list[ReplayRef] = []
        self._next = 0  # where the ring is overwritten next, once it is full
        self._reservoir: list[ReplayRef] = []
        self._offered = 0  # events that have left the ring so far

    def __len__(self) -> int:
        """How many events are kept."""
        return len(self._recent) + len(self._reservoir)

    def add(self, refs: Iterable[ReplayRef]) -> None:
        """Keep events that have just been learned, oldest first."""
        ring = self._capacity // 2
        for ref in refs:
            if len(self._recent) < ring:
                self._recent.append(ref)
                continue
            self._offer(self._recent[self._next])
            self._recent[self._next] = ref
            self._next = (self._next + 1) % ring

    def _offer(self, ref: ReplayRef) -> None:
        self._offered += 1
        if len(self._reservoir) < self._capacity - self._capacity // 2:
            self._reservoir.append(ref)
            return
        place = int(self._rng.integers(self._offered))
        if place < len(self._reservoir):
            self._reservoir[place] = ref

    def sample(self, n: int, up_to_position: int | None = None) -> list[ReplayRef]:
        """Draw up to n different events, half of them recent ones where there are as many.

        Args:
            n: how many.
            up_to_position: only events at or before this position of the log. Default: all.
        """
        recent, old = (
            [ref for ref in part if up_to_position is None or ref.position <= up_to_position]
            for part in (self._recent, self._reservoir)
        )
        n_old = min(len(old), max(n // 2, n - len(recent)))
        n_recent = min(len(recent), n - n_old)
        return self._draw(recent, n_recent) + self._draw(old, n_old)

    def _draw(self, refs: Sequence[ReplayRef], n: int) -> list[ReplayRef]:
        return [refs[index] for index in self._rng.choice(len(refs), n, replace=False)] if n else []

    def subjects(self) -> set[Subject]:
        """Whose events are kept."""
        return {ref.subject for ref in (*self._recent, *self._reservoir)}

    def forget(self, subjects: Iterable[Subject]) -> None:
        """Drop every event of subjects that were erased."""
        gone = set(subjects)
        in_order = self._recent[self._next :] + self._recent[: self._next]  # the ring, oldest first
        self._recent = [ref for ref in in_order if ref.subject not in gone]
        self._next = 0
        self._reservoir = [ref for ref in self._reservoir if ref.subject not in gone]

    def state(self) -> bytes:
        """Everything, as one safetensors file."""
        refs = self._recent + self._reservoir
        ids = [ref.subject.id.encode() for ref in refs]
        tensors: dict[str, np.ndarray] = {
            "position": np.array([ref.position for ref in refs], np.int64),
            "is_visitor": np.array([ref.subject.kind is SubjectKind.VISITOR for ref in refs], np.uint8),
            "subject_id": np.frombuffer(b"".join(ids), np.uint8),
            "subject_id_bytes": np.array([len(part) for part in ids], np.int64),
        }
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
            tensors = safetensors.numpy.load(source)
            buffer = cls(int(content["capacity"]))
            refs = _refs(tensors)
            n_recent = int(content["n_recent"])
            buffer._recent, buffer._reservoir = refs[:n_recent], refs[n_recent:]
            buffer._next, buffer._offered = int(content["next"]), int(content["offered"])
            buffer._rng.bit_generator.state = content["rng"]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError("load replay buffer", "<bytes>", f"{type(error).__name__}: {error}") from error
        return buffer


def _refs(tensors: dict[str, np.ndarray]) -> list[ReplayRef]:
    blob = tensors["subject_id"].tobytes()
    ends = np.cumsum(tensors["subject_id_bytes"])
    starts = ends - tensors["subject_id_bytes"]
    kinds = [SubjectKind.VISITOR if is_visitor else SubjectKind.USER for is_visitor in tensors["is_visitor"]]
    return [
        ReplayRef(Subject(kind, blob[start:end].decode()), int(position))
        for kind, start, end, position in zip(kinds, starts, ends, tensors["position"], strict=True)
    ]
