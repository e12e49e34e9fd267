"""What was published and turns out worse is taken back; a canary serves all once it has proved itself, or goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headwater_core.co_visits import Blend
from headwater_core.errors import ArtifactError, ConflictError, LeaseLostError
from headwater_core.events import HistoryEvent
from headwater_core.registry import CANARY, STABLE
from headwater_updater import release
from headwater_updater.blend_search import BlendSearch
from headwater_updater.examples import Example
from headwater_updater.gate import WATCH, CandidateRefusedError
from headwater_updater.learner import Learner
from headwater_updater.metrics import UpdaterMetrics
from headwater_updater.session import TrainingSession
from headwater_updater.status import read_status
from headwater_updater.watch import Watch
from tests.integration.updater_world import N_ITEMS, World, make_world
from tests.integration.walkers import Walkers

BLIND = {"gate_new_tolerance": 100.0, "gate_old_tolerance": 100.0}
"""A gate that lets everything pass: what is watched here is what comes after it."""


@pytest.fixture
def walkers(tmp_path: Path) -> Iterator[Walkers]:
    world = make_world(tmp_path, dimension=16, bootstrap_epochs=12, **BLIND)
    world.items(*range(N_ITEMS))
    walkers = Walkers(world)
    walkers.walk(20)
    world.bootstrap()
    yield walkers
    world.resources.close()


def set_up(walkers: Walkers, **settings: Any) -> World:
    walkers.world = replace(walkers.world, settings=walkers.world.settings.model_copy(update=settings))
    return walkers.world


def spoil(session: TrainingSession) -> None:
    """A bug, or a poison that the gate did not see: the towers forget everything, and co-visits count no more."""
    torch.manual_seed(0)
    for parameter in session._learner.user_tower.parameters():
        torch.nn.init.normal_(parameter)
    session._learner.blend = Blend()
    session._online.search = BlendSearch(Blend(), with_repeats=False)


def round_of(walkers: Walkers, *, spoilt: bool = False) -> tuple[str, UpdaterMetrics]:
    """Everybody takes a step, and a process learns it; how it ended."""
    walkers.walk(1)
    world, metrics = walkers.world, UpdaterMetrics()
    session = TrainingSession.resume(world.resources, world.settings, metrics)
    assert session is not None
    if spoilt:
        spoil(session)
    while session.learn():
        pass
    try:
        with world.lead() as leadership:
            session.publish(leadership.lease)
    except CandidateRefusedError as error:
        return str(error), metrics
    return "published", metrics


def rounds_until_it_ends(walkers: Walkers, *, spoilt: bool) -> tuple[str, UpdaterMetrics]:
    for _ in range(30):
        outcome, metrics = round_of(walkers, spoilt=spoilt)
        if outcome != "published":
            return outcome, metrics
    return "published", metrics


def test_what_turns_out_worse_is_taken_back_by_itself(walkers: Walkers) -> None:
    """`stable` names the generation it was compared with; what was learned since is on record and passed over."""
    world = walkers.world
    for _ in range(3):
        assert round_of(walkers)[0] == "published"
    reference = int(world.manifest.metrics["watch_reference"])
    outcome, metrics = rounds_until_it_ends(walkers, spoilt=True)
    assert f"beside {reference}" in outcome
    assert world.stable == reference
    assert world.resources.store.read_label(STABLE) == reference
    assert metrics.taken_back._value.get() == 1
    assert read_status(world.resources.database, "default", 0).rejections[WATCH] > 0
    # The next process goes on from there, and does not learn the same again.
    assert round_of(walkers)[0] == "published"
    assert world.manifest.parent == reference
    assert world.manifest.watermark == walkers.written
    # Nobody goes back to what was taken back, by hand or because files are damaged.
    registry = world.resources.registry
    assert registry.earlier(STABLE, 1) == [reference]
    assert registry.rollback(STABLE)[0] == reference


def test_honest_rounds_are_left_alone_and_say_how_much_would_be_told(walkers: Walkers) -> None:
    """Nothing is taken back; the manifest holds the comparison and the smallest fall that a watch would tell."""
    world = set_up(walkers, watch_targets=300)
    references = set()
    for _ in range(20):
        assert round_of(walkers)[0] == "published"
        references.add(world.manifest.metrics.get("watch_reference"))
        found = world.manifest.metrics
        assert 0 <= found.get("watch_smallest_fall", 0.0) < 1
    assert len(references - {None}) > 1, "after 300 targets what serves becomes the reference"
    assert WATCH not in read_status(world.resources.database, "default", 0).rejections


def test_watching_can_be_switched_off(walkers: Walkers) -> None:
    """No reference, no cost."""
    world = set_up(walkers, watch_targets=0)
    assert rounds_until_it_ends(walkers, spoilt=True)[0] == "published"
    assert "watch_reference" not in world.manifest.metrics


def labels(world: World) -> dict[str, int]:
    return world.resources.registry.labels()


def test_a_canary_serves_all_once_it_has_proved_no_worse(walkers: Walkers) -> None:
    """A full training is published beside `stable`, learns on as canary through restarts, and is promoted."""
    world = set_up(walkers, canary=True, canary_tolerance=0.5)
    before = world.stable
    world.bootstrap()
    assert labels(world) == {STABLE: before, CANARY: before + 1}
    for _ in range(30):
        outcome, metrics = round_of(walkers)
        assert outcome == "published"
        if CANARY not in labels(world):
            break
        assert labels(world)[STABLE] == before, "until then all others are served by what was"
    assert metrics.promoted._value.get() == 1
    assert world.stable > before + 1
    assert world.resources.store.read_label(STABLE) == world.stable
    assert round_of(walkers)[0] == "published"


def test_a_canary_that_is_worse_goes_and_stable_learns_on(walkers: Walkers) -> None:
    """The label is gone, nobody else ever saw it, and no event is held against anybody."""
    world = set_up(walkers, canary=True)
    before = world.stable
    world.bootstrap()
    outcome, _ = rounds_until_it_ends(walkers, spoilt=True)
    assert f"beside {before}" in outcome
    assert labels(world) == {STABLE: before}
    assert WATCH not in read_status(world.resources.database, "default", 0).rejections
    assert round_of(walkers)[0] == "published"
    assert world.manifest.parent == before
    assert world.manifest.watermark == walkers.written


def test_an_operator_has_the_last_word(walkers: Walkers) -> None:
    """Who moves `stable` ends the canary beside it; a canary label that an operator set is not touched."""
    world = set_up(walkers, canary=True)
    world.bootstrap()
    assert round_of(walkers)[0] == "published"
    canary = labels(world)[CANARY]
    world.resources.registry.set_label(STABLE, canary)
    assert round_of(walkers)[0] == "published"
    assert CANARY not in labels(world)
    assert world.manifest.parent == canary
    # Also one session that goes on notices: it ends, and the next one begins at what the operator chose.
    world.bootstrap()
    session = world.resume()
    world.resources.registry.set_label(STABLE, canary)
    walkers.walk(1)
    session.learn()
    with world.lead() as leadership, pytest.raises(ConflictError):
        session.publish(leadership.lease)
    assert round_of(walkers)[0] == "published"
    assert CANARY not in labels(world)
    world.resources.registry.set_label(CANARY, world.stable)
    mine = labels(world)[CANARY]
    assert round_of(walkers)[0] == "published"
    assert labels(world)[CANARY] == mine


def test_a_canary_outlives_a_store_that_is_away_and_ends_undecided(
    walkers: Walkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be loaded is tried again. After so many targets without an answer the canary goes."""
    world = set_up(walkers, canary=True, canary_tolerance=0.0)
    before = world.stable
    world.bootstrap()
    session = world.resume()
    load = session._load_reference

    def away(number: int) -> Learner:
        raise ArtifactError("read", str(number), "the store is away")

    walkers.walk(1)
    monkeypatch.setattr(session, "_load_reference", away)
    session.learn()
    assert session._state.watch.reference == before
    assert session._state.watch.test.n == 0
    monkeypatch.setattr(session, "_load_reference", load)
    walkers.walk(1)
    session.learn()
    assert session._state.watch.test.n > 0
    monkeypatch.setattr(release, "_MOST_TARGETS", 5)
    with world.lead() as leadership, pytest.raises(CandidateRefusedError, match="nothing is sure"):
        session.publish(leadership.lease)
    assert labels(world) == {STABLE: before}


