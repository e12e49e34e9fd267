"""What the simulator found over several seeds: regrets and recoveries, beside the targets.

`python benchmarks/strategy/simulator_report.py run-0.json run-1.json run-2.json`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REGRET_TARGET, RECOVERY_TARGET = 0.5, 0.25
_NO_SOURCES = ("daily refit", "adaptive")


def main() -> int:
    """Print two tables."""
    parser = argparse.ArgumentParser(description="The simulator's runs, added up")
    parser.add_argument("files", type=Path, nargs="+", help="what simulator.py --out wrote")
    runs = [json.loads(path.read_text()) for path in parser.parse_args().files]
    write: Callable[[str], object] = sys.stdout.write
    write(
        "| seed | oracle earned | best single source | its regret | daily refit | adaptive | ratio to best single |\n"
    )
    write("| --- | --- | --- | --- | --- | --- | --- |\n")
    for run in runs:
        name, single = best_single(run)
        others = [run["policies"][policy]["regret"] for policy in _NO_SOURCES]
        cells = f"{run['oracle']:.3f} | {name} | {single:.0f} | {others[0]:.0f} | {others[1]:.0f}"
        ratio = others[1] / single if single else float("inf")
        write(f"| {run['seed']} | {cells} | {ratio:.2f} |\n")
    regret = sum(run["policies"]["adaptive"]["regret"] for run in runs)
    single = sum(best_single(run)[1] for run in runs)
    write(f"\nregret, all seeds: {regret / single:.2f} of the best single source's (target: {REGRET_TARGET})\n\n")
    for what, of in (("changes that tell policies apart", True), ("all changes", False)):
        refit, adaptive = (np.array(recoveries(runs, policy, only_telling=of)) for policy in _NO_SOURCES)
        write(f"{what}: {len(refit)}; visits to recover, mean: daily refit {refit.mean():.0f}, ")
        write(f"adaptive {adaptive.mean():.0f}: {adaptive.mean() / refit.mean():.2f} (target: {RECOVERY_TARGET})\n")
        write(f"    daily refit: {', '.join(map(str, refit))}\n    adaptive: {', '.join(map(str, adaptive))}\n")
    return 0


def best_single(run: dict[str, Any]) -> tuple[str, float]:
    """The source that regrets least over a whole run, known when all is over; and its regret."""
    sources = {name: each["regret"] for name, each in run["policies"].items() if name not in _NO_SOURCES}
    name = min(sources, key=lambda source: sources[source])
    return name, sources[name]


def recoveries(runs: list[dict[str, Any]], policy: str, *, only_telling: bool) -> list[int]:
    """A policy's visits to recover from each change of all runs, or from each that tells policies apart."""
    return [
        visits
        for run in runs
        for visits, telling in zip(run["policies"][policy]["visits_to_recover"], run["tells_apart"], strict=True)
        if telling or not only_telling
    ]


if __name__ == "__main__":
    sys.exit(main())
