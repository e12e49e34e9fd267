"""HR@10 over a stream, arm by arm: a plot from the reports of `headwater-updater evaluate --protocol prequential`.

`python benchmarks/quality/prequential_curves.py --plot P.png "latest-small=latest.json" "Online Retail=retail.json"`
draws a panel for each report, by the name before its last "=".
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ARMS = {
    "online weights, live history": "#225588",
    "frozen weights, live history": "#ee6677",
    "counts alone, live history": "#66ccee",
    "item-kNN": "#228833",
    "own items": "#aa3377",
    "recent-popular": "#bbbbbb",
}
"""Those drawn, with their colours."""


def main() -> int:
    """Read the reports and draw."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("reports", nargs="+", metavar="NAME=REPORT.json")
    parser.add_argument("--plot", type=Path, required=True)
    arguments = parser.parse_args()
    reports: dict[str, dict[str, Any]] = {}
    for named in arguments.reports:
        name, _, path = named.rpartition("=")
        try:
            reports[name or path] = json.loads(Path(path).read_text("utf-8"))["arms"]
        except (OSError, ValueError, KeyError) as error:
            sys.exit(f"error: {path}: {type(error).__name__}: {error}")
    draw(reports, arguments.plot)
    return 0


def draw(reports: dict[str, dict[str, Any]], path: Path) -> None:
    """A panel for each report: HR@10 of each arm in twenty parts of the stream."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(reports), figsize=(4.6 * len(reports), 3.6), layout="constrained", squeeze=False
    )
    for axis, (name, arms) in zip(axes[0], reports.items(), strict=True):
        for arm, colour in ARMS.items():
            if arm in arms:
                values = arms[arm]["hr_at_10_over_time"]
                share = [100 * (place + 0.5) / len(values) for place in range(len(values))]
                axis.plot(share, values, color=colour, label=arm)
        axis.set(title=name, xlabel="% of the stream", ylabel="HR@10")
    lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    figure.legend(
        list(lines.values()), [str(label) for label in lines], loc="outside lower center", ncols=3, fontsize=7
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
