"""Draws a soak: `python benchmarks/soak_plot.py IN.json OUT.png`, of what `soak.py --out` wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

_COLOURS = {"worker": "tab:orange", "database": "tab:red"}


def main(source: Path, target: Path) -> None:
    """Draw latencies, failures, memory, open files and what is not learned yet over time, faults as lines."""
    found = json.loads(source.read_text())
    figure, (latency, failed, memory, files, behind) = plt.subplots(5, 1, figsize=(10, 11), sharex=True)
    minutes = [window["at_s"] / 60 for window in found["windows"]]
    for name in ("p50_ms", "p99_ms"):
        latency.plot(minutes, [window[name] for window in found["windows"]], label=name.replace("_", " "), lw=0.8)
    latency.set_yscale("log")
    latency.set_ylabel("ms, of 5 s")
    for name in ("failed", "degraded"):
        failed.plot(minutes, [window[name] for window in found["windows"]], label=name, lw=0.8)
    failed.set_ylabel("calls, of 5 s")
    for name, samples in found["samples"].items():
        at = [each / 60 for each in samples["at_s"]]
        memory.plot(at, samples["mib"], label=name, lw=0.8)
        files.plot(at, samples["files"], label=name, lw=0.8)
    memory.set_ylabel("MiB, proportional")
    files.set_ylabel("open files")
    behind.plot([each / 60 for each in found["behind"]["at_s"]], found["behind"]["events"], label="updater", lw=0.8)
    behind.set_ylabel("events not published")
    behind.set_xlabel("minutes; a line: killed, a worker (orange), PostgreSQL (red)")
    for axes in (latency, failed, memory, files, behind):
        for fault in found["faults"]:
            axes.axvline(fault["at_s"] / 60, color=_COLOURS[fault["kind"]], lw=0.4, alpha=0.5)
        axes.legend(loc="upper right", fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
