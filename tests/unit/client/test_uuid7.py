"""UUIDv7."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122

from headwater_client import uuid7
from headwater_client._uuid7 import Uuid7Source, make_uuid7


def test_the_parts_are_where_rfc_9562_wants_them() -> None:
    """Time, version, variant, counter and tail lie in their bits."""
    made = make_uuid7(0x017F22E279B0, 0b101010101010 << 30 | 0x3ABCDEF0, 0x12345678)
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.int >> 80 == 0x017F22E279B0
    assert made.int >> 64 & 0xFFF == 0b101010101010
    assert made.int >> 32 & 0x3FFFFFFF == 0x3ABCDEF0
    assert made.int & 0xFFFFFFFF == 0x12345678


def test_ids_grow_while_the_clock_stands_still_or_goes_back() -> None:
    """Every id is greater than the one before, whatever the clock does."""
    clock = iter([5, 5, 5, 4, 1, 6])
    source = Uuid7Source(lambda: next(clock))
    made = [source() for _ in range(6)]
    assert made == sorted(made) and len(set(made)) == 6


def test_a_full_counter_moves_to_the_next_millisecond() -> None:
    """When a millisecond has no number left, the next one is borrowed."""
    source = Uuid7Source(lambda: 5)
    first = source()
    source._counter = (1 << 42) - 1
    assert source() > first and source().int >> 80 == 6


def test_threads_never_get_the_same_id() -> None:
    """The process's source is safe in threads."""
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: uuid7(), range(2_000)))
    assert len(set(made)) == 2_000
