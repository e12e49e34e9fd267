"""A poisoned stream does not get through: the gate or cleaning refuse it, and honest events are learned on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headwater_updater import held_out
from headwater_updater.gate import GATE, CandidateRefusedError
from headwater_updater.held_out import is_held_out
from headwater_updater.metrics import UpdaterMetrics
from headwater_updater.session import TrainingSession
from headwater_updater.status import read_status
from tests.integration.updater_world import N_ITEMS, World, make_world
from tests.integration.walkers import N_WALKERS, Walkers, walker


@pytest.fixture
def walkers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walkers]:
    """Every third is held out, for the sake of a small test."""
    monkeypatch.setattr(held_out, "FOLDS", 3)
    world = make_world(tmp_path, dimension=16, bootstrap_epochs=12)
    world.items(*range(N_ITEMS))
    walkers = Walkers(world)
    walkers.walk(25)
    world.bootstrap()
    yield walkers
    world.resources.close()


def learn_and_publish(world: World) -> tuple[bool, UpdaterMetrics]:
    """A process that learns what there is; whether its candidate was published."""
    metrics = UpdaterMetrics()
    session = TrainingSession.resume(world.resources, world.settings, metrics)
    assert session is not None
    while session.learn():
        pass
    try:
        with world.lead() as leadership:
            session.publish(leadership.lease)
    except CandidateRefusedError:
        return False, metrics
    return True, metrics


def assert_as_good_as_before(world: World) -> None:
    """Old targets of held-out walkers rank as they did, by the gate's measure."""
    metrics = world.manifest.metrics
    assert metrics["gate_old_log_rank_rise"] <= max(0.1, metrics["gate_old_margin"])


def test_honest_events_pass(walkers: Walkers) -> None:
    """Round after round; the manifest says how sure that is."""
    for _ in range(5):
        walkers.walk(2)
        assert learn_and_publish(walkers.world)[0]
    metrics = walkers.world.manifest.metrics
    assert metrics["gate_new_targets"] > 100
    assert metrics["gate_new_log_rank_rise"] < 0.1
    assert metrics["gate_new_margin"] >= 0


def test_shuffled_labels_do_not_get_through(walkers: Walkers) -> None:
    """Refused, kept aside with the reason, counted; learning goes on from the last good state without them."""
    # Many steps a round: what is wrong is learned fast, too.
    hasty = walkers.world.settings.model_copy(update={"steps_per_round": 20})
    world = walkers.world = replace(walkers.world, settings=hasty)
    walkers.walk(2)
    learn_and_publish(world)
    good = world.stable
    refused = 0
    for _ in range(40):
        if refused == 2:
            break
        walkers.walk(3, lie=True)
        passed, metrics = learn_and_publish(world)
        if not passed:
            refused += 1
            assert metrics.refused._value.get() == 1
            aside = world.resources.registry.last_allocated()
            assert "held-out targets ranks fell" in world.resources.store.read_manifest(aside).refusal
    assert refused == 2, "so much of it cannot be harmless"
    assert world.stable >= good
    assert read_status(world.resources.database, "default", 0).rejections[GATE] > 0
    # What was kept aside is passed over; the honest rest is learned and published.
    calm = walkers.world.settings.model_copy(update={"steps_per_round": 1})
    world = walkers.world = replace(walkers.world, settings=calm)
    walkers.walk(2)
    assert learn_and_publish(world)[0]
    assert world.manifest.watermark == walkers.written
    assert_as_good_as_before(world)


def test_an_account_that_writes_half_of_all_events_is_a_robot(walkers: Walkers) -> None:
    """At a rate that no person reaches: most of it is refused as repeats or a robot's, and the rest harms nobody."""
    world = walkers.world
    walkers.walk(1)
    rng = np.random.default_rng(1)
    clicks = [("robot", f"item-{rng.integers(N_ITEMS)}") for _ in range(1000)]
    walkers.write(clicks, spread_us=50_000)
    assert learn_and_publish(world)[0]
    rejections = read_status(world.resources.database, "default", 0).rejections
    assert rejections["robot"] + rejections["burst"] > 400
    assert sum(rejections.values()) > 850
    assert_as_good_as_before(world)


def test_a_flood_of_one_item_moves_few_answers(walkers: Walkers) -> None:
    """One account that clicks one item again and again counts for little of what trends."""
    world = walkers.world
    walkers.walk(1)
    walkers.write([("flooder", "item-7")] * 1000, spread_us=50_000)
    assert learn_and_publish(world)[0]
    assert sum(read_status(world.resources.database, "default", 0).rejections.values()) > 800


def test_no_held_out_account_decides_alone(walkers: Walkers) -> None:
    """Of all that one of them does in a round a few targets enter the window that candidates are judged on."""
    number = next(number for number in range(N_WALKERS) if is_held_out(walker(number)))
    walkers.minute += 1
    ahead = [(int(walkers.at[number]) + n) % N_ITEMS for n in range(12)]  # on none of them yet
    walkers.write([(walker(number).id, f"item-{item}") for item in ahead], spread_us=20_000_000)
    learned = next(walker(number).id for number in range(N_WALKERS) if not is_held_out(walker(number)))
    walkers.write([(learned, "item-1")])
    assert learn_and_publish(walkers.world)[0]
    assert walkers.world.manifest.metrics["gate_new_targets"] == 5
