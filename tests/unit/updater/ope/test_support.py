"""What a log cannot tell is refused, with every reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from headwater_updater.ope.log import BanditLog, ShownRow, bandit_log
from headwater_updater.ope.support import Support, SupportError, check, measure
from headwater_updater.ope.target import Distribution, Target, logged, uniform

WELL = Support(1_000, 600.0, 0.01, 1.02, 0.03, 0, 0.0)


def make(items: list[str], propensities: list[float]) -> BanditLog:
    return bandit_log([ShownRow(item, 1, 0.0, p) for item, p in zip(items, propensities, strict=True)])


def refusal(support: Support) -> tuple[str, ...]:
    with pytest.raises(SupportError) as caught:
        check(support)
    assert caught.value.support == support
    assert str(caught.value) == "refused for lack of support: " + "; ".join(caught.value.reasons)
    return caught.value.reasons


def test_a_log_that_covers_the_policy_is_let_pass() -> None:
    """No rule is broken; nor where it is not known what else the policy shows."""
    check(WELL)
    check(dataclasses.replace(WELL, unseen_share=None))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"effective_rows": 99.9}, "the effective sample size is 99.9 of 1000 rows (at least 100)"),
        ({"rows": 100_000}, "that is 0.60% of the rows (at least 1%)"),
        ({"largest_weight_share": 0.06}, "one row has 6.0% of all weight (at most 5%)"),
        ({"mean_weight": 0.7}, "the mean weight is 0.700 (standard error 0.030) and not 1"),
        ({"mean_weight": 1.3}, "the mean weight is 1.300"),
        ({"certain_rows": 1}, "1 of 1000 rows were shown with certainty (propensity 1)"),
        ({"unseen_share": 0.06}, "6.0% of what the policy would show are items that the log never shows"),
    ],
)
def test_each_rule_is_told_by_its_reason(change: dict[str, float], reason: str) -> None:
    """One rule broken is one reason, with the figure and the limit."""
    (found,) = refusal(dataclasses.replace(WELL, **change))  # type: ignore[arg-type]
    assert reason in found


def test_a_mean_weight_that_may_be_chance_is_let_pass() -> None:
    """Far from 1, but within what few heavy rows do; or surely off, but by little."""
    check(dataclasses.replace(WELL, mean_weight=0.7, mean_weight_error=0.1))
    check(dataclasses.replace(WELL, mean_weight=0.9, mean_weight_error=0.001))


def test_all_reasons_are_told_at_once() -> None:
    """What is to be mended is known after one run."""
    assert len(refusal(Support(10_000, 2.0, 0.7, 0.1, 0.01, 5, 0.5))) == 6


def test_what_is_measured() -> None:
    """Of four rows, by pen: weights 2, .5, 1, .5."""
    log = make(["a", "b", "a", "b"], [0.25, 1.0, 0.5, 1.0])
    found = measure(log, uniform(log))
    assert found.rows == 4
    assert found.effective_rows == pytest.approx(16 / 5.5)
    assert found.largest_weight_share == pytest.approx(0.5)
    assert found.mean_weight == 1.0
    assert found.mean_weight_error == pytest.approx(np.std([2, 0.5, 1, 0.5]) / 2)
    assert found.certain_rows == 2
    assert found.unseen_share == 0.0


def test_certainty_is_no_matter_where_the_policy_is_as_certain() -> None:
    """A row shown with propensity 1 supports a policy that shows the same."""
    log = make(["a", "b"], [1.0, 1.0])
    assert measure(log, logged(log)).certain_rows == 0
    assert measure(log, Target("t", np.array([1.0, 0.9]))).certain_rows == 1


def test_unseen_items_are_counted_by_place() -> None:
    """An item shown in one place supports no other; one that the log never shows supports none."""
    rows = [
        ShownRow("a", 1, 0.0, 0.5),
        ShownRow("b", 1, 0.0, 0.5),
        ShownRow("a", 2, 0.0, 0.5),
        ShownRow("a", 2, 0.0, 0.5),
    ]
    log = bandit_log(rows)
    assert measure(log, uniform(log)).unseen_share == pytest.approx(0.25)
    assert measure(log, uniform(log, ["a", "b", "c", "d"])).unseen_share == pytest.approx((0.5 + 0.75) / 2)
    assert measure(log, logged(log)).unseen_share is None


def test_clusters_widen_the_doubt_about_the_mean_weight() -> None:
    """Rows that belong together are one observation."""
    log = make(["a", "b"] * 50, [0.3, 0.7] * 50)
    together = dataclasses.replace(
        log, clusters=np.repeat(np.arange(2), 50)[np.argsort(log.items, kind="stable").argsort()]
    )
    target = Target("t", np.full(100, 0.5), Distribution(np.full((1, 2), 0.5), np.zeros(100, np.int64)))
    assert measure(together, target).mean_weight_error > 5 * measure(log, target).mean_weight_error


def test_a_policy_that_shows_nothing_of_the_log_has_no_support() -> None:
    """All weights 0."""
    log = make(["a", "b"], [0.5, 0.5])
    found = measure(log, Target("t", np.zeros(2)))
    assert (found.effective_rows, found.largest_weight_share) == (0.0, 0.0)
    assert len(refusal(found)) >= 2
