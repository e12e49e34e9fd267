"""What a soak found: causes of failed calls, latencies in and outside faults, slopes, and a verdict by the bounds."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from soak_traffic import DELETION, READS, WINDOW_S, Failure, Seen

WORKER, DATABASE = "worker", "database"
BUSY = frozenset({"RESOURCE_EXHAUSTED", "CANCELLED", "DEADLINE_EXCEEDED"})
_REFUSED, _UNEXCUSED = "too busy", "otherwise"
_DIED = "worker_died"
_SETTLED_S = 2.0
"""So long after a fault calls that began in it may still end."""
_FEWEST_SAMPLES = 8


@dataclass
class Fault:
    """One fault, on time.monotonic's clock."""

    kind: str
    began_s: float
    ended_s: float = 0.0
    """When what was killed was there again."""
    recovered_s: float | None = None
    """When the first write was acknowledged after that; of a worker, when the new one served."""


@dataclass
class Samples:
    """Of one process: when, its memory, its open files."""

    at_s: list[float] = field(default_factory=list)
    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


@dataclass
class Behind:
    """When, and how many events, of those that the updater had seen in the log, no generation had learned."""

    at_s: list[float] = field(default_factory=list)
    events: list[int] = field(default_factory=list)


@dataclass
class Findings:
    """One run, at its end."""

    arguments: argparse.Namespace
    """As `soak.py` takes them."""
    seen: Seen
    events: Mapping[str, int]
    """As the ledger counts them."""
    faults: Sequence[Fault]
    samples: Mapping[str, Samples]
    """By process."""
    behind: Behind
    updater: Mapping[str, float]
    """The updater's metrics, as they were read last."""
    updater_said: Mapping[str, int]
    """What the updater logged, by name."""
    errors: Sequence[Mapping[str, Any]]
    """What the server logged as errors."""
    troubles: Sequence[str]
    """What kept the run itself from its end."""
    began_s: float
    """On time.monotonic's clock."""
    capacity_per_s: float
    """Calls, as measured first."""
    learned_s: float
    """How long after the last event all were learned and served."""

    def found(self) -> dict[str, Any]:
        """All of it, for JSON; `verdict` is empty when nothing was lost, wrong or, with bounds, over them."""
        arguments, seen, events = self.arguments, self.seen, self.events
        by_cause: dict[str, list[Failure]] = {}
        for failure in seen.failures:
            by_cause.setdefault(self._cause(failure), []).append(failure)
        unexcused, refused = by_cause.get(_UNEXCUSED, []), len(by_cause.get(_REFUSED, []))
        calm, troubled = self._by_faults()
        memory = {name: _slope(samples) for name, samples in self.samples.items()}
        files = {
            name: [samples.files[0], max(samples.files), samples.files[-1]] for name, samples in self.samples.items()
        }
        errors = Counter(line["event"] for line in self.errors)
        verdict = [
            *self.troubles,
            *(f"{name}: {events[name]}" for name in ("lost", "twice", "never_sent") if events[name]),
        ]
        if seen.n_wrong:
            verdict.append(f"wrong answers: {seen.n_wrong}")
        if unexcused:
            verdict.append(f"failed calls: {len(unexcused)}")
        killed = sum(fault.kind == WORKER for fault in self.faults)
        if errors.pop(_DIED, 0) != killed:
            verdict.append(f"workers ended that were not killed, or the other way round ({killed} killed)")
        verdict += [f"errors in the log, {name}: {count}" for name, count in errors.items()]
        if arguments.bounds:
            if refused:
                verdict.append(f"refused outside faults: {refused}")
            verdict += self._over_bounds(calm, memory, files)
        return {
            "minutes": arguments.minutes,
            "capacity_per_s": round(self.capacity_per_s, 1),
            "load": arguments.load,
            "calls": dict(seen.calls),
            "generations": len(seen.generations),
            "judged": seen.n_judged,
            "wrong": seen.n_wrong,
            "wrong_examples": seen.wrong[:20],
            "degraded": sum(tally.degraded for tally in seen.windows.values()),
            "events": events,
            "learned_after_s": round(self.learned_s, 1),
            "failed": {
                cause: dict(Counter(f"{failure.kind}: {failure.status}" for failure in failures))
                for cause, failures in sorted(by_cause.items())
            },
            "failed_otherwise": [asdict(failure) | {"at_s": failure.at_s - self.began_s} for failure in unexcused[:50]],
            "outside_faults": calm,
            "in_faults": troubled,
            "faults": [self._told(fault) for fault in self.faults],
            "memory_mib_per_minute": memory,
            "open_files_first_most_last": files,
            "errors": [line for line in self.errors if line["event"] != _DIED][:20],
            "behind": asdict(self.behind),
            "updater": dict(self.updater),
            "updater_said": dict(self.updater_said),
            "samples": {name: asdict(samples) for name, samples in self.samples.items()},
            "windows": [
                {
                    "at_s": round(number * WINDOW_S - self.began_s, 1),
                    "calls": len(tally.latencies_s),
                    "failed": tally.failed,
                    "degraded": tally.degraded,
                    **quantiles_ms(tally.latencies_s),
                }
                for number, tally in sorted(seen.windows.items())
            ],
            "verdict": verdict,
        }

    def _over_bounds(
        self, calm: Mapping[str, float], memory: Mapping[str, float | None], files: Mapping[str, Sequence[int]]
    ) -> Iterator[str]:
        """What is slower or more than it may be, or was not seen often enough to say."""
        arguments = self.arguments
        if not calm["calls"] or None in memory.values():
            yield "too little to judge by"
        if calm["p99_ms"] > arguments.p99_ms:
            yield f"p99 outside faults: {calm['p99_ms']:.0f} ms"
        if calm["degraded"]:
            yield f"degraded outside faults: {calm['degraded']}"
        for fault in map(self._told, self.faults):
            if fault["recovery_s"] is None or fault["recovery_s"] > arguments.recovery:
                yield f"{fault['kind']} killed at {fault['at_s']} s, recovery: {fault['recovery_s']} s"
        for name, slope in memory.items():
            if slope is not None and slope > arguments.mib_per_minute:
                yield f"memory of the {name}: {slope:+.2f} MiB a minute"
        for name, (first, most, last) in files.items():
            if last > first + arguments.more_files:
                yield f"open files of the {name}: {first}, at most {most}, {last}"

    def _cause(self, failure: Failure) -> str:
        """Under what a failed call is counted."""
        for fault in self.faults:
            if fault.began_s <= failure.at_s <= (fault.recovered_s or np.inf) + _SETTLED_S:
                needs_database = failure.status == "UNAVAILABLE" and failure.kind not in READS
                if fault.kind == DATABASE and (needs_database or failure.status in BUSY):
                    return "database away"
                if fault.kind == WORKER and failure.kind == DELETION:
                    return "worker killed"
        return _REFUSED if failure.status in BUSY else _UNEXCUSED

    def _by_faults(self) -> Sequence[dict[str, float]]:
        """Of windows that no fault touched, and of the others: latencies, and how many answers were degraded."""
        latencies_s: dict[bool, list[float]] = {False: [], True: []}
        degraded = {False: 0, True: 0}
        for number, tally in self.seen.windows.items():
            begins_s, ends_s = number * WINDOW_S, (number + 1) * WINDOW_S
            is_touched = any(
                fault.began_s < ends_s and (fault.recovered_s or fault.began_s) + WINDOW_S > begins_s
                for fault in self.faults
            )
            latencies_s[is_touched].extend(tally.latencies_s)
            degraded[is_touched] += tally.degraded
        return [
            {"calls": len(latencies_s[each]), "degraded": degraded[each], **quantiles_ms(latencies_s[each])}
            for each in (False, True)
        ]

    def _told(self, fault: Fault) -> dict[str, Any]:
        recovery_s = None if fault.recovered_s is None else fault.recovered_s - fault.ended_s
        return {
            "kind": fault.kind,
            "at_s": round(fault.began_s - self.began_s, 2),
            "away_s": round(fault.ended_s - fault.began_s, 2),
            "recovery_s": None if recovery_s is None else round(recovery_s, 3),
        }


