"""Gives freed memory back to the operating system."""

from __future__ import annotations

import ctypes

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """Return the free pages of glibc's heap, which keeps them between blocks that live on; elsewhere, do nothing.

    Rounds and publications take and free arrays of all sizes: without this a process keeps a fifth more than it needs,
    and more by the hour.
    """
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
