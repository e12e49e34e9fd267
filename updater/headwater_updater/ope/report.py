"""What an off-policy evaluation leaves behind: a table, and the same as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from headwater_updater.evaluation.reports import versions
from headwater_updater.ope.estimators import RESAMPLES
from headwater_updater.ope.evaluation import Evaluation
from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.target import Target

_NAMES = {
    "logged": "as logged",
    "ips": "IPS",
    "snips": "SNIPS",
    "dm": "direct method",
    "dr": "doubly robust",
}


def content(log: BanditLog, target: Target, found: Evaluation, seed: int) -> dict[str, Any]:
    """All that is known, for the JSON file."""
    return {
        "policy": target.name,
        "estimates": {name: each._asdict() for name, each in found.estimates.items()},
        "interval": {
            "level": 0.95,
            "kind": "percentile bootstrap; of what is weighted, widened to a score interval",
            "resampled": log.clustered_by,
            "resamples": RESAMPLES,
            "seed": seed,
        },
        "reward_model": found.reward_model,
        "support": asdict(found.support),
        "log": {
            **log.facts,
            "rows": len(log),
            "items": len(log.item_ids),
            "clusters": int(log.clusters.max()) + 1,
            "clustered_by": log.clustered_by,
            "context": list(log.context),
        },
        "versions": versions(),
    }


def show(found: Evaluation) -> None:
    """The estimates and how well the log covers the policy, on standard output."""
    table = Table("", "reward per shown item", "95 %", box=None)
    for name, each in found.estimates.items():
        table.add_row(_NAMES[name], f"{each.value:.4g}", f"{each.low:.4g} to {each.high:.4g}")
    support = found.support
    covered = (
        f"effective sample size {support.effective_rows:.0f} of {support.rows} rows; mean weight "
        f"{support.mean_weight:.3f}; largest weight {support.largest_weight_share:.1%} of all"
    )
    Console().print(Group(table, covered, f"reward model: {found.reward_model}"))
