"""The text space follows the catalogue, whoever stores features and whenever the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from headwater_core.catalogue import Item, ItemChange
from headwater_core.errors import DatabaseUnavailableError
from headwater_server import text_keeper, text_space
from headwater_server.catalogue_view import CatalogueView
from headwater_server.fresh import Features
from headwater_server.text_keeper import TextKeeper
from headwater_server.text_space import TextSpace

F = 8


class Store:
    """Stored features, by hash; it may be away, or hold its answers back."""

    def __init__(self) -> None:
        self.features: dict[bytes, np.ndarray] = {}
        self.is_away = False
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def put(self, item: Item) -> None:
        rng = np.random.default_rng(list(item.text_hash()))
        features = rng.normal(size=F)
        self.features[item.text_hash()] = (features / np.linalg.norm(features)).astype(np.float16)

    async def get(self, encoder: str, hashes: Sequence[bytes]) -> Features:
        assert encoder == "encoder"
        self.reads += 1
        found = {key: self.features[key] for key in hashes if key in self.features}
        await self.gate.wait()
        if self.is_away:
            raise DatabaseUnavailableError("away")
        return found


async def at_once(call: Callable[[], TextSpace]) -> TextSpace:
    return call()


class World:
    """A catalogue view, a store of features and the keeper between them."""

    def __init__(self) -> None:
        self.view, self.store = CatalogueView(), Store()
        run: Callable[..., Awaitable[TextSpace]] = at_once
        self.keeper = TextKeeper(self.view, self.store.get, run)
        self._revision = 0

    def change(self, item_id: str, item: Item | None) -> ItemChange:
        self._revision += 1
        change = ItemChange(self._revision, item_id, item)
        self.view.apply(change)
        return change

    async def write(self, *items: Item) -> None:
        await self.keeper.take([self.change(item.item_id, item) for item in items])

    def found(self, item: Item) -> bool:
        """Whether the item is found by exactly this text: before another that is nearly the same."""
        assert self.keeper.space is not None
        features = self.store.features[item.text_hash()]
        nearly = features + np.float16(0.1)
        space = self.keeper.space.with_texts(["nearly"], (nearly / np.linalg.norm(nearly))[None, :])
        return space.nearest(features.astype(np.float32), 1, lambda _: True) == [item.item_id]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(text_keeper, "_READ_AT_ONCE", 3)
    monkeypatch.setattr(text_keeper, "_RETRY_S", 0.0)
    monkeypatch.setattr(text_space, "MAX_CHANGED", 4)
    return World()


ITEMS = [Item(f"item-{number}", f"title {number}") for number in range(10)]


async def test_what_is_stored_is_read_at_the_start(world: World) -> None:
    """In several readings, through an index; texts without features wait, items without a text do not."""
    for item in ITEMS[:8]:
        world.store.put(item)
    await world.write(*ITEMS, Item("silent"))
    assert world.keeper.space is None
    await world.keeper.start("encoder", F)
    assert world.keeper.space is not None
    assert world.keeper.space.item_count == 8
    assert all(world.found(item) for item in ITEMS[:8])
    for item in ITEMS[8:]:
        world.store.put(item)
    await world.keeper.retry()
    assert all(world.found(item) for item in ITEMS)
    reads = world.store.reads
    await world.keeper.retry()
    assert world.store.reads == reads


async def test_changes_are_followed(world: World) -> None:
    """A changed text has the new place or none, never the old one; what is deleted has none."""
    await world.keeper.start("encoder", F)
    world.store.put(ITEMS[0])
    await world.write(ITEMS[0])
    assert world.found(ITEMS[0])
    changed = Item("item-0", "another title")
    await world.write(changed)
    assert not world.found(ITEMS[0])
    world.store.put(changed)
    await world.keeper.place(["item-0", "unknown"])
    assert world.found(changed)
    await world.keeper.take([world.change("item-0", None)])
    assert not world.found(changed)


async def test_a_change_while_features_are_read_is_not_undone(world: World) -> None:
    """What was read belongs to a text that is gone."""
    await world.keeper.start("encoder", F)
    changed = Item("item-0", "another title")
    for item in (ITEMS[0], changed):
        world.store.put(item)
    world.store.gate.clear()
    first = asyncio.create_task(world.write(ITEMS[0]))
    await asyncio.sleep(0)
    second = asyncio.create_task(world.write(changed))
    await asyncio.sleep(0)
    world.store.gate.set()
    await asyncio.gather(first, second)
    assert world.found(changed)
    assert not world.found(ITEMS[0])


async def test_a_database_that_is_away_delays_and_loses_nothing(world: World) -> None:
    """At the start, and with a change."""
    world.store.put(ITEMS[0])
    await world.write(ITEMS[0])
    world.store.is_away = True
    with pytest.raises(DatabaseUnavailableError):
        await world.keeper.start("encoder", F)
    assert world.keeper.space is None
    world.store.is_away = False
    await world.keeper.retry()
    assert world.found(ITEMS[0])
    world.store.is_away = True
    changed = Item("item-0", "another title")
    world.store.put(changed)
    with pytest.raises(DatabaseUnavailableError):
        await world.write(changed)
    world.store.is_away = False
    await world.keeper.retry()
    assert world.found(changed)
    assert not world.found(ITEMS[0])


async def test_it_asks_less_often_where_nothing_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may ever encode a text."""
    monkeypatch.setattr(text_keeper, "_RETRY_S", 60.0)
    await world.keeper.start("encoder", F)
    await world.write(ITEMS[0])
    await world.keeper.retry()
    reads = world.store.reads
    await world.keeper.retry()
    assert world.store.reads == reads
