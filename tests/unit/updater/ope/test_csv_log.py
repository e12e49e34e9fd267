"""Logs from CSV files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from headwater_core.errors import InvalidFieldError
from headwater_updater.evaluation.csv_rows import DataFileError
from headwater_updater.ope.csv_log import column_names, read_csv_log
from headwater_updater.ope.log import BanditLog


def read(folder: Path, text: str, *renamed: str, context: list[str] | None = None, max_bad_rows: int = 0) -> BanditLog:
    path = folder / "log.csv"
    path.write_text(text)
    return read_csv_log(path, column_names(renamed), context, max_bad_rows)


def test_the_three_columns_are_enough(tmp_path: Path) -> None:
    """Everything is in the first place, and every row for itself."""
    log = read(tmp_path, "reward,item_id,propensity\n1,b,0.5\n-2.5,a,1\n0,b,1e-6\n")
    assert log.item_ids == ("a", "b")
    assert log.items.tolist() == [1, 0, 1]
    assert log.rewards.tolist() == [1, -2.5, 0]
    assert log.propensities.tolist() == [0.5, 1, 1e-6]
    assert log.positions.tolist() == [1, 1, 1]
    assert len(set(log.clusters.tolist())) == 3
    assert (log.clustered_by, log.context, log.target_propensities, log.predictions) == ("row", {}, None, None)
    assert log.facts == {"file": "log.csv", "bad_rows": 0}


def test_every_column_is_read(tmp_path: Path) -> None:
    """Context columns by their prefix, others left alone."""
    text = (
        "item_id,propensity,reward,position,cluster,target_propensity,predicted_reward,predicted_value,context_b,"
        "context_a,note\na,.5,1,3,u1,.25,.1,.2,x,1,?\nb,.5,0,1,u2,0,.3,.4,y,2,?\na,.5,0,3,u1,1,.5,.6,z,3,?\n"
    )
    log = read(tmp_path, text)
    assert log.positions.tolist() == [3, 1, 3]
    assert log.clusters.tolist() == [0, 1, 0]
    assert log.clustered_by == "cluster"
    assert log.target_propensities is not None
    assert log.target_propensities.tolist() == [0.25, 0, 1]
    assert log.predictions is not None
    assert [part.tolist() for part in log.predictions] == [[0.1, 0.3, 0.5], [0.2, 0.4, 0.6], [0, 0, 0]]
    assert {name: cells.tolist() for name, cells in log.context.items()} == {
        "context_a": ["1", "2", "3"],
        "context_b": ["x", "y", "z"],
    }


def test_a_row_without_a_cluster_stands_alone(tmp_path: Path) -> None:
    """Nobody's rows do not all belong together."""
    log = read(tmp_path, "item_id,propensity,reward,cluster\na,.5,1,\na,.5,1,u\na,.5,1,\na,.5,1,u\n")
    first, second, third, fourth = log.clusters.tolist()
    assert second == fourth
    assert sorted({first, second, third}) == [0, 1, 2]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    """A file of others is read as it is, gzipped or not, and context is what is named."""
    text = "item,p,click,user,feature,context_x\na,.5,1,u,f,g\nb,.25,0,u,f,g\n"
    names = ("item_id=item", "propensity=p", "reward=click", "cluster=user")
    plain = read(tmp_path, text, *names, context=["feature"])
    assert (plain.clustered_by, list(plain.context)) == ("user", ["feature"])
    assert plain.propensities.tolist() == [0.5, 0.25]
    zipped = tmp_path / "log.csv.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    assert np.array_equal(read_csv_log(zipped, column_names(names)).propensities, plain.propensities)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,0,1,1", "line 3: propensity: 0, though the item was shown"),
        ("a,1.01,1,1", "line 3: propensity: 1.01 is no probability"),
        ("a,-0.1,1,1", "line 3: propensity: -0.1 is no probability"),
        ("a,nan,1,1", "line 3: propensity: 'nan' is not a number"),
        ("a,0.5,,1", "line 3: reward: '' is not a number"),
        ("a,0.5,inf,1", "line 3: reward: 'inf' is not a number"),
        ("a,0.5,1,0", "line 3: position: '0' is no place; places count from 1"),
        ("a,0.5,1,1.5", "line 3: position: '1.5' is no place"),
        (",0.5,1,1", "line 3: item_id: must not be empty"),
        ("a,0.5,1", "line 3: has 3 cells; the header has 4"),
    ],
)
def test_a_bad_row_is_told_by_line_and_column(tmp_path: Path, row: str, reason: str) -> None:
    """And left out when so many are put up with."""
    text = f"item_id,propensity,reward,position\nb,0.5,1,1\n{row}\n"
    with pytest.raises(DataFileError) as caught:
        read(tmp_path, text)
    assert reason in str(caught.value)
    assert len(read(tmp_path, text, max_bad_rows=1)) == 1


@pytest.mark.parametrize(
    ("header", "renamed", "context", "reason"),
    [
        ("item_id,reward", [], None, "lacks the column propensity"),
        ("item_id,propensity,reward", ["cluster=user"], None, "lacks the column user"),
        ("item_id,propensity,reward", [], ["age"], "lacks the column age"),
        ("item_id,propensity,reward,predicted_value", [], None, "of use only together"),
    ],
)
def test_a_missing_column_is_named(
    tmp_path: Path, header: str, renamed: list[str], context: list[str] | None, reason: str
) -> None:
    """Also one that need not be there, when it was asked for."""
    cells = ",".join("1" for _ in header.split(","))
    with pytest.raises(DataFileError, match=reason):
        read(tmp_path, f"{header}\n{cells}\n", *renamed, context=context)


@pytest.mark.parametrize("entry", ["click", "reward=", "clicks=reward", "=x"])
def test_a_name_that_is_none_is_refused(entry: str) -> None:
    """With those that there are."""
    with pytest.raises(InvalidFieldError, match=r"column: .* one of item_id, propensity, reward, position"):
        column_names([entry])


def test_places_can_be_chosen(tmp_path: Path) -> None:
    """Everything of the other rows goes, and clusters are counted anew."""
    text = "item_id,propensity,reward,position,cluster,predicted_reward,predicted_value,context_a\n" + "".join(
        f"i{n},0.5,{n},{n},c{n},{n},{n},{n}\n" for n in range(1, 5)
    )
    log = read(tmp_path, text).at([2, 4])
    assert (log.rewards.tolist(), log.clusters.tolist(), log.positions.tolist()) == ([2, 4], [0, 1], [2, 4])
    assert log.context["context_a"].tolist() == ["2", "4"]
    assert log.predictions is not None
    assert log.predictions.value.tolist() == [2, 4]
    with pytest.raises(InvalidFieldError, match="position: the log holds nothing there; its places: 1, 2, 3, 4"):
        read(tmp_path, text).at([7])
