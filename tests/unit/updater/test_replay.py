"""The replay buffer: bounded, past only, leaning to the recent, naming nobody."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from headwater_core.errors import ArtifactError
from headwater_updater.checkpoint import metadata
from headwater_updater.replay import ReplayBuffer


def test_the_buffer_stays_within_its_capacity() -> None:
    """However much is added, no more than the capacity is kept, and each event at most once."""
    buffer = ReplayBuffer(20)
    for start in range(0, 1000, 30):
        buffer.add(range(start, start + 30))
        assert len(buffer) <= 20
    kept = buffer.sample(20)
    assert len(kept) == len(set(kept)) == 20


def test_half_a_draw_is_recent_and_half_is_old() -> None:
    """The latest events make up half of every draw, an even sample of all before them the other half."""
    buffer = ReplayBuffer(200)
    buffer.add(range(10_000))
    positions = buffer.sample(100)
    recent = [position for position in positions if position >= 9_900]
    old = [position for position in positions if position < 9_900]
    assert (len(recent), len(old)) == (50, 50)
    assert 3_000 < sum(old) / len(old) < 7_000


def test_a_short_past_is_drawn_whole() -> None:
    """With fewer events than asked for, all are given."""
    buffer = ReplayBuffer(100)
    assert buffer.sample(5) == []
    buffer.add(range(8))
    assert sorted(buffer.sample(50)) == list(range(8))


def test_nothing_later_than_asked_for_is_drawn() -> None:
    """With a highest position, a draw holds the past of that position only."""
    buffer = ReplayBuffer(40)
    buffer.add(range(100))
    assert all(position <= 90 for position in buffer.sample(40, up_to_position=90))


def test_what_the_log_has_lost_leaves_the_draws_to_what_is_there() -> None:
    """Of the old and of the recent; the buffer fills up again, its old half as even a sample of what is left."""
    buffer = ReplayBuffer(200)
    buffer.add(range(10_000))
    lost = {position for position in buffer.sample(200) if position < 5_000} | {9_950}
    buffer.forget(lost)
    assert len(buffer) == 200 - len(lost)
    assert lost.isdisjoint(buffer.sample(200))
    buffer.add(range(10_000, 20_000))
    kept = buffer.sample(200)
    assert len(kept) == 200
    of_before = sum(5_000 <= position < 10_000 for position in kept)
    assert 15 < of_before < 55  # a third of a hundred


def test_what_comes_after_a_loss_is_no_likelier_than_what_came_before() -> None:
    """Free places are not filled with whatever leaves the recent half next."""
    before = next_ones = 0
    for seed in range(10):
        buffer = ReplayBuffer(200, seed)
        buffer.add(range(10_000))
        buffer.forget({position for position in buffer.sample(200) if position < 5_000})
        buffer.add(range(10_000, 20_000))
        kept = buffer.sample(200)
        before += sum(5_000 <= position < 9_900 for position in kept)
        next_ones += sum(9_900 <= position < 9_950 for position in kept)
    assert 250 < before < 400  # a third of ten times a hundred
    assert next_ones < 15  # and a hundredth of that


def test_a_buffer_that_lost_all_its_past_begins_anew() -> None:
    """Its old half fills with the next events, as at first."""
    buffer = ReplayBuffer(20)
    buffer.add(range(100))
    buffer.forget(range(90))
    assert len(buffer) == 10
    buffer.add(range(100, 110))
    assert sorted(buffer.sample(20)) == list(range(90, 110))


def test_a_forgetting_buffer_survives_a_file() -> None:
    """Whatever is left of it, nothing included."""
    for lost in (range(30, 40), range(50, 55), range(100)):
        buffer = ReplayBuffer(30)
        buffer.add(range(100))
        buffer.forget(lost)
        loaded = ReplayBuffer.load_state(buffer.state())
        for each in (buffer, loaded):
            each.add(range(100, 150))
        assert buffer.state() == loaded.state()


def test_a_saved_buffer_holds_positions_only() -> None:
    """Its file says nothing of whose the events are: it travels in generations, which erasing a user does not touch."""
    buffer = ReplayBuffer(40)
    buffer.add(range(105))
    tensors = safetensors.numpy.load(buffer.state())
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {"position": np.dtype(np.int64)}


def test_a_loaded_buffer_draws_on_as_if_it_had_never_stopped() -> None:
    """State and load_state keep contents and random state."""
    buffer = ReplayBuffer(30, seed=3)
    buffer.add(range(100))
    buffer.sample(5)
    loaded = ReplayBuffer.load_state(buffer.state())
    for each in (buffer, loaded):
        each.add(range(100, 150))
    assert buffer.sample(12) == loaded.sample(12)
    assert buffer.state() == loaded.state()


def test_an_empty_buffer_survives_a_file() -> None:
    """A buffer without events is saved and loaded too."""
    assert len(ReplayBuffer.load_state(ReplayBuffer(10).state())) == 0


def test_bad_input_is_refused() -> None:
    """A capacity without room for both halves, and a file that is none."""
    with pytest.raises(ValueError, match="capacity"):
        ReplayBuffer(1)
    with pytest.raises(ArtifactError):
        ReplayBuffer.load_state(b"nothing of the kind")


@pytest.mark.parametrize("change", [{"n_recent": 20}, {"n_recent": -1}, {"next": 9}, {"capacity": 4}, {"offered": 0}])
def test_parts_that_do_not_fit_together_are_refused(change: dict[str, int]) -> None:
    """They would fail later, in the middle of a round."""
    buffer = ReplayBuffer(10)
    buffer.add(range(40))
    content = buffer.state()
    told = json.dumps({**metadata(content, "replay"), **change})
    with pytest.raises(ArtifactError, match="fit together"):
        ReplayBuffer.load_state(safetensors.numpy.save(safetensors.numpy.load(content), {"replay": told}))
