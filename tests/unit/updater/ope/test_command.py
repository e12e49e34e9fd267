"""The command `ope`, from a log to figures or a refusal."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import torch
from typer.testing import CliRunner, Result

from headwater_core.attribution import attribution_token
from headwater_core.database import Database
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.feedback_log import FeedbackLog
from headwater_core.impressions import Impression, ImpressionLog, ShownItem
from headwater_updater.main import main

HOUR_US = 3_600_000_000
CHANCES = (0.5, 0.3, 0.1)
SERVING = (0.6, 0.3, 0.1)


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


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """2,000 rows of three items, two places and a target that shows the second item more."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(2_000):
        item = int(rng.choice(3, p=SERVING))
        target = (0.2, 0.6, 0.2)[item]
        rows.append([f"i{item}", 1 + n % 2, SERVING[item], int(rng.random() < CHANCES[item]), target, f"u{n // 4}"])
    return write(
        tmp_path / "log.csv", [["item_id", "position", "propensity", "reward", "target_propensity", "cluster"], *rows]
    )


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Slates of one item, drawn with the propensities that they say, and clicks on some; a slate of now."""
    url = f"sqlite:///{tmp_path}/headwater.db"
    now_us = time.time_ns() // 1000
    rng = np.random.default_rng(0)
    shown, events = [], []
    for n in range(1_000):
        item = int(rng.choice(3, p=SERVING))
        subject = Subject(SubjectKind.USER, f"u{n}")
        items = (ShownItem(f"i{item}", 1.0, SERVING[item], ("tower",)),)
        shown.append(Impression(f"s{n}", subject, time_us=now_us - 100 * HOUR_US + n, items=items))
        if rng.random() < CHANCES[item]:
            sealed = attribution_token("default", f"s{n}")
            moment_us = now_us - 99 * HOUR_US
            events.append(Event(f"e{n}", "click", subject.id, item_id=f"i{item}", event_time_us=moment_us,
                                attribution_token=sealed))  # fmt: skip
    database = Database(url)
    database.migrate()
    ImpressionLog(database).append(shown)
    ImpressionLog(database).append([Impression("now", None, time_us=now_us, items=(ShownItem("i0", 1.0, 1.0, ()),))])
    FeedbackLog(database).append(events, now_us)
    database.close()
    return url


def write(path: Path, rows: Iterable[Any]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["ope", *(str(argument) for argument in arguments)])


def figures(*arguments: object, folder: Path) -> dict[str, Any]:
    """The report of a run that must succeed."""
    answer = run(*arguments, "--out", folder / "report.json")
    assert answer.exit_code == 0, answer.output
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def refused(*arguments: object) -> str:
    """The one line of a run that must fail."""
    answer = run(*arguments)
    assert answer.exit_code == 1, answer.output
    assert answer.output.startswith("error: ")
    assert answer.output.count("\n") == 1
    return answer.output


def test_uniform_from_a_file(log: Path, tmp_path: Path) -> None:
    """All four estimates hold the truth, and the report says what they are from."""
    answer = run(log, "--policy", "uniform")
    assert answer.exit_code == 0, answer.output
    for name in ("as logged", "IPS", "SNIPS", "direct method", "doubly robust", "effective sample size"):
        assert name in answer.output
    found = figures(log, "--policy", "uniform", "--seed", 3, folder=tmp_path)
    assert found["policy"] == "uniform"
    assert found["estimates"].keys() == {"logged", "ips", "snips", "dm", "dr"}
    for name in ("ips", "snips", "dr"):
        assert found["estimates"][name]["low"] < 0.3 < found["estimates"][name]["high"]
        assert found["estimates"][name]["value"] == pytest.approx(0.3, abs=0.05)
    assert found["estimates"]["logged"]["value"] == pytest.approx(0.4, abs=0.03)
    weights = np.array([1 / 3 / p for p in SERVING])
    expected = 2_000 * (weights @ SERVING) ** 2 / (weights**2 @ SERVING)
    assert found["support"]["effective_rows"] == pytest.approx(expected, rel=0.1)
    assert found["interval"]["seed"] == 3
    assert (found["log"]["rows"], found["log"]["items"], found["log"]["clusters"]) == (2_000, 3, 500)
    assert found["log"]["file"] == "log.csv"
    assert found["versions"]["numpy"] == np.__version__


def test_the_column_beside_the_propensities(log: Path, tmp_path: Path) -> None:
    """IPS and SNIPS of the policy that it states; for the others nothing says what else would be shown."""
    found = figures(log, "--policy", "column", folder=tmp_path)
    assert found["estimates"].keys() == {"logged", "ips", "snips"}
    assert found["estimates"]["ips"]["low"] < 0.2 * 0.5 + 0.6 * 0.3 + 0.2 * 0.1 < found["estimates"]["ips"]["high"]
    assert "only the probability of what was shown is known" in found["reward_model"]


def test_predictions_beside_the_column(log: Path, tmp_path: Path) -> None:
    """A model of the caller's brings the other two estimates, for the policy in the column and for no other."""
    with log.open() as file:
        header, *rows = list(csv.reader(file))
    header += ["predicted_reward", "predicted_value"]
    predicted = [[*row, str(CHANCES[int(row[0][1:])]), "0.3"] for row in rows]
    other = write(tmp_path / "other.csv", [header, *predicted])
    found = figures(other, "--policy", "column", folder=tmp_path)
    assert found["reward_model"] == "the log's columns predicted_reward and predicted_value"
    assert found["estimates"]["dm"]["value"] == pytest.approx(0.3)
    assert found["estimates"]["dr"]["low"] < 0.3 < found["estimates"]["dr"]["high"]
    assert figures(other, "--policy", "uniform", folder=tmp_path)["reward_model"].startswith("ridge")


