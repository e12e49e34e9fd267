"""Runs and the table, without the methods that train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare import compare

Compare = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Compare:
    """Compares on ten users who go round eight items; returns the table."""
    rows = [f"u{user},i{(user + step) % 8},{user * 10 + step}" for user in range(10) for step in range(6)]
    events = tmp_path / "events.csv"
    events.write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n", "utf-8")

    def call(methods: str, budget_minutes: float = 1.0, *, again: bool = False) -> dict[str, Any]:
        compare(events, tmp_path / "out", budget_minutes, methods=methods, seeds="3", again=again)
        table: dict[str, Any] = json.loads((tmp_path / "out" / "table.json").read_text("utf-8"))
        return table

    return call


def leave_run(folder: Path, method: str, budget_minutes: float) -> None:
    """What a method that trains leaves, with everybody's target first."""
    lines = [json.loads(line) for line in (folder / "split" / "targets.jsonl").read_text("utf-8").splitlines()]
    found = [json.dumps({"user_id": line["user_id"], "items": line["targets"]}) for line in lines]
    (folder / f"{method}-3.jsonl").write_text("\n".join(found) + "\n", "utf-8")
    facts = {"method": method, "seed": 3, "budget_minutes": budget_minutes, "cpu_s": 60.0, "wall_s": 60.0}
    (folder / f"{method}-3.json").write_text(json.dumps(facts), "utf-8")


def test_methods_without_seeds_run_once_and_are_kept(run: Compare, tmp_path: Path) -> None:
    """A second call reads what is there; --again computes it anew."""
    table = run("popular,co-visitation")
    assert table["methods"]["popular"]["seeds"] == [0]
    assert table["headwater_against_best_baseline"] == {}
    kept = tmp_path / "out" / "popular-0.jsonl"
    written_ns = kept.stat().st_mtime_ns
    run("popular")
    assert kept.stat().st_mtime_ns == written_ns
    run("popular", again=True)
    assert kept.stat().st_mtime_ns > written_ns


def test_headwater_is_compared_with_the_best_of_the_others(run: Compare, tmp_path: Path) -> None:
    """By NDCG@10, in differences of the same users."""
    run("popular")
    leave_run(tmp_path / "out", "headwater", 1.0)
    table = run("popular,headwater")
    difference = table["headwater_against_best_baseline"]
    assert difference["baseline"] == "popular"
    expected = 1.0 - table["methods"]["popular"]["ndcg_at_10"]["mean"]
    assert difference["mean"] == pytest.approx(expected)
    assert table["methods"]["headwater"]["seeds"] == [3]


def test_runs_of_another_budget_are_not_mixed_in(run: Compare, tmp_path: Path) -> None:
    """What had more time is no comparison."""
    run("popular")
    leave_run(tmp_path / "out", "headwater", 30.0)
    with pytest.raises(ValueError, match="30 minutes"):
        run("popular,headwater")
