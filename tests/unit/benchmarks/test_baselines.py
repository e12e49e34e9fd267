"""The division that all methods share, the choice of options, and every baseline on a small set."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from baselines import BASELINES, rank_with
from division import Division, divide, write_division
from scoring import markdown, mean_over_seeds, measured, paired, read_lists
from tuning import climb

from headwater_updater.evaluation.events_file import EventData, read_events
from headwater_updater.evaluation.reports import write_predictions


def data(folder: Path, *, times: bool = True) -> EventData:
    """Ten users who go round eight items, each from another one."""
    header = "user_id,item_id,timestamp" if times else "user_id,item_id,order"
    rows = [f"u{user},i{(user + step) % 8},{user * 10 + step}" for user in range(10) for step in range(6)]
    path = folder / "events.csv"
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return read_events(path)


def division(folder: Path, *, allow_repeats: bool = False, learn_validation: bool = False) -> Division:
    return divide(data(folder), 0, allow_repeats=allow_repeats, learn_validation=learn_validation)


def test_validation_is_held_from_training_but_not_from_histories(tmp_path: Path) -> None:
    """Per user: four events learned, one held, one asked for."""
    found = division(tmp_path)
    assert [len(user.learned) for user in found.users] == [4] * 10
    assert found.users[0].validation_targets == ("i4",)
    assert [event.item_id for event in found.asked[0].history] == ["i0", "i1", "i2", "i3", "i4"]
    assert [len(events) for events in found.training()] == [4] * 10
    assert [len(events) for events in division(tmp_path, learn_validation=True).training()] == [5] * 10


def test_split_files_hold_what_comes_before_the_test(tmp_path: Path) -> None:
    """The targets are in a file of their own, and the same division is the same bytes."""
    found = division(tmp_path)
    write_division(tmp_path / "split", found)
    write_division(tmp_path / "split", found)
    rows = gzip.decompress((tmp_path / "split" / "train.csv.gz").read_bytes()).decode().splitlines()
    assert rows[:2] == ["user_id,item_id,timestamp,is_validation,is_target", "u0,i0,0,0,1"]
    assert rows[5] == "u0,i4,4,1,1"
    assert len(rows) == 1 + 10 * 5
    first = json.loads((tmp_path / "split" / "targets.jsonl").read_text("utf-8").splitlines()[0])
    assert first == {"user_id": "u0", "targets": ["i5"]}


def test_a_folder_of_another_split_is_refused(tmp_path: Path) -> None:
    """Predictions of different splits would else stand in one table."""
    write_division(tmp_path / "split", division(tmp_path))
    with pytest.raises(ValueError, match="another split"):
        write_division(tmp_path / "split", division(tmp_path, learn_validation=True))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("allow_repeats", [False, True])
def test_every_baseline_lists_what_it_may(name: str, allow_repeats: bool, tmp_path: Path) -> None:
    """Its lists pass the scorer's checks."""
    found = division(tmp_path, allow_repeats=allow_repeats)
    path = tmp_path / "lists.jsonl"
    write_predictions(path, [user.user_id for user in found.asked], rank_with(name, found).lists)
    assert len(read_lists(path, found)) == 10


def test_co_visitation_sees_what_follows_what(tmp_path: Path) -> None:
    """Where each item is followed by the next, the next is first."""
    found = division(tmp_path)
    ranked = rank_with("co-visitation", found)
    assert [items[0] for items in ranked.lists] == [user.targets["last"][0] for user in found.asked]
    assert ranked.validation_ndcg_at_10 == pytest.approx(1.0)


def test_recent_popular_does_without_times(tmp_path: Path) -> None:
    """Then a share of each user's last events is what is recent."""
    found = divide(data(tmp_path, times=False), 0, allow_repeats=False, learn_validation=False)
    assert set(rank_with("recent-popular", found).options) == {"share"}


def test_lists_of_seen_or_unknown_items_are_refused(tmp_path: Path) -> None:
    """One scorer judges all, and none gains by listing what others may not."""
    found = division(tmp_path)
    path = tmp_path / "lists.jsonl"
    users = [user.user_id for user in found.asked]
    write_predictions(path, users, [["i0"]] * 10)
    with pytest.raises(ValueError, match="history"):
        read_lists(path, found)
    write_predictions(path, users, [["unheard of"]] * 10)
    with pytest.raises(ValueError, match="nobody learned"):
        read_lists(path, found)
    write_predictions(path, users[1:], [["i7"]] * 9)
    with pytest.raises(ValueError, match="1 users are not those"):
        read_lists(path, found)


def test_seeds_are_averaged_by_user_and_differences_paired(tmp_path: Path) -> None:
    """One run that always hits and one that never does are half a hit for each user; the interval has no width."""
    found = division(tmp_path)
    users = [user.user_id for user in found.asked]
    hits, misses = tmp_path / "hits.jsonl", tmp_path / "misses.jsonl"
    write_predictions(hits, users, [list(user.targets["last"]) for user in found.asked])
    write_predictions(misses, users, [[] for _ in users])
    both = mean_over_seeds([hits, misses], found)
    assert both["hr_at_10"].tolist() == [0.5] * 10
    difference = paired(both["ndcg_at_10"], mean_over_seeds([misses], found)["ndcg_at_10"])
    assert difference == (0.5, 0.5, 0.5)
    row = {**measured(both), "seeds": [0, 1], "cpu_s": 1.0, "wall_s": 2.0}
    assert markdown({"half": row}).splitlines()[-1].startswith("| half | 0.5000 | 0.5000 to 0.5000 |")


def test_climbing_changes_one_option_at_a_time_until_nothing_gains() -> None:
    """Each choice is asked for once."""
    asked = []

    def value(options: dict[str, int]) -> float:
        asked.append((options["x"], options["y"]))
        return -((options["x"] - 3) ** 2) - (options["y"] - options["x"]) ** 2 / 4

    grid = {"x": range(5), "y": range(5)}
    best, reached = climb(grid, {"x": 0, "y": 0}, value)
    assert (best, reached) == ({"x": 3, "y": 3}, 0.0)
    assert len(asked) == len(set(asked))
