"""Co-visits as files: a base, a delta over it, and the bonuses that the two give to a table's rows."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_core.co_visit_files import CoVisits, SuccessorList, SuccessorLists
from headwater_core.co_visits import (
    HISTORY_EVENTS,
    NO_BONUSES,
    Blend,
    Bonuses,
    Successors,
    bonuses,
)
from headwater_core.errors import ArtifactError
from headwater_core.item_files import pack_ids, write_tensors
from headwater_core.shards import Delta, Shard, VectorTable

BLEND = Blend(strength=1.0, sharpness=10.0, decay=0.5)
REPEATING = replace(BLEND, repeat_strength=0.5)

Follows = Mapping[str, Mapping[str, float]]
"""Item → what follows it, with weights."""


def lists(follows: Follows) -> list[SuccessorList]:
    return [
        SuccessorList(item_id, list(successors), np.array(list(successors.values()), np.float32))
        for item_id, successors in follows.items()
    ]


def table(item_ids: Sequence[str], *gone: str, new: Sequence[str] = ()) -> VectorTable:
    shards = [Shard.build(item_ids, np.zeros((len(item_ids), 2), np.float32))] if item_ids else []
    return VectorTable(shards, Delta(tuple(new), np.zeros((len(new), 2), np.float32), frozenset(gone)))


def by_item(found: Bonuses, rows: VectorTable) -> dict[str, float]:
    return {rows.item_id(int(row)): float(value) for row, value in zip(*found, strict=True)}


def expected(follows: Follows, history: Sequence[str], rows: VectorTable, blend: Blend = BLEND) -> dict[str, float]:
    """What the definition says, with ids and dictionaries."""
    latest = []
    for item_id in history:
        pairs = [(rows.row(other), weight) for other, weight in follows.get(item_id, {}).items()]
        known = [(row, weight) for row, weight in pairs if row is not None]
        latest.append(Successors(np.array([r for r, _ in known], np.int64), np.array([w for _, w in known], "f4")))
    visited = [row for item_id in history if (row := rows.row(item_id)) is not None]
    return by_item(bonuses(latest, np.array(visited, np.int64), blend), rows)


def saved(tmp_path: Path, base: SuccessorLists, delta: SuccessorLists) -> tuple[SuccessorLists, SuccessorLists]:
    """Both as they come back from disk."""
    loaded = SuccessorLists.load(base.save(tmp_path / "base.safetensors"))
    return loaded, SuccessorLists.load(delta.save(tmp_path / "delta.safetensors"), loaded)


def test_a_deltas_lists_supersede_the_bases_also_from_disk(tmp_path: Path) -> None:
    """Moved items have their new successors, emptied ones none, others those of the base; new items may be named."""
    base = SuccessorLists.empty().updated(lists({"a": {"b": 1, "ü": 3}, "b": {"a": 2}, "ü": {"a": 1}}))
    delta = SuccessorLists.empty(base).updated(lists({"a": {"new": 1, "b": 4}, "ü": {}, "new": {"a": 1}}))
    rows = table(["a", "b", "ü", "new"])
    for visits in (CoVisits(base, delta, rows), CoVisits(*saved(tmp_path, base, delta), rows)):
        now = {"a": {"new": 1.0, "b": 4.0}, "b": {"a": 2.0}, "new": {"a": 1.0}}
        for history in (["a"], ["b"], ["ü"], ["new"], ["b", "ü", "a", "new"], ["unknown"], []):
            assert by_item(visits.bonuses(history, BLEND), rows) == pytest.approx(expected(now, history, rows))
        assert visits.bonuses(["a"], Blend()) == NO_BONUSES


def test_what_is_loaded_is_mapped_read_only(tmp_path: Path) -> None:
    """Nothing of a list is copied when a file is loaded."""
    base = SuccessorLists.empty().updated(lists({"a": {"b": 1}}))
    loaded, _ = saved(tmp_path, base, SuccessorLists.empty(base))
    for mapped in (loaded.sources, loaded.starts, loaded.successors, loaded.weights):
        assert not mapped.flags.owndata
        assert not mapped.flags.writeable


def test_items_without_a_living_row_neither_vote_nor_take_a_share() -> None:
    """A deleted or unknown successor leaves its share to the others; a superseded one has its new row."""
    base = SuccessorLists.empty().updated(lists({"a": {"gone": 8, "b": 1, "unknown": 8, "c": 1}}))
    rows = table(["a", "b", "c", "gone"], "gone", new=["c"])
    visits = CoVisits(base, SuccessorLists.empty(base), rows)
    found = visits.bonuses(["a"], BLEND)
    assert found.items.tolist() == [rows.row("b"), rows.row("c")] == [1, 4]
    assert found.values == pytest.approx(np.log1p(10.0 * np.array([0.5, 0.5])))


def test_without_co_visits_there_are_no_bonuses() -> None:
    """A generation that has none, an empty table, empty lists: nothing is added."""
    empty = SuccessorLists.empty()
    for visits in (
        CoVisits.none(table(["a"])),
        CoVisits.none(table([])),
        CoVisits(empty.updated(lists({"a": {}})), SuccessorLists.empty(empty.updated(lists({"a": {}}))), table(["a"])),
    ):
        assert not len(visits.bonuses(["a", "a"], BLEND).items)


def test_an_update_leaves_what_it_came_from_as_it_was() -> None:
    """Whoever holds the older lists goes on seeing them."""
    base = SuccessorLists.empty().updated(lists({"a": {"b": 1}}))
    first = SuccessorLists.empty(base).updated(lists({"c": {"a": 1}}))
    second = first.updated(lists({"c": {"d": 1}, "a": {"c": 1}}))
    assert [(list(each.numbers), len(each)) for each in (base, first, second)] == [
        (["a", "b"], 1),
        (["a", "b", "c"], 1),
        (["a", "b", "c", "d"], 2),
    ]


_ITEMS = st.sampled_from("abcdefgh")
_FOLLOWS = st.dictionaries(_ITEMS, st.dictionaries(_ITEMS, st.floats(0.125, 8.0, width=16), max_size=4), max_size=6)


@settings(deadline=None)
@given(_FOLLOWS, st.lists(_FOLLOWS, max_size=3), st.lists(_ITEMS, max_size=5), st.sets(_ITEMS))
def test_base_and_deltas_say_what_the_newest_lists_say(
    first: Follows, updates: list[Follows], history: list[str], known: set[str]
) -> None:
    """However the lists came to be spread over base and delta."""
    base = SuccessorLists.empty().updated(lists(first))
    delta = SuccessorLists.empty(base)
    newest = {**first}
    for update in updates:
        delta = delta.updated(lists(update))
        newest |= update
    rows = table(sorted(known))
    for blend in (BLEND, REPEATING):
        found = CoVisits(base, delta, rows).bonuses(history, blend)
        assert by_item(found, rows) == pytest.approx(expected(newest, history, rows, blend), rel=1e-5)


def test_visited_items_get_their_bonus_without_any_successor() -> None:
    """Items that have no living row take no share of it."""
    rows = table(["a", "b", "gone"], "gone")
    blend = Blend(repeat_strength=2.0, sharpness=10.0, repeat_decay=0.9)
    found = CoVisits.none(rows).bonuses(["b", "gone", "b", "unknown", "a"], blend)
    votes, total = {"a": 0.81, "b": 1.0 + 0.9}, 1.0 + 0.9 + 0.81
    assert by_item(found, rows) == pytest.approx({i: 2.0 * np.log1p(10.0 * v / total) for i, v in votes.items()})


def test_only_the_latest_items_speak_for_their_successors() -> None:
    """All of a history speaks for itself, its last events for what follows them."""
    item_ids = [f"{number:03}" for number in range(HISTORY_EVENTS + 2)]
    base = SuccessorLists.empty().updated(lists({item_id: {f"after-{item_id}": 1.0} for item_id in item_ids}))
    rows = table([*item_ids, *(f"after-{item_id}" for item_id in item_ids)])
    visits = CoVisits(base, SuccessorLists.empty(base), rows)
    followed, repeated = (
        by_item(visits.bonuses(item_ids, blend), rows) for blend in (Blend(strength=1.0), Blend(repeat_strength=1.0))
    )
    assert sorted(followed) == [f"after-{item_id}" for item_id in item_ids[:HISTORY_EVENTS]]
    assert sorted(repeated) == item_ids


def test_what_nobody_holds_any_more_is_freed_at_once() -> None:
    """Servers load a generation every few seconds and collect cycles ten minutes apart."""
    rows = table(["a", "b"])
    base = SuccessorLists.empty().updated(lists({"a": {"b": 1.0}}))
    visits = CoVisits(base, SuccessorLists.empty(base), rows)
    assert by_item(visits.bonuses(["a"], BLEND), rows).keys() == {"b"}
    gone = weakref.ref(visits)
    gc.disable()
    try:
        del visits
        assert gone() is None
    finally:
        gc.enable()


def tensors(**changes: Any) -> dict[str, npt.NDArray[Any]]:
    """A sound file over a, b, c: a → b, c; c → a."""
    blob, offsets = pack_ids(changes.pop("ids", ["a", "b", "c"]))
    sound: dict[str, npt.NDArray[Any]] = {
        "item_ids": blob,
        "offsets": offsets,
        "sources": np.array([0, 2], np.int32),
        "starts": np.array([0, 2, 3], np.int64),
        "successors": np.array([1, 2, 0], np.int32),
        "weights": np.array([1.0, 2.0, 3.0], np.float32),
    }
    return sound | {name: np.array(value, sound[name].dtype) for name, value in changes.items()}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ids": ["a", "b", "a"]}, "twice"),
        ({"sources": [0, 3]}, "number"),
        ({"sources": [-1, 2]}, "number"),
        ({"sources": [2, 2]}, "two lists"),
        ({"sources": [0]}, "starts"),
        ({"starts": []}, "starts"),
        ({"sources": [], "starts": []}, "starts"),
        ({"starts": [0, 2, 4]}, "starts"),
        ({"starts": [1, 2, 3]}, "starts"),
        ({"starts": [0, 4, 3]}, "starts"),
        ({"starts": [0, -1, 3]}, "starts"),
        ({"successors": [1, 3, 0]}, "number"),
        ({"successors": [1, -1, 0]}, "number"),
        ({"successors": [1, 2]}, "starts"),
        ({"weights": [1.0, 2.0]}, "weight"),
        ({"weights": [1.0, 2.0, 0.0]}, "weight"),
        ({"weights": [1.0, -2.0, 3.0]}, "weight"),
        ({"weights": [1.0, np.nan, 3.0]}, "weight"),
        ({"weights": [1.0, np.inf, 3.0]}, "weight"),
    ],
    ids=str,
)
def test_damaged_files_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    """Nothing of a file is believed before it is checked."""
    path = tmp_path / "damaged.safetensors"
    write_tensors(path, tensors(**changes))
    with pytest.raises(ArtifactError, match=reason):
        SuccessorLists.load(path)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    """As the test above changes it."""
    write_tensors(tmp_path / "sound.safetensors", tensors())
    base = SuccessorLists.load(tmp_path / "sound.safetensors")
    rows = table(["a", "b", "c"])
    assert by_item(CoVisits(base, SuccessorLists.empty(base), rows).bonuses(["c"], BLEND), rows).keys() == {"a"}


def test_a_delta_over_another_base_is_refused(tmp_path: Path) -> None:
    """Its numbers would name other items."""
    base = SuccessorLists.empty().updated(lists({"a": {"b": 1, "c": 1}}))
    path = SuccessorLists.empty(base).updated(lists({"d": {"c": 1}})).save(tmp_path / "delta.safetensors")
    with pytest.raises(ArtifactError, match="number"):
        SuccessorLists.load(path, SuccessorLists.empty())
    with pytest.raises(ArtifactError, match="twice"):
        SuccessorLists.load(path, SuccessorLists.empty().updated(lists({"d": {}})))


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    """A weight of 0 is the writer's error, before any reader sees it."""
    with pytest.raises(ValueError, match="weight"):
        SuccessorLists.empty().updated(lists({"a": {"b": 0.0}})).save(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