def test_both_rank_the_same_items_whatever_happens_to_the_catalogue(walkers: Walkers) -> None:
    """A learner beside its own copy neither falls nor rises when items go and come back."""
    world = walkers.world
    one, other = (world.resume()._learner for _ in range(2))
    watch = Watch(0.05)
    watch.begin(1)
    events = [HistoryEvent(n, n, "click", f"item-{n % N_ITEMS}") for n in range(20)]
    other.remove_items([f"item-{n}" for n in range(20, 30)])
    for gone in ([], [30, 31, 32], [30]):
        one.restore_items()
        one.remove_items([f"item-{n}" for n in gone])
        for end in range(2, 20):
            watch.observe(one, [Example(events[:end], 1)], lambda _: other)
    assert watch.test.n == 3 * 18
    assert watch.test.fall == 0.0


def test_targets_of_one_round_are_on_different_items_of_different_users(walkers: Walkers) -> None:
    """Else what happens to one item would count as often as it is asked for."""
    learner = walkers.world.resume()._learner
    watch = Watch(0.05)
    watch.begin(1)
    events = [HistoryEvent(n, n, "click", f"item-{n}") for n in range(5)]
    watch.observe(learner, [Example(events, 3)] * 40, lambda _: learner)
    assert watch.test.n == 3


def test_who_lost_the_lease_takes_nothing_back_and_promotes_nothing(walkers: Walkers) -> None:
    """The labels move under the lease, or not at all."""
    world = set_up(walkers, canary=True, canary_tolerance=0.5)
    world.bootstrap()
    before = labels(world)
    lost = world.lead()
    with lost:
        pass
    with world.lead():
        walkers.walk(15)
        session = world.resume()
        while session.learn():
            pass
        session._state.watch.test.add([(0.1, 1.0)] * 500)
        assert session._state.watch.test.has_held
        with pytest.raises(LeaseLostError):
            session.publish(lost.lease)
    assert labels(world) == before
