"""The commands `evaluate` and `rank`, from files to files."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from typer.testing import CliRunner, Result

from headwater_updater.main import main

TWO_SECONDS = str(2 / 60)


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """A command sets up its process's logs and threads; this process goes on as before."""
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def small_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DIMENSION": "8", "N_LAYERS": "1", "BOOTSTRAP_THREADS": "1"}.items():
        monkeypatch.setenv(f"HEADWATER_{name}", value)


def write_csv(path: Path, header: str, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Forty users who walk along a ring of thirty items, one step every hundred seconds."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{(start + step) % 30}", 100 * (step + 1) + user, "rating", 4)
        for user, start in enumerate(rng.integers(0, 30, 40).tolist())
        for step in range(8)
    ]
    return write_csv(tmp_path / "events.csv", "user_id,item_id,timestamp,event_type,value", rows)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def evaluate(events: Path, *more: object) -> Result:
    folder = events.parent
    files = ("--events", events, "--out", folder / "predictions.jsonl", "--report", folder / "report.json")
    return run("evaluate", *files, "--budget-minutes", TWO_SECONDS, "--seed", 3, *more)


def predictions(folder: Path) -> dict[str, list[str]]:
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return {line["user_id"]: line["items"] for line in map(json.loads, lines)}


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def test_leave_one_out_end_to_end(events: Path, tmp_path: Path) -> None:
    """Every user gets a list without what they saw, and the report says what was measured, how and on what."""
    answer = evaluate(events, "--protocol", "leave-one-out")
    assert answer.exit_code == 0, answer.output
    assert "NDCG@10" in answer.output
    lists = predictions(tmp_path)
    assert len(lists) == 40
    with events.open() as file:
        rows = list(csv.DictReader(file))
    for user_id, items in lists.items():
        met = [row["item_id"] for row in rows if row["user_id"] == user_id]
        assert not set(items) & set(met[:-1])
        assert len(items) == 30 - 7
    found = report(tmp_path)
    assert found["data"]["ordering"] == "timestamp"
    assert (found["data"]["users"], found["data"]["items"], found["data"]["events"]) == (40, 30, 320)
    assert (found["split"]["test_users"], found["split"]["targets"]) == (40, 40)
    assert found["options"]["validation_learned"] is False
    assert found["options"]["seed"] == 3
    assert found["options"]["query_time"] is False
    assert found["training"]["tower"]["reads_query_time"] is False
    interval = found["metrics"]["ndcg_at_10"]
    hits = [1 / np.log2(items.index(last) + 2) for last, items in last_items(rows, lists) if last in items[:10]]
    assert interval["mean"] == pytest.approx(sum(hits) / 40)
    assert 0 <= interval["low"] <= interval["mean"] <= interval["high"] <= 1
    assert 0 < found["metrics"]["coverage_at_10"] <= 1
    assert found["training"]["texts"] == 0
    assert [point["epoch"] for point in found["training"]["curve"]][:1] == [1]
    assert max(point["validation_ndcg_at_10"] for point in found["training"]["curve"]) > 0
    assert found["peak_memory_mib"] > 0
    assert {"reading", "training", "ranking", "total"} <= found["time_s"].keys()
    assert {"headwater", "python", "torch"} <= found["versions"].keys()


def test_vectors_of_items_are_read(events: Path, tmp_path: Path) -> None:
    """The tower takes the length of the vectors in the file of items; in `rank`, too."""
    vectors = [(f"i{n}", " ".join(map(str, np.eye(30)[n])) if n else "") for n in range(30)]
    items = write_csv(tmp_path / "items.csv", "item_id,vector", vectors)
    assert evaluate(events, "--protocol", "leave-one-out", "--items", items).exit_code == 0
    found = report(tmp_path)
    assert found["training"]["tower"]["vector_dimension"] == 30
    assert (found["data"]["catalogue_items"], found["data"]["items_with_a_vector"]) == (30, 29)
    users = write_csv(tmp_path / "users.csv", "user_id", [("u1",)])
    files = ("--events", events, "--users", users, "--items", items, "--out", tmp_path / "lists.jsonl")
    answer = run("rank", *files, "--budget-minutes", TWO_SECONDS)
    assert answer.exit_code == 0, answer.output
    items.write_text("item_id,vector\ni1,1 2\ni2,1\n")
    for refused in (
        evaluate(events, "--protocol", "leave-one-out", "--items", items),
        run("rank", *files, "--budget-minutes", TWO_SECONDS),
    ):
        assert refused.exit_code != 0


