"""Draws calls/s beside echo, of what `serving.py --out` wrote: `python benchmarks/serving_plot.py IN.json OUT.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def main(source: Path, target: Path) -> None:
    """Draw."""
    rows = [row for row in json.loads(source.read_text()) if row["paced"] is None]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    callers = sorted({row["callers"] for row in rows})
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for offset, n in enumerate(callers):
        ratios = {row["case"]: row["to_echo"] for row in rows if row["callers"] == n}
        places = [place + 0.4 * offset - 0.2 for place in range(len(cases))]
        axes.barh(places, [ratios.get(case, 0.0) for case in cases], height=0.38, label=f"{n} in flight")
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xlabel("calls/s beside a bare gRPC echo, same run")
    axes.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
