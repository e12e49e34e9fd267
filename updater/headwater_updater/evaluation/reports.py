"""What a run leaves behind: predictions.jsonl and report.json."""

from __future__ import annotations

import json
import math
import platform
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from headwater_updater.evaluation.csv_rows import DataFileError
from headwater_updater.evaluation.metrics import bootstrap_interval, coverage, user_metrics
from headwater_updater.evaluation.splits import Split

_PACKAGES = ("headwater", "numpy", "torch")


def check_writable(path: Path) -> None:
    """Refuse, before hours of work, a file that could not be written.

    Raises:
        DataFileError: its folder does not exist, or it is a folder itself.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise DataFileError(path, "is a folder" if path.is_dir() else "its folder does not exist")


def write_predictions(path: Path, user_ids: Iterable[str], lists: Iterable[Sequence[str]]) -> None:
    """One line per user: {"user_id": …, "items": […]}, best item first; the file is there whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", encoding="utf-8") as file:
        for user_id, items in zip(user_ids, lists, strict=True):
            file.write(json.dumps({"user_id": user_id, "items": items}, ensure_ascii=False) + "\n")
    unfinished.replace(path)


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """The report as JSON; what is not finite (no loss, for one) becomes null."""
    path.write_text(json.dumps(_finite(report), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def metrics_of(split: Split, lists: Sequence[Sequence[str]], seed: int) -> dict[str, dict[str, Any]]:
    """By target set, every metric: a mean over users with its 95 % interval; coverage is of all lists together."""
    shown = coverage(lists, len(split.candidates))
    found: dict[str, dict[str, Any]] = {}
    for name in split.target_sets:
        metrics = user_metrics(lists, [user.targets[name] for user in split.test])
        found[name] = {metric: bootstrap_interval(values, seed)._asdict() for metric, values in metrics.items()}
        found[name]["coverage_at_10"] = shown
    return found


def target_facts(split: Split) -> dict[str, int]:
    """How many targets of the main set there are, and how many cannot be hit."""
    main = split.target_sets[0]
    candidates = set(split.candidates)
    targets = unknown = seen = 0
    for user in split.test:
        history = {event.item_id for event in user.history}
        targets += len(user.targets[main])
        unknown += sum(target not in candidates for target in user.targets[main])
        seen += sum(target in history for target in user.targets[main])
    return {"targets": targets, "targets_not_candidates": unknown, "targets_in_history": seen}


def versions() -> dict[str, str]:
    """Of Python and what the figures depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What the run had to work with, and the most memory that the process held so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"threads": torch.get_num_threads(), "peak_memory_mib": round(peak_bytes / 2**20, 1)}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
