"""What the database forgets with time, and how gently."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from headwater_core.catalogue import Item
from headwater_core.database import advance
from headwater_core.events import Event
from headwater_core.features import FeatureStore
from headwater_core.impressions import Impression
from headwater_core.outcomes import OFFSET
from headwater_core.registry import GenerationRecord
from headwater_core.schema import label_history
from headwater_updater import pruning
from headwater_updater.pruning import Pruner
from headwater_updater.resources import Resources
from headwater_updater.settings import UpdaterSettings

DAY_US = 86_400 * 1_000_000
HOUR_US = 3_600 * 1_000_000
NOW_US = 20_000 * DAY_US


class NoEncoder:
    """Nothing here has a text."""

    id = "none/none"
    dimension = 2

    def encode(self, texts: object) -> np.ndarray:
        raise AssertionError(texts)


@pytest.fixture
def settings(tmp_path: Path) -> UpdaterSettings:
    return UpdaterSettings(database_url=f"sqlite:///{tmp_path}/headwater.db", store_url=str(tmp_path / "artifacts"))


@pytest.fixture
def resources(settings: UpdaterSettings) -> Iterator[Resources]:
    resources = Resources.open(settings, NoEncoder())
    yield resources
    resources.close()


def write(resources: Resources, count: int, age_days: float) -> None:
    """Events and impressions that are so old."""
    at = NOW_US - round(age_days * DAY_US)
    names = [f"{age_days}-{n}" for n in range(count)]
    resources.log.append([Event(name, "click", user_id="u", item_id="a") for name in names], at)
    resources.impressions.append([Impression(name, None, time_us=at) for name in names])


def ids_known(resources: Resources, count: int, age_days: float) -> int:
    """How many of the events sent again are known for duplicates; what is not is written anew."""
    names = [f"{age_days}-{n}" for n in range(count)]
    head = resources.log.head()
    resources.log.append([Event(name, "click", user_id="u", item_id="a") for name in names], NOW_US)
    return count - (resources.log.head() - head)


def test_what_is_past_its_time_goes(resources: Resources, settings: UpdaterSettings) -> None:
    """Ids after 30 days, impressions after 90, by default; the events themselves stay."""
    for age_days in (29.9, 30.1, 89.9, 90.1):
        write(resources, 1, age_days)
    Pruner(resources, settings).step(NOW_US)
    assert len(resources.log.read_after(0, 10)) == 4
    assert [ids_known(resources, 1, age_days) for age_days in (29.9, 30.1, 89.9, 90.1)] == [1, 0, 0, 0]
    assert resources.impressions.count() == 3


def test_much_goes_in_chunks_and_little_once_an_hour(
    resources: Resources, settings: UpdaterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step deletes one chunk of a table, the next ones the rest; then there is an hour's peace."""
    monkeypatch.setattr(pruning, "CHUNK_ROWS", 3)
    pruner = Pruner(resources, settings)
    write(resources, 5, 100.0)
    left = []
    for _ in range(2):
        pruner.step(NOW_US)
        left.append(resources.impressions.count())
    write(resources, 1, 101.0)
    pruner.step(NOW_US + HOUR_US - 1)
    left.append(resources.impressions.count())
    pruner.step(NOW_US + HOUR_US)
    left.append(resources.impressions.count())
    assert left == [2, 0, 1, 0]


def test_events_go_when_that_is_wanted(resources: Resources, settings: UpdaterSettings) -> None:
    """Those that are past their time and that generations and attribution have read; by default none."""
    for age_days in (7.1, 6.9):
        write(resources, 2, age_days)
    resources.registry.record(GenerationRecord(1, 0, True, NOW_US, 4, 0, 0, 8, 0))
    with resources.database.write() as connection:
        advance(connection, settings.tenant, OFFSET, 4)
    Pruner(resources, settings).step(NOW_US)
    assert len(resources.log.read_after(0, 10)) == 4
    Pruner(resources, settings.model_copy(update={"event_retention_days": 7})).step(NOW_US)
    assert [each.position for each in resources.log.read_after(0, 10)] == [3, 4]


def test_what_nobody_names_goes(resources: Resources, settings: UpdaterSettings) -> None:
    """Features of texts that no item has any more, daily, and the label's history of forgotten generations, hourly."""
    features = FeatureStore(resources.database, settings.tenant)
    resources.catalogue.upsert([Item("a", "new text")], None, NOW_US)
    keys = [hashlib.sha256(text.encode()).digest() for text in ("old text", "new text")]
    pruner = Pruner(resources, settings)

    def forgotten(number: int) -> None:
        features.put("x/mean", {key: np.ones(2, np.float16) for key in keys})
        for each in (number, number + 1):
            resources.registry.record(GenerationRecord(each, 0, True, NOW_US, 4, 0, 0, 8, 0))
            resources.registry.set_label("stable", each)
        resources.registry.delete([number])

    def step(now_us: int) -> tuple[int, int]:
        """How many texts' features and steps of the history are left."""
        for _ in range(3):
            pruner.step(now_us)
        with resources.database.read() as connection:
            steps = connection.execute(select(func.count()).select_from(label_history)).scalar_one()
        return len(features.get("x/mean", keys)), steps

    forgotten(1)
    assert step(NOW_US) == (1, 1)
    forgotten(3)
    assert step(NOW_US + HOUR_US - 1) == (2, 3)
    assert step(NOW_US + HOUR_US) == (2, 2)
    assert step(NOW_US + DAY_US) == (1, 2)
