"""How validation goes while the budget is used: a plot from the reports of `headwater-updater evaluate`.

`python benchmarks/quality/learning_curves.py --plot curves.png "2 minutes=short.json" "10 minutes=long.json"` draws a
curve for each report, by the name before its last "=".
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")


def points(report: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Minutes of training and validation NDCG@10 of the towers, a point for each validation.

    Raises:
        ValueError: the report holds no curve.
    """
    training = report.get("training", {})
    if not training.get("curve"):
        raise ValueError("the report holds no learning curve: is it one of evaluate's?")
    minutes = [point["elapsed_fraction"] * training["budget_s"] / 60 for point in training["curve"]]
    return minutes, [point["validation_ndcg_at_10"] for point in training["curve"]]


def draw(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: Path) -> None:
    """One panel with all curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for colour, (name, (minutes, values)) in zip(itertools.cycle(COLOURS), curves.items(), strict=False):
        axis.plot(minutes, values, marker="o", markersize=3, color=colour, label=name)
    axis.set(xlabel="minutes of training", ylabel="validation NDCG@10, towers alone")
    axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> int:
    """Read the reports and draw."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("reports", nargs="+", metavar="NAME=REPORT.json")
    parser.add_argument("--plot", type=Path, required=True)
    arguments = parser.parse_args()
    curves = {}
    for named in arguments.reports:
        name, _, path = named.rpartition("=")
        try:
            curves[name or path] = points(json.loads(Path(path).read_text("utf-8")))
        except (OSError, ValueError) as error:
            sys.exit(f"error: {path}: {error}")
    draw(curves, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
