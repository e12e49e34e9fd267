"""What the user tower made of histories, remembered so that it reads on from there: bounded, least recently used."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from headwater_core.events import HistoryEvent
from headwater_server.user_states import UserState


class Memory(NamedTuple):
    """Of the first events of a history, as long as it begins so."""

    first_position: int
    last_position: int
    n_read: int
    keys_values: Tensor
    """As `reading_on.read_on` gives them."""

    @classmethod
    def of(cls, history: Sequence[HistoryEvent], keys_values: Tensor) -> Memory:
        """Of a whole history that was read. Args: history: stored events alone, oldest first; not empty."""
        return cls(history[0].position, history[-1].position, len(history), keys_values)

    def begins(self, history: Sequence[HistoryEvent]) -> bool:
        """Whether a history is what was read and more: nothing came in between, and nothing fell off."""
        return (
            len(history) > self.n_read
            and history[0].position == self.first_position
            and history[self.n_read - 1].position == self.last_position
        )


class ReadingMemory:
    """Memories by user state and generation. For the event loop."""

    def __init__(self, capacity_bytes: int) -> None:
        """Args: capacity_bytes: of all keys and values together."""
        self._capacity = capacity_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[int, int], tuple[weakref.ref[UserState], Memory]] = OrderedDict()

    def of(self, state: UserState, generation: int) -> Memory | None:
        """What is remembered of a state's history in a generation."""
        key = id(state), generation
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[1]

    def put(self, state: UserState, generation: int, memory: Memory) -> None:
        """Remember for as long as the state is there; what was not asked for the longest goes."""
        key = id(state), generation
        self._discard(key)
        self._kept[key] = weakref.ref(state, lambda _: self._discard(key)), memory
        self._bytes += memory.keys_values.nbytes
        while self._bytes > self._capacity:
            self._discard(next(iter(self._kept)))

    def _discard(self, key: tuple[int, int]) -> None:
        if (gone := self._kept.pop(key, None)) is not None:
            self._bytes -= gone[1].keys_values.nbytes
