"""A new generation takes over only when it is ready; one that fails leaves the old one serving."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from headwater_core.artifact_store import ArtifactStore
from headwater_core.database import Database
from headwater_core.errors import ArtifactError, DatabaseUnavailableError
from headwater_core.manifest import FileEntry
from headwater_core.registry import GenerationRecord, GenerationRegistry
from headwater_server import reload
from headwater_server.errors import LoadingError, NotReadyError
from headwater_server.metrics import ServerMetrics
from headwater_server.reload import Failure, Generations
from headwater_server.serving_generation import ServingGeneration
from headwater_server.statuses import refusal

DEADLINE_S = 20
Until = Callable[[Callable[[], bool]], Awaitable[None]]


class Loaded:
    """Stands for a loaded generation: what reload itself reads of one."""

    class _Items:
        item_count = 0

    class _Manifest:
        watermark = 0
        files: ClassVar[dict[str, FileEntry]] = {}

    items = _Items()
    manifest = _Manifest()

    def __init__(self, number: int) -> None:
        self.number = number


class World:
    """Real labels, and generations whose loading and warming up can be made to fail."""

    def __init__(self, folder: Path) -> None:
        database = Database(f"sqlite:///{folder / 'test.db'}")
        database.migrate()
        self.registry = GenerationRegistry(database)
        self.store = ArtifactStore(str(folder / "artifacts"))
        self.load_error: dict[int, Exception] = {}
        self.prepare_error: dict[int, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.loads: list[int] = []
        self.prepared: list[int] = []
        self.announced: list[tuple[set[int], int | None, int]] = []
        """What was loaded, what was to be loaded, and how many loads had begun."""
        self.is_away = False
        self.metrics = ServerMetrics()
        self.generations = Generations(
            self.store,
            self.registry,
            lambda texts: np.zeros((len(texts), 1), dtype=np.float32),
            self.metrics,
            run_in_database=self._in_database,
            run_in_loader=self._in_loader,
            announce=self._announce,
            prepare=self._prepare,
        )

    async def _in_database(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if self.is_away and getattr(call, "__self__", None) is self.registry:
            raise DatabaseUnavailableError("away")
        return call(*arguments)

    async def _in_loader(self, call: Callable[..., Any], argument: Any) -> Any:
        if call in (self.store.trim_cache, self.store.read_label):
            return call(argument)
        return await self._load(argument)

    async def _announce(self) -> None:
        if self.is_away:
            raise DatabaseUnavailableError("away")
        self.announced.append((self.loaded, self.generations.loading, len(self.loads)))

    async def _load(self, number: int) -> ServingGeneration:
        self.loads.append(number)
        await self.gate.wait()
        if number in self.load_error:
            raise self.load_error[number]
        return cast(ServingGeneration, Loaded(number))

    async def _prepare(self, generation: ServingGeneration) -> None:
        if generation.number in self.prepare_error:
            raise self.prepare_error[generation.number]
        self.prepared.append(generation.number)

    def publish(self, number: int, label: str = "stable") -> None:
        self.registry.record(GenerationRecord(number, 0, True, 1, 0, 0, 0, 4, 0))
        self.registry.set_label(label, number)

    async def refresh(self, *, impatient: bool = False) -> None:
        await asyncio.wait_for(self.generations.refresh(impatient=impatient), DEADLINE_S)

    @property
    def serving(self) -> int:
        return self.generations.stable.number if self.generations.stable is not None else 0

    @property
    def loaded(self) -> set[int]:
        return {generation.number for generation in self.generations.loaded}


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_slow_store_is_told_of_while_it_is_waited_for(
    world: World, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old generation serves, the reason is shown; when the files come after all the new one serves."""
    monkeypatch.setattr(reload, "SLOW_S", 0.01)
    world.publish(1)
    await world.refresh()
    world.publish(2)
    world.gate.clear()
    loading = asyncio.create_task(world.generations.refresh())
    await until(lambda: 2 in world.generations.failures)
    assert "slow or hangs" in world.generations.failures[2].reason
    assert (world.serving, world.generations.loading) == (1, 2)
    assert world.metrics.registry.get_sample_value("headwater_generation_load_failures_total") == 1
    world.gate.set()
    await asyncio.wait_for(loading, DEADLINE_S)
    assert (world.serving, world.generations.failures) == (2, {})


