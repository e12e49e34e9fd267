"""A soak's verdict: empty when all went well, and a line for whatever did not."""

from __future__ import annotations

from argparse import Namespace
from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest
from soak_report import DATABASE, WORKER, Behind, Fault, Findings, Samples
from soak_traffic import Failure, Seen, Tally

BOUNDS = Namespace(minutes=1.0, load=0.7, bounds=True, p99_ms=500.0, recovery=5.0, mib_per_minute=1.0, more_files=10)
LEDGER = {"sent": 2, "acknowledged": 2, "found": 2, "lost": 0, "twice": 0, "never_sent": 0}


def samples(mib: Callable[[int], float] = lambda at: 100.0, last_files: int = 20) -> Samples:
    """Of 20 moments, five seconds apart."""
    return Samples([5.0 * at for at in range(20)], [mib(at) for at in range(20)], [*[20] * 19, last_files])


def errors(**counts: int) -> list[dict[str, str]]:
    """Lines of a server's log, so many of each name."""
    return [{"event": name} for name, count in counts.items() for _ in range(count)]


@pytest.fixture
def well() -> Findings:
    """A run that found nothing: a worker and the database killed, and calls refused for that alone."""
    calm, troubled = Tally(array("f", [0.1] * 10)), Tally(array("f", [3.0] * 10), degraded=5)
    failures = [Failure(61.0, "write", "UNAVAILABLE", ""), Failure(11.0, "delete", "UNAVAILABLE", "")]
    return Findings(
        arguments=BOUNDS,
        seen=Seen(windows={6: calm, 12: troubled}, failures=failures),
        events=LEDGER,
        faults=[Fault(WORKER, 10.0, 10.5, 12.0), Fault(DATABASE, 60.0, 63.0, 63.5)],
        samples={"first worker": samples()},
        behind=Behind([5.0], [3]),
        updater={},
        updater_said={"generation_published": 1},
        errors=errors(worker_died=1),
        troubles=[],
        began_s=0.0,
        capacity_per_s=100.0,
        learned_s=1.0,
    )


def test_nothing_is_said_of_a_run_in_which_all_went_well(well: Findings) -> None:
    """What a fault explains is counted under it."""
    found = well.found()
    assert found["verdict"] == []
    assert set(found["failed"]) == {"database away", "worker killed"}
    assert found["outside_faults"]["p99_ms"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (Failure(61.0, "recommend", "UNAVAILABLE", ""), "failed calls: 1"),
        (Failure(61.0, "write", "UNKNOWN", ""), "failed calls: 1"),
        (Failure(11.0, "write", "UNAVAILABLE", ""), "failed calls: 1"),
        (Failure(30.0, "delete", "UNAVAILABLE", ""), "failed calls: 1"),
        (Failure(30.0, "write", "RESOURCE_EXHAUSTED", ""), "refused outside faults: 1"),
        (Failure(30.0, "profile", "KeyError", ""), "failed calls: 1"),
    ],
)
def test_a_failure_that_no_fault_explains_counts(well: Findings, failure: Failure, verdict: str) -> None:
    """Reads go on without the database; nothing but deletions may fail when a worker is killed."""
    well.seen.failures.append(failure)
    assert well.found()["verdict"] == [verdict]


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        (lambda run: replace(run, events={**LEDGER, "lost": 1}), "lost: 1"),
        (lambda run: replace(run, errors=errors(worker_died=2)), "workers ended that were not killed"),
        (lambda run: replace(run, errors=errors(worker_died=1, loop_failed=3)), "errors in the log, loop_failed: 3"),
        (lambda run: replace(run, troubles=["RuntimeError: no worker"]), "RuntimeError: no worker"),
        (lambda run: replace(run, seen=replace(run.seen, n_wrong=1)), "wrong answers: 1"),
        (lambda run: replace(run, faults=[*run.faults[:1], Fault(DATABASE, 60.0, 63.0, 69.0)]), "recovery: 6.0 s"),
        (lambda run: replace(run, samples={"updater": samples(lambda at: 100.0 + at)}), "MiB a minute"),
        (lambda run: replace(run, samples={"updater": samples(last_files=31)}), "open files of the updater"),
        (lambda run: replace(run, samples={"updater": Samples([0.0], [1.0], [1])}), "too little to judge by"),
        (lambda run: replace(run, arguments=Namespace(**{**vars(BOUNDS), "p99_ms": 50.0})), "p99 outside faults"),
    ],
)
def test_what_did_not_go_well_is_said(well: Findings, changed: Callable[[Findings], Findings], verdict: str) -> None:
    """One line for each thing."""
    [told] = changed(well).found()["verdict"]
    assert verdict in told


def test_answers_are_whole_outside_faults(well: Findings) -> None:
    """A degraded one there is told, with bounds."""
    well.seen.windows[6].degraded = 1
    assert well.found()["verdict"] == ["degraded outside faults: 1"]
    well.arguments = Namespace(**{**vars(BOUNDS), "bounds": False})
    assert well.found()["verdict"] == []
