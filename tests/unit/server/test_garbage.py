"""The collector of cycles under the server's rule."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from headwater_server import garbage


class Knot:
    """Holds itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_old_objects_are_not_looked_at_by_themselves() -> None:
    """However much comes to life, no full collection starts; the young are collected as ever."""
    garbage.take_over()
    full = gc.get_stats()[2]["collections"]
    knot = weakref.ref(Knot())
    alive = [[number] for number in range(500_000)]
    assert gc.get_stats()[2]["collections"] == full
    assert knot() is None
    assert len(alive) == 500_000


async def test_full_collections_go_on_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle that grew old is freed by the next full collection."""
    monkeypatch.setattr(garbage, "_REST_S", 0.0)
    monkeypatch.setattr(garbage, "_REST_PER_COST", 0)
    garbage.take_over()
    old = Knot()
    freed = asyncio.Event()
    weakref.finalize(old, freed.set)
    gc.collect(1)
    gc.collect(1)
    del old
    task = asyncio.create_task(garbage.collect_seldom())
    await freed.wait()
    task.cancel()