def test_a_policy_in_a_file(log: Path, tmp_path: Path) -> None:
    """It gives what the column gives, and the other two estimates, too."""
    text = [["item_id", "target_propensity"], ["i0", 0.2], ["i1", 0.6], ["i2", 0.2]]
    policy = write(tmp_path / "policy.csv", text)
    found = figures(log, "--policy", policy, folder=tmp_path)
    column = figures(log, "--policy", "column", folder=tmp_path)
    assert found["estimates"]["ips"] == column["estimates"]["ips"]
    assert found["estimates"]["dr"]["low"] < 0.3 < found["estimates"]["dr"]["high"]


def test_columns_and_places_of_a_files_own(log: Path, tmp_path: Path) -> None:
    """As told by --column and --position."""
    renamed = log.read_text().replace("propensity,reward", "propensity_score,click", 1)
    other = tmp_path / "other.csv"
    other.write_text(renamed)
    options = ("--column", "reward=click", "--column", "propensity=propensity_score", "--policy", "uniform")
    whole, one = figures(other, *options, folder=tmp_path), figures(other, *options, "--position", 2, folder=tmp_path)
    assert (whole["log"]["rows"], one["log"]["rows"]) == (2_000, 1_000)


def test_uniform_over_items_that_were_never_shown_is_refused(log: Path, tmp_path: Path) -> None:
    """The log cannot know what they would earn; no report is written."""
    items = write(tmp_path / "items.csv", [["item_id"], *([f"i{n}"] for n in range(6))])
    out = tmp_path / "report.json"
    assert "50.0% of what the policy would show" in refused(log, "--policy", "uniform", "--items", items, "--out", out)
    assert not out.exists()


def test_a_log_without_chance_is_refused(tmp_path: Path) -> None:
    """A deterministic policy tells of itself alone."""
    rows = [["item_id", "propensity", "reward"], *([f"i{n % 3}", 1, n % 2] for n in range(600))]
    log = write(tmp_path / "log.csv", rows)
    assert "600 of 600 rows were shown with certainty" in refused(log, "--policy", "uniform")
    found = figures(log, "--policy", "logged", folder=tmp_path)
    assert found["estimates"]["ips"]["value"] == 0.5


def test_our_own_log(database_url: str, tmp_path: Path) -> None:
    """Impressions and later clicks; the slate whose window is open is left out."""
    items = write(tmp_path / "items.csv", [["item_id"], ["i0"], ["i1"], ["i2"]])
    options = ("--database-url", database_url, "--policy", "uniform", "--items", items)
    found = figures(*options, folder=tmp_path)
    assert found["log"]["rows"] == 1_000
    assert found["log"]["impressions_with_an_open_window"] == 1
    assert found["log"]["clustered_by"] == "subject"
    for name in ("ips", "snips", "dr"):
        assert found["estimates"][name]["low"] < 0.3 < found["estimates"][name]["high"]
    answer = run("--database-url", database_url, "--policy", "logged", "--window-hours", 0.5, "--reward", "click")
    assert "reward: is 0 in every row" in answer.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--policy", "uniform"), "policy: impressions do not say what else could have been shown"),
        (("--policy", "column"), "policy: impressions hold the propensities of the policy that served, no others"),
        (("--policy", "best"), "policy: 'best' is neither uniform, logged, column nor a file"),
        (("--policy", "logged", "--items", "items.csv"), "items: is for --policy uniform"),
        (("--policy", "logged", "--column", "reward=click"), "column: is for a CSV log alone"),
        (("--policy", "logged", "--context", "age"), "context: is for a CSV log alone"),
        (("--policy", "logged", "--reward", "clicks"), "reward: 'clicks' is no event type"),
        (("--policy", "logged", "--days", "1"), "nothing to evaluate on"),
    ],
)
def test_what_our_own_log_cannot_answer(database_url: str, options: tuple[str, ...], reason: str) -> None:
    """With the field and the reason."""
    assert reason in refused("--database-url", database_url, *options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--policy", "logged", "--reward", "click"), "reward: is for our own log alone"),
        (("--policy", "logged", "--tenant", "default"), "tenant: is for our own log alone"),
        (("--policy", "logged", "--column", "click"), "column: 'click' is not NAME=COLUMN"),
        (("--policy", "logged", "--position", "9"), "position: the log holds nothing there"),
        (("--policy", "logged", "--out", "nowhere/report.json"), "its folder does not exist"),
    ],
)
def test_what_a_file_cannot_answer(log: Path, options: tuple[str, ...], reason: str) -> None:
    """With the field and the reason."""
    assert reason in refused(log, *options)