async def test_before_the_first_generation_nothing_serves(world: World) -> None:
    """And it is said what to do about it."""
    await world.refresh()
    assert (world.serving, world.loads) == (0, [])
    with pytest.raises(NotReadyError, match="bootstrap"):
        world.generations.by_label("stable")
    with pytest.raises(NotReadyError, match="canary"):
        world.generations.by_label("canary")
    with pytest.raises(NotReadyError, match="7"):
        world.generations.by_number(7)


async def test_a_generation_is_loaded_once_and_serves_when_prepared(world: World) -> None:
    """Looking again loads nothing; the label's number is in the metrics."""
    world.publish(1)
    await world.refresh()
    await world.refresh()
    assert (world.serving, world.loads, world.prepared) == (1, [1], [1])
    assert world.generations.labels_of(1) == ["stable"]
    assert world.metrics.registry.get_sample_value("headwater_generation", {"label": "stable"}) == 1


async def test_the_old_one_serves_while_the_new_one_loads(world: World, until: Until) -> None:
    """The swap comes when all is done, and is told to those who wait for it."""
    world.publish(1)
    await world.refresh()
    world.publish(2)
    world.gate.clear()
    loading = asyncio.create_task(world.generations.refresh())
    await until(lambda: world.loads == [1, 2])
    assert (world.serving, world.generations.loading) == (1, 2)

    async def next_swap() -> int:
        async with world.generations.changed:
            await world.generations.changed.wait()
        return world.serving

    told = asyncio.create_task(next_swap())
    await asyncio.sleep(0)
    world.gate.set()
    await asyncio.wait_for(loading, DEADLINE_S)
    assert await asyncio.wait_for(told, DEADLINE_S) == 2
    assert world.generations.loading is None


@pytest.mark.parametrize(
    ("stage", "error", "level"),
    [
        ("load_error", ArtifactError("read", "x", "is missing"), "error"),
        ("prepare_error", DatabaseUnavailableError("away"), "warning"),
        ("prepare_error", ValueError("cannot be warmed up"), "error"),
    ],
    ids=["its files", "the database", "a bug"],
)
async def test_a_generation_that_fails_leaves_the_old_one(
    world: World, stage: str, error: Exception, level: str
) -> None:
    """At whatever stage; the reason is kept, and no later look takes the half-ready one for ready.

    A database that is away is no fault of the generation's, and passes by itself: a warning.
    """
    world.publish(1)
    await world.refresh()
    world.publish(2)
    getattr(world, stage)[2] = error
    with capture_logs() as logged:
        for _ in range(3):
            await world.refresh()
            assert (world.serving, world.loaded) == (1, {1})
    assert [line["log_level"] for line in logged if line["event"] == "generation_not_loaded"] == [level]
    assert str(error) in world.generations.failures[2].reason
    assert world.loads == [1, 2]


async def test_a_failed_generation_is_tried_again_after_growing_pauses(world: World) -> None:
    """Or at once by who is impatient; success ends the failure."""
    world.publish(1)
    await world.refresh()
    world.publish(2)
    world.load_error[2] = ArtifactError("read", "x", "is missing")
    pauses: list[float] = []
    before = 0.0
    for attempt in range(1, 4):
        await world.refresh(impatient=True)
        failure = world.generations.failures[2]
        assert failure.attempts == attempt
        pauses.append(failure.retry_at_s - before)
        before = failure.retry_at_s
    assert pauses[1] < pauses[2]
    await world.refresh()
    assert len(world.loads) == 4
    assert world.metrics.registry.get_sample_value("headwater_generation_load_failures_total") == 3
    world.load_error.clear()
    await world.refresh(impatient=True)
    assert (world.serving, world.generations.failures) == (2, {})


@pytest.mark.parametrize(
    ("error", "most_s", "serves"),
    [
        (ArtifactError("read", "x", "the store answers 503"), 5.0, False),
        (DatabaseUnavailableError("away"), 1.0, False),
        (DatabaseUnavailableError("away"), 1.0, True),
    ],
    ids=["nothing serves", "nothing serves, and the database is away", "the database is away"],
)
async def test_the_pause_stays_short_where_it_would_cost_answers(
    world: World, error: Exception, most_s: float, serves: bool
) -> None:
    """An outage may have been long, and its end must not be waited out."""
    if serves:
        world.publish(1)
        await world.refresh()
    world.publish(2)
    world.prepare_error[2] = error
    for _ in range(8):
        await world.refresh(impatient=True)
    assert world.generations.failures[2].retry_at_s <= time.monotonic() + most_s


