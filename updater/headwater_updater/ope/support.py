"""Whether a log can say anything about a policy: it must have shown, often enough, what the policy would show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headwater_core.errors import HeadwaterError
from headwater_updater.ope.estimators import effective_rows
from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.target import Target

MIN_EFFECTIVE_ROWS = 100
"""With fewer the interval says less than it claims."""
MIN_EFFECTIVE_SHARE = 0.01
"""Of all rows: below, the policies have next to nothing in common, and a little error in a propensity decides."""
MAX_WEIGHT_SHARE = 0.05
"""Of all weight, on one row."""
MEAN_WEIGHT_TOLERANCE = 0.2
"""How far the mean weight may surely be from 1: below, so much of what the policy shows the log hardly ever shows."""
SURELY = 3.3
"""Standard errors: 1 in 1,000."""
MAX_UNSEEN_SHARE = 0.05
"""Of what the policy would show, on items that the log never shows in that place."""
_SAME = 1e-9


class SupportError(HeadwaterError):
    """The log cannot tell what the policy would earn."""

    def __init__(self, support: Support, reasons: tuple[str, ...]) -> None:
        """Args: support: what was measured; reasons: every rule that is broken."""
        super().__init__("refused for lack of support: " + "; ".join(reasons))
        self.support = support
        self.reasons = reasons


@dataclass(frozen=True, slots=True)
class Support:
    """How well a log covers a policy."""

    rows: int
    effective_rows: float
    """The effective sample size of the weights."""
    largest_weight_share: float
    """What share of all weight is on one row."""
    mean_weight: float
    """1 on average, when the log's propensities are right and above 0 for all that the policy shows."""
    mean_weight_error: float
    """Its standard error."""
    certain_rows: int
    """Shown with certainty, where the policy would also show something else."""
    unseen_share: float | None
    """What share of its showings the policy gives to items that the log never shows there; None: it is not known."""


def measure(log: BanditLog, target: Target) -> Support:
    """How well the log covers the policy."""
    weights = target.propensities / log.propensities
    total = float(weights.sum())
    sums = np.bincount(log.clusters, weights - weights.mean())
    return Support(
        rows=len(log),
        effective_rows=effective_rows(weights),
        largest_weight_share=float(weights.max()) / total if total else 0.0,
        mean_weight=total / len(log),
        mean_weight_error=float(np.sqrt(np.square(sums).sum())) / len(log),
        certain_rows=int(((log.propensities == 1) & (target.propensities < 1 - _SAME)).sum()),
        unseen_share=_unseen_share(log, target),
    )


def check(support: Support) -> None:
    """Refuse what the log cannot tell.

    Raises:
        SupportError: a rule is broken; names all that are.
    """
    reasons = []
    if support.certain_rows:
        reasons.append(
            f"{support.certain_rows} of {support.rows} rows were shown with certainty (propensity 1), where the policy "
            "would show something else at times: of that the log knows nothing"
        )
    if support.unseen_share is not None and support.unseen_share > MAX_UNSEEN_SHARE:
        reasons.append(
            f"{support.unseen_share:.1%} of what the policy would show are items that the log never shows in that "
            f"place (at most {MAX_UNSEEN_SHARE:.0%})"
        )
    if support.effective_rows < MIN_EFFECTIVE_ROWS:
        reasons.append(
            f"the effective sample size is {support.effective_rows:.1f} of {support.rows} rows "
            f"(at least {MIN_EFFECTIVE_ROWS})"
        )
    if support.effective_rows < MIN_EFFECTIVE_SHARE * support.rows:
        reasons.append(
            f"that is {support.effective_rows / support.rows:.2%} of the rows (at least {MIN_EFFECTIVE_SHARE:.0%})"
        )
    if support.largest_weight_share > MAX_WEIGHT_SHARE:
        reasons.append(f"one row has {support.largest_weight_share:.1%} of all weight (at most {MAX_WEIGHT_SHARE:.0%})")
    off = abs(support.mean_weight - 1)
    if off > MEAN_WEIGHT_TOLERANCE and off > SURELY * support.mean_weight_error:
        reasons.append(
            f"the mean weight is {support.mean_weight:.3f} (standard error {support.mean_weight_error:.3f}) and not 1: "
            "propensities are wrong, or next to 0 for some of what the policy would show"
        )
    if reasons:
        raise SupportError(support, tuple(reasons))


def _unseen_share(log: BanditLog, target: Target) -> float | None:
    if target.distribution is None:
        return None
    table, rows = target.distribution
    places = np.unique(log.positions, return_inverse=True)[1]  # (N,)
    seen = np.zeros((places.max() + 1, len(log.item_ids)))
    seen[places, log.items] = 1.0
    covered = table @ seen.T  # (K, places)
    return float(1.0 - covered[rows, places].mean())