def last_items(rows: list[dict[str, str]], lists: dict[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
    for user_id, items in lists.items():
        yield [row["item_id"] for row in rows if row["user_id"] == user_id][-1], items


def test_global_time_end_to_end(events: Path, tmp_path: Path) -> None:
    """The first block after the cut is measured, and all targets apart; an items file without texts is no obstacle."""
    items = write_csv(tmp_path / "items.csv", "item_id", [(f"i{n}",) for n in range(30)])
    answer = evaluate(events, "--protocol", "global-time", "--items", items)
    assert answer.exit_code == 0, answer.output
    found = report(tmp_path)
    assert found["target_set"] == "first"
    assert found["metrics_of_other_target_sets"].keys() == {"all"}
    assert found["options"]["validation_learned"] is True
    assert found["split"]["test_users"] == len(predictions(tmp_path))


def test_sets_without_times_or_values(tmp_path: Path) -> None:
    """The file's order is enough for leave-one-out; repeats may be allowed, and cancels and quantities be negative."""
    rows = [(f"u{n % 5}", f"i{n % 7}", "cancel" if n % 9 == 8 else "purchase", -n) for n in range(60)]
    events = write_csv(tmp_path / "events.csv", "user_id,item_id,event_type,value", rows)
    answer = evaluate(events, "--protocol", "leave-one-out", "--allow-repeats", "--min-core", 5)
    assert answer.exit_code == 0, answer.output
    assert {len(items) for items in predictions(tmp_path).values()} == {7}
    answer = evaluate(events, "--protocol", "leave-one-out")
    assert "warning: users come back to items" in answer.output
    answer = evaluate(events, "--protocol", "global-time")
    assert answer.exit_code == 1
    assert "global-time needs events with a timestamp" in answer.output


@pytest.mark.parametrize("protocol", ["leave-one-out", "global-time"])
def test_the_time_of_asking_is_told_on_request(events: Path, tmp_path: Path, protocol: str) -> None:
    """The report says so, for such figures are compared only with their like."""
    answer = evaluate(events, "--protocol", protocol, "--query-time")
    assert answer.exit_code == 0, answer.output
    found = report(tmp_path)
    assert found["options"]["query_time"] is True
    assert found["training"]["tower"]["reads_query_time"] is True
    assert found["split"]["test_users"] == len(predictions(tmp_path))


def test_a_stream_end_to_end(events: Path, tmp_path: Path) -> None:
    """Each target of the last fifth is foreseen, by every arm, and the report and the table tell how well."""
    answer = evaluate(events, "--protocol", "prequential", "--max-targets", 100)
    assert answer.exit_code == 0, answer.output
    assert "online weights" in answer.output
    found = report(tmp_path)
    assert found["events"] == {"warm_up": 192, "tuning": 64, "stream": 64}
    assert found["targets_foreseen"] == found["arms"]["item-kNN"]["targets"] == 64
    assert found["controls"]["future_leak"]["caught"]
    assert found["data"]["events"] == 320
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 64


@pytest.mark.parametrize("option", ["--query-time", "--learn-validation"])
def test_what_a_stream_has_no_use_for_is_refused(events: Path, tmp_path: Path, option: str) -> None:
    """Rather than passed over; so are events without times."""
    answer = evaluate(events, "--protocol", "prequential", option)
    assert answer.exit_code == 1
    assert f"{option[2:].replace('-', '_')}: is not for --protocol prequential" in " ".join(answer.output.split())
    rows = [(f"u{n % 5}", f"i{n % 7}", n) for n in range(60)]
    ordered = write_csv(tmp_path / "ordered.csv", "user_id,item_id,order", rows)
    answer = evaluate(ordered, "--protocol", "prequential")
    assert answer.exit_code == 1
    assert "prequential needs events with a timestamp" in " ".join(answer.output.split())


def test_without_timestamps_there_is_no_time_of_asking(tmp_path: Path) -> None:
    """An order alone says nothing of when; the option is refused rather than read as seconds."""
    rows = [(f"u{n % 5}", f"i{n % 7}", n) for n in range(60)]
    events = write_csv(tmp_path / "events.csv", "user_id,item_id,order", rows)
    answer = evaluate(events, "--protocol", "leave-one-out", "--query-time")
    assert answer.exit_code == 1
    assert "--query-time needs events with a timestamp" in " ".join(answer.output.split())
    assert not (tmp_path / "report.json").exists()


def test_evaluate_says_what_the_time_of_asking_gives_away() -> None:
    """Whoever measures with it must know that these figures stand apart."""
    answer = run("evaluate", "--help")
    assert answer.exit_code == 0
    assert "report such figures apart" in " ".join(answer.output.replace("│", " ").split())


def test_rank_makes_lists_for_the_users_named(events: Path, tmp_path: Path) -> None:
    """In the file's order; who is not known gets what is popular."""
    users = write_csv(tmp_path / "users.csv", "user_id", [("u7",), ("stranger",), ("u3",)])
    out = tmp_path / "predictions.jsonl"
    files = ("--events", events, "--users", users, "--out", out)
    answer = run("rank", *files, "--budget-minutes", TWO_SECONDS)
    assert answer.exit_code == 0, answer.output
    lists = predictions(tmp_path)
    assert list(lists) == ["u7", "stranger", "u3"]
    assert [len(items) for items in lists.values()] == [22, 30, 22]
    assert "1 for unknown users" in answer.output


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("user_id,thing\na,x\n", "lacks the column item_id"),
        ("user_id,item_id,timestamp\na,x,1\nb,y,then\n", "line 3: timestamp: 'then'"),
        ("user_id,item_id\na,x\nb,y\n", "finds no user to test on"),
    ],
)
def test_a_wrong_file_is_an_error_and_no_traceback(tmp_path: Path, content: str, reason: str) -> None:
    """Exit status 1, the reason on standard error, and nothing written."""
    events = tmp_path / "events.csv"
    events.write_text(content)
    answer = evaluate(events, "--protocol", "leave-one-out")
    assert answer.exit_code == 1
    assert "error: " in answer.output
    assert reason in answer.output
    assert not (tmp_path / "report.json").exists()


def test_a_place_that_cannot_be_written_to_is_told_first(events: Path) -> None:
    """Before anything is read or trained."""
    answer = evaluate(events, "--protocol", "leave-one-out", "--report", events.parent / "none" / "report.json")
    assert answer.exit_code == 1
    assert "its folder does not exist" in answer.output


def test_rank_says_what_it_learns() -> None:
    """Whether validation events are learned changes results by a lot; `--help` must tell."""
    answer = run("rank", "--help")
    assert answer.exit_code == 0
    assert "then learned, too" in " ".join(answer.output.split())