async def test_what_is_published_and_not_loaded_yet_is_said_to_come(world: World, until: Until) -> None:
    """UNAVAILABLE, which clients try again, there or elsewhere; not that somebody must train something."""
    world.publish(1)
    world.gate.clear()
    loading = asyncio.create_task(world.generations.refresh())
    await until(lambda: world.loads == [1])
    with pytest.raises(LoadingError, match="published"):
        world.generations.by_label("stable")
    world.load_error[1] = ArtifactError("read", "x", "is missing")
    world.gate.set()
    await asyncio.wait_for(loading, DEADLINE_S)
    with pytest.raises(LoadingError, match="published") as caught:
        world.generations.serving(None)
    assert refusal(caught.value).code is grpc.StatusCode.UNAVAILABLE


async def test_a_generation_may_fail_for_months(world: World) -> None:
    """The pause stops growing, whatever the number of attempts."""
    world.publish(1)
    world.load_error[1] = ArtifactError("read", "x", "is missing")
    world.generations.failures[1] = Failure("is missing", 5_000, 0.0)
    await world.refresh()
    assert world.generations.failures[1].attempts == 5_001


async def test_what_is_about_to_load_is_announced_first(world: World) -> None:
    """So that the updater deletes no file of it meanwhile."""
    world.publish(1)
    await world.refresh()
    world.publish(2)
    await world.refresh()
    assert world.announced == [(set(), 1, 0), ({1}, 2, 1)]


async def test_local_copies_are_trimmed_after_a_swap(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the files of what is loaded, once per change; when that fails the swap counts all the same."""
    trims: list[list[FileEntry]] = []

    def trim_cache(entries: list[FileEntry]) -> int:
        trims.append(entries)
        if len(trims) == 2:
            raise OSError("no permission")
        return 0

    monkeypatch.setattr(world.store, "trim_cache", trim_cache)
    entry = FileEntry(sha256="0" * 64, bytes=1)
    monkeypatch.setitem(Loaded._Manifest.files, "user_tower.safetensors", entry)
    for number in (1, 2, 3):
        world.publish(number)
        await world.refresh()
        await world.refresh()
    assert trims == [[entry], [entry] * 2, [entry] * 2]
    assert world.serving == 3


async def test_another_generation_ends_the_failure_of_the_one_before(world: World) -> None:
    """What no label names any more is not reported."""
    world.publish(1)
    world.load_error[1] = ArtifactError("read", "x", "is missing")
    await world.refresh()
    world.publish(2)
    await world.refresh()
    assert (world.serving, world.generations.failures) == (2, {})


async def test_a_caller_who_leaves_during_the_loading_breaks_nothing(world: World, until: Until) -> None:
    """The half-loaded generation is forgotten, and the next look loads it."""
    world.publish(1)
    world.gate.clear()
    asking = asyncio.create_task(world.generations.refresh(impatient=True))
    await until(lambda: world.loads == [1])
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (world.serving, world.loaded, world.generations.loading) == (0, set(), None)
    world.gate.set()
    await world.refresh()
    assert (world.serving, world.prepared) == (1, [1])


async def test_the_one_before_is_kept_and_older_ones_are_let_go(world: World) -> None:
    """A page that began on the one before can be continued; memory of older ones is freed."""
    world.publish(1)
    await world.refresh()
    first = weakref.ref(world.generations.by_number(1))
    for number in (2, 3):
        world.publish(number)
        await world.refresh()
    assert world.loaded == {2, 3}
    gc.collect()
    assert first() is None


async def test_every_label_is_served_and_a_failing_one_does_not_hold_the_others(world: World) -> None:
    """`stable` comes first."""
    world.publish(1, "canary")
    world.publish(2, "stable")
    world.load_error[1] = ArtifactError("read", "x", "is missing")
    await world.refresh()
    assert (world.serving, world.loads) == (2, [2, 1])
    world.load_error.clear()
    await world.refresh(impatient=True)
    assert world.generations.by_label("canary").number == 1


async def test_without_the_database_the_store_tells_the_label(world: World) -> None:
    """At a start; a server that serves already goes on with what it has."""
    world.publish(1)
    world.store.mirror_label("stable", 1)
    world.is_away = True
    await world.refresh()
    assert world.serving == 1
    world.store.mirror_label("stable", 2)
    await world.refresh()
    assert world.serving == 1
