"""The progress bar of a run: what is being done, how well it goes, how long it may still take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from headwater_updater.evaluation.clock import Clock
from headwater_updater.full_training import Progress as TrainingProgress

OnProgress = Callable[[str, float, str], None]
"""Told the stage, the share of it that is done (0 to 1), and what else is to be shown."""


def training_note(progress: TrainingProgress) -> str:
    """Loss and validation of a training that goes on."""
    validation = progress.validation_ndcg_at_10
    shown = "…" if validation is None else f"{validation:.4f}"
    return f"loss {progress.loss:.3f}, validation NDCG@10 {shown}"


@contextmanager
def progress_bar(clock: Clock) -> Iterator[OnProgress]:
    """A bar on standard error for each stage; the latest also says how much of the budget is left."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=10),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, tuple[int, str]] = {}

        def report(stage: str, share: float, note: str = "") -> None:
            if stage not in tasks:
                for task, last in tasks.values():
                    bar.update(task, completed=1.0, note=last)  # type: ignore[arg-type]
                tasks[stage] = bar.add_task(stage, total=1.0, note=""), ""
            tasks[stage] = tasks[stage][0], note
            left = f"{int(clock.left_s) // 60}:{int(clock.left_s) % 60:02d} left"
            shown = f"{note}, {left}" if note else left
            bar.update(tasks[stage][0], completed=share, note=shown)  # type: ignore[arg-type]

        yield report
