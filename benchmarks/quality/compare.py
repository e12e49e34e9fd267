"""Headwater beside what it must beat: one split, one scorer, the same wall budget.

`python benchmarks/quality/compare.py --events E.csv.gz --items I.csv.gz --min-core 5 --budget-minutes 10 --out FOLDER`
divides the events as `headwater-updater evaluate --protocol leave-one-out` does, has every method write a list of 100
items for each user who is asked, and measures all lists alike. What FOLDER already holds is not computed again.
SASRec and the RecBole models run in an environment of their own: see README.md here.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from baselines import BASELINES, rank_with
from division import Division, divide, write_division
from scoring import markdown, mean_over_seeds, measured, paired

from headwater_core.errors import HeadwaterError
from headwater_updater.evaluation.events_file import read_events
from headwater_updater.evaluation.reports import write_predictions, write_report

HEADWATER = "headwater"
BENCH_SCRIPTS = {
    "sasrec": "rectools_sasrec.py",
    "lightgcn": "recbole_models.py",
    "neumf": "recbole_models.py",
    "multvae": "recbole_models.py",
}
ALL_METHODS = (*(name for name in BASELINES if name != "own-items"), HEADWATER, *BENCH_SCRIPTS)
HERE = Path(__file__).parent
_SPLIT_FOLDER = "split"
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
"""Large allocations kept by malloc: with them full softmax takes half the time, so SASRec is given them."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every method is told."""

    events: Path
    items: Path | None
    min_core: int
    budget_minutes: float
    threads: int
    out: Path
    bench_python: Path
    division: Division

    def predictions(self, method: str, seed: int) -> Path:
        """Where a method's lists are."""
        return self.out / f"{method}-{seed}.jsonl"

    def facts(self, method: str, seed: int) -> Path:
        """What the run cost and chose."""
        return self.out / f"{method}-{seed}.json"