def _slope(samples: Samples) -> float | None:
    """MiB a minute over the second half; None: too few samples to say."""
    half = len(samples.mib) // 2
    if len(samples.mib) - half < _FEWEST_SAMPLES:
        return None
    return round(60 * float(np.polyfit(samples.at_s[half:], samples.mib[half:], 1)[0]), 3)


def _mean(metrics: Mapping[str, float], histogram: str) -> float:
    return metrics.get(f"{histogram}_sum", 0.0) / max(1.0, metrics.get(f"{histogram}_count", 0.0))


def quantiles_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile, in milliseconds; zeros of nothing."""
    if not latencies_s:
        return {"p50_ms": 0.0, "p99_ms": 0.0}
    found = np.quantile(latencies_s, (0.5, 0.99))
    return {f"p{share}_ms": round(1000 * float(value), 2) for share, value in zip((50, 99), found, strict=True)}


def show(found: Mapping[str, Any]) -> None:
    """Write it out for a person."""
    write: Callable[[str], object] = sys.stdout.write
    calls = sum(found["calls"].values())
    write(f"{calls} calls in {found['minutes']:g} min at {found['load']:g} of {found['capacity_per_s']} calls/s; ")
    write(f"{found['generations']} generations; {found['judged']} answers judged, {found['wrong']} wrong, ")
    write(f"{found['degraded']} degraded\nevents: {found['events']}; learned {found['learned_after_s']} s after\n")
    for kind in (WORKER, DATABASE):
        told = [fault for fault in found["faults"] if fault["kind"] == kind]
        recoveries = sorted(fault["recovery_s"] for fault in told)
        if told:
            write(f"{kind} killed {len(told)} times; recovery median {recoveries[len(told) // 2]} s, ")
            write(f"longest {recoveries[-1]} s\n")
    write(f"failed: {found['failed']}\n")
    write("".join(f"  {failure}\n" for failure in found["failed_otherwise"]))
    write(f"outside faults {found['outside_faults']}, in faults {found['in_faults']}\n")
    rounds, published = (_mean(found["updater"], name) for name in ("round_seconds", "publish_seconds"))
    most = max(found["behind"]["events"], default=0)
    write(f"updater: a round {rounds:.3f} s, a publication {published:.3f} s, at most {most} ")
    write(f"events behind; it said {found['updater_said']}\n")
    write(f"MiB a minute {found['memory_mib_per_minute']}, open files {found['open_files_first_most_last']}\n")
    write("".join(f"  {line}\n" for line in (*found["wrong_examples"], *found["errors"])))
    write(f"verdict: {'; '.join(found['verdict']) or 'nothing lost, nothing wrong'}\n")
