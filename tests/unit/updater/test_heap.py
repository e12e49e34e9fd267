"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import os

from proc import memory_mib

from headwater_updater import heap

N_BLOCKS = 400
BLOCK_BYTES, KEPT_BYTES = 100_000, 20_000  # below what malloc maps apart, so that they stay in the heap


def test_free_pages_between_blocks_that_live_on_are_given_back() -> None:
    """As a round leaves them: much freed, and something smaller after each that was not. Of glibc's heap alone."""
    blocks = [(bytearray(b"x" * BLOCK_BYTES), bytearray(b"x" * KEPT_BYTES)) for _ in range(N_BLOCKS)]
    kept = [small for _, small in blocks]
    del blocks
    before_mib = memory_mib(os.getpid())
    heap.give_back()
    given_back_mib = before_mib - memory_mib(os.getpid())
    assert given_back_mib > 20 or not hasattr(ctypes.CDLL(None), "malloc_trim")
    assert len(kept) == N_BLOCKS