def compare(
    events: Annotated[Path, typer.Option(help="CSV or .csv.gz: user_id,item_id and, if known, timestamp or order")],
    out: Annotated[Path, typer.Option(help="Folder for the split, predictions and table.json")],
    budget_minutes: Annotated[float, typer.Option(min=0.01, help="Wall time of each method that trains")],
    items: Annotated[Path | None, typer.Option(help="CSV or .csv.gz of items; Headwater alone reads it")] = None,
    min_core: Annotated[int, typer.Option(min=0, help="First keep only users and items with so many events")] = 0,
    allow_repeats: Annotated[bool, typer.Option("--allow-repeats", help="Lists may hold items of the history")] = False,
    learn_validation: Annotated[
        bool, typer.Option("--learn-validation", help="All learn the validation events, too, after all choices")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Of the methods that train, by commas")] = "0,1,2",
    methods: Annotated[str, typer.Option(help=f"By commas, of {', '.join(ALL_METHODS)}, own-items")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Of each method")] = os.cpu_count() or 1,
    bench_python: Annotated[Path, typer.Option(help="Python of the baselines' environment")] = Path(
        ".venv-bench/bin/python"
    ),
    again: Annotated[bool, typer.Option("--again", help="Compute even what the folder already holds")] = False,
) -> None:
    """Run the methods named (else all), measure them, write table.json and print the table."""
    # Repeats make a user's own items an opponent; without them they may not be listed at all.
    default = [*ALL_METHODS, "own-items"] if allow_repeats else list(ALL_METHODS)
    names = list(dict.fromkeys(methods.split(","))) if methods else default
    if unknown := set(names) - {*ALL_METHODS, "own-items"}:
        raise typer.BadParameter(f"no such methods: {', '.join(sorted(unknown))}", param_hint="--methods")
    if "own-items" in names and not allow_repeats:
        raise typer.BadParameter("own-items needs --allow-repeats", param_hint="--methods")
    if BENCH_SCRIPTS.keys() & set(names) and not bench_python.exists():
        raise typer.BadParameter(f"{bench_python} does not exist; README.md here makes it", param_hint="--bench-python")
    division = divide(read_events(events), min_core, allow_repeats=allow_repeats, learn_validation=learn_validation)
    write_division(out / _SPLIT_FOLDER, division)
    job = Job(events, items, min_core, budget_minutes, threads, out, bench_python, division)
    runs = {name: [0] if name in BASELINES else [int(seed) for seed in seeds.split(",")] for name in names}
    for name, theirs in runs.items():
        for seed in theirs:
            if again or not is_done(job, name, seed):
                typer.echo(f"{name}, seed {seed}", err=True)
                run(job, name, seed)
    table = table_of(job, runs)
    write_report(out / "table.json", table)
    typer.echo(markdown(table["methods"]))
    if found := table["headwater_against_best_baseline"]:
        typer.echo(
            f"\n{HEADWATER} minus {found['baseline']}, NDCG@10 by user: {found['mean']:+.4f} "
            f"(95 %: {found['low']:+.4f} to {found['high']:+.4f})"
        )


def is_done(job: Job, method: str, seed: int) -> bool:
    """Whether the folder holds this run.

    Raises:
        ValueError: it holds one of another budget.
    """
    path = job.facts(method, seed)
    if not path.exists() or not job.predictions(method, seed).exists():
        return False
    budget_minutes = json.loads(path.read_text("utf-8"))["budget_minutes"]
    if budget_minutes not in (None, job.budget_minutes):
        raise ValueError(f"{path} had {budget_minutes:g} minutes: give --again or another folder for --out")
    return True


def run(job: Job, method: str, seed: int) -> None:
    """Have the method write its lists, and note what that cost.

    Raises:
        subprocess.CalledProcessError: a method in a process of its own failed; what it says is on standard error.
    """
    make: Callable[[Job, str, int], dict[str, Any]] = _run_baseline
    if method == HEADWATER:
        make = _run_headwater
    elif method in BENCH_SCRIPTS:
        make = _run_bench_script
    job.facts(method, seed).unlink(missing_ok=True)  # written last: it says that the run was finished
    started_s, cpu_started_s = time.monotonic(), _cpu_s()
    choices = make(job, method, seed)
    facts = {
        "method": method,
        "seed": seed,
        "budget_minutes": None if method in BASELINES else job.budget_minutes,
        "threads": job.threads,
        "wall_s": round(time.monotonic() - started_s, 2),
        "cpu_s": round(_cpu_s() - cpu_started_s, 2),
        **choices,
    }
    write_report(job.facts(method, seed), facts)


def table_of(job: Job, runs: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Every method's figures, and Headwater's difference from the best of the others by NDCG@10."""
    values = {
        name: mean_over_seeds([job.predictions(name, seed) for seed in theirs], job.division)
        for name, theirs in runs.items()
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, theirs in runs.items():
        facts = [json.loads(job.facts(name, seed).read_text("utf-8")) for seed in theirs]
        costs = {key: sum(each[key] for each in facts) / len(facts) for key in ("cpu_s", "wall_s")}
        rows[name] = {**measured(values[name]), **costs, "seeds": list(theirs), "runs": facts}
    others = [name for name in runs if name != HEADWATER]
    difference: dict[str, Any] = {}
    if HEADWATER in runs and others:
        best = max(others, key=lambda name: float(values[name]["ndcg_at_10"].mean()))
        found = paired(values[HEADWATER]["ndcg_at_10"], values[best]["ndcg_at_10"])
        difference = {"baseline": best, "metric": "ndcg_at_10", **found._asdict()}
    options = {name: getattr(job.division, name) for name in ("allow_repeats", "learn_validation", "has_times")}
    return {
        "events_file": job.events.name,
        "options": {"min_core": job.min_core, **options},
        "users": len(job.division.asked),
        "candidates": len(job.division.candidates),
        "methods": rows,
        "headwater_against_best_baseline": difference,
    }


def _run_baseline(job: Job, method: str, seed: int) -> dict[str, Any]:
    found = rank_with(method, job.division)
    write_predictions(job.predictions(method, seed), [user.user_id for user in job.division.asked], found.lists)
    return {"options": found.options, "validation_ndcg_at_10": found.validation_ndcg_at_10}


def _run_headwater(job: Job, method: str, seed: int) -> dict[str, Any]:
    report = job.out / f"{method}-{seed}.report.json"
    command: list[str | Path] = [Path(sys.executable).with_name("headwater-updater"), "evaluate"]
    command += ["--protocol", "leave-one-out"]
    command += ["--events", job.events, "--budget-minutes", str(job.budget_minutes), "--seed", str(seed)]
    command += ["--min-core", str(job.min_core), "--out", job.predictions(method, seed), "--report", report]
    command += ["--items", job.items] if job.items else []
    command += ["--allow-repeats"] if job.division.allow_repeats else []
    command += ["--learn-validation"] if job.division.learn_validation else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment(job))
    found = json.loads(report.read_text("utf-8"))
    ours = {
        "test_users": len(job.division.asked),
        "candidates": len(job.division.candidates),
        "targets": sum(len(user.targets["last"]) for user in job.division.asked),
    }
    theirs = {name: found["split"][name] for name in ours}
    if theirs != ours:
        raise ValueError(f"{report}: the split is another one: {theirs}, not {ours}")
    return {"validation_ndcg_at_10": found["validation"]["ndcg_at_10"]}


def _run_bench_script(job: Job, method: str, seed: int) -> dict[str, Any]:
    choices = job.out / f"{method}-{seed}.choices.json"
    command: list[str | Path] = [job.bench_python, HERE / BENCH_SCRIPTS[method], "--model", method]
    command += ["--split", job.out / _SPLIT_FOLDER, "--out", job.predictions(method, seed), "--choices", choices]
    command += ["--budget-minutes", str(job.budget_minutes), "--seed", str(seed), "--threads", str(job.threads)]
    environment = _environment(job) | _KEEP_MEMORY
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    found: dict[str, Any] = json.loads(choices.read_text("utf-8"))
    choices.unlink()
    return found


def _environment(job: Job) -> dict[str, str]:
    threads = str(job.threads)
    return {**os.environ, "OMP_NUM_THREADS": threads, "HEADWATER_BOOTSTRAP_THREADS": threads}


def _cpu_s() -> float:
    """Of this process and of those that it waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Tell what is wrong with the files or options without a traceback."""
    try:
        typer.run(compare)
    except (HeadwaterError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
