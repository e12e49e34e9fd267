"""Policies to be evaluated, as far as a log lets them be known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from headwater_core.errors import InvalidFieldError
from headwater_updater.evaluation.csv_rows import DataFileError
from headwater_updater.ope.log import BanditLog, ShownRow, bandit_log
from headwater_updater.ope.predictions import Predictions
from headwater_updater.ope.target import from_column, from_file, logged, uniform


@pytest.fixture
def log() -> BanditLog:
    rows = [("a", 1, 0.5), ("b", 2, 0.25), ("a", 2, 1.0), ("c", 1, 0.1)]
    return bandit_log([ShownRow(item, place, 0.0, p, target_propensity=p / 2) for item, place, p in rows])


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.csv"
    path.write_text(text)
    return path


def test_uniform_is_over_the_items_of_the_log(log: BanditLog) -> None:
    """In whatever place they were."""
    target = uniform(log)
    assert target.propensities == pytest.approx([1 / 3] * 4)
    assert target.distribution is not None
    assert target.distribution.table.tolist() == [pytest.approx([1 / 3] * 3)]


def test_uniform_is_over_the_candidates_that_are_named(log: BanditLog) -> None:
    """Those that the log never shows have their share; those of the log that are not named have none."""
    target = uniform(log, ["a", "b", "x", "y"])
    assert target.propensities.tolist() == [0.25, 0.25, 0.25, 0.0]
    assert target.distribution is not None
    assert target.distribution.table.sum() == pytest.approx(0.5)


def test_what_the_log_says_of_policies(log: BanditLog) -> None:
    """Of the one that served and the one in the column, not what else they show; predictions of the latter alone."""
    assert logged(log).propensities is log.propensities
    assert from_column(log).propensities == pytest.approx(log.propensities / 2)
    assert logged(log).distribution is from_column(log).distribution is None
    log = dataclasses.replace(log, predictions=Predictions(*np.zeros((3, 4))))
    assert from_column(log).predictions is log.predictions
    assert logged(log).predictions is uniform(log).predictions is None
    with pytest.raises(InvalidFieldError, match="policy: the log has no column target_propensity"):
        from_column(bandit_log([ShownRow("a", 1, 0.0, 1.0)]))


def test_a_policy_from_a_file(log: BanditLog, tmp_path: Path) -> None:
    """The same in every place; an item that is not named is not shown."""
    target = from_file(write(tmp_path, "item_id,target_propensity\na,0.7\nx,0.3\n"), log)
    assert target.propensities.tolist() == [0.7, 0.0, 0.7, 0.0]
    assert target.name == "policy.csv"


def test_a_policy_from_a_file_by_place(log: BanditLog, tmp_path: Path) -> None:
    """Each place has its own probabilities; places that the log does not hold do not matter."""
    text = "position,item_id,target_propensity\n1,a,0.7\n1,c,0.3\n2,b,1\n9,a,1\n"
    target = from_file(write(tmp_path, text), log)
    assert target.propensities.tolist() == [0.7, 1.0, 0.0, 0.3]
    assert target.distribution is not None
    picked = target.distribution.table[target.distribution.rows]
    assert np.array_equal(picked[np.arange(4), log.items], target.propensities)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("item_id\na\n", "lacks the column target_propensity"),
        ("item_id,target_propensity\na,0.5\nb,1.5\n", "line 3: target_propensity: 1.5 is no probability"),
        ("item_id,target_propensity\na,0.5\nb,much\n", "line 3: target_propensity: 'much' is not a number"),
        ("item_id,target_propensity,position\na,1,0\n", "line 2: position: '0' is no place"),
        ("item_id,target_propensity\na,0.5\na,0.5\n", "names item 'a' twice"),
        ("item_id,target_propensity\na,0.5\nb,0.4\n", "add up to 0.9, not to 1"),
        ("item_id,target_propensity,position\na,1,1\na,0.5,2\n", "add up to 0.5 in position 2, not to 1"),
        ("item_id,target_propensity,position\na,1,1\n", "says nothing of position 2"),
    ],
)
def test_a_policy_that_is_none_is_refused(log: BanditLog, tmp_path: Path, text: str, reason: str) -> None:
    """With the file, the line and the column."""
    with pytest.raises(DataFileError, match=r"policy\.csv") as caught:
        from_file(write(tmp_path, text), log)
    assert reason in str(caught.value)
