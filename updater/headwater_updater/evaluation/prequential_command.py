"""`evaluate --protocol prequential`: files in, the report of a stream out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from headwater_core import item_features
from headwater_core.errors import InvalidFieldError
from headwater_core.events import HistoryEvent
from headwater_core.text import TextEncoder
from headwater_updater.evaluation import prequential_report
from headwater_updater.evaluation.clock import Clock
from headwater_updater.evaluation.events_file import EventData, Ordering
from headwater_updater.evaluation.items_file import ItemData
from headwater_updater.evaluation.prequential_run import ONLINE, Outcome, Plan, run
from headwater_updater.evaluation.progress import OnProgress, training_note
from headwater_updater.evaluation.reports import machine, versions, write_report
from headwater_updater.evaluation.splits import Histories, k_core
from headwater_updater.evaluation.streams import timeline
from headwater_updater.evaluation.texts import TextTable
from headwater_updater.evaluation.training import configuration
from headwater_updater.learner import Learner
from headwater_updater.learner_config import Budget
from headwater_updater.settings import UpdaterSettings


class Options(NamedTuple):
    """What was asked for."""

    budget_minutes: float
    """Of each full training."""
    seed: int
    min_core: int
    allow_repeats: bool
    max_targets: int


def prequential(
    data: EventData,
    catalogue: ItemData,
    options: Options,
    settings: UpdaterSettings,
    clock: Clock,
    on_progress: OnProgress,
) -> tuple[Outcome, dict[str, Any]]:
    """What a stream gives, and its report without what is known of the files.

    Raises:
        InvalidFieldError: the events have no times, or too few different ones.
    """
    if data.ordering is not Ordering.TIMESTAMP:
        raise InvalidFieldError("protocol", "prequential needs events with a timestamp")
    histories = k_core(data.histories, options.min_core) if options.min_core else data.histories
    parts = timeline(histories)
    with clock.stage("encoding"):
        texts = _encoded(histories, catalogue, settings, on_progress)
    vector_dimension = max((len(vector) for vector in catalogue.vectors.values()), default=0)

    def features(item_ids: Sequence[str]) -> np.ndarray:
        of_text = texts.features([catalogue.texts.get(item_id, "") for item_id in item_ids])
        vectors = [catalogue.vectors.get(item_id) for item_id in item_ids]
        return item_features.join(of_text, vectors, vector_dimension)

    def train(purpose: str, known: Mapping[str, Sequence[HistoryEvent]]) -> Learner:
        training = list(known.values())
        config = configuration(
            training,
            data.event_types,
            settings,
            text_dimension=texts.dimension,
            vector_dimension=vector_dimension,
            allow_repeats=options.allow_repeats,
        )
        learner = Learner.create(config, options.seed, texts.features)
        item_ids = list(dict.fromkeys(event.item_id for events in training for event in events if event.item_id))
        learner.add_items(item_ids, features(item_ids))
        with clock.stage(purpose):
            learner.fit(
                training,
                Budget(seconds=60 * options.budget_minutes),
                lambda progress: on_progress(purpose, progress.elapsed_fraction, training_note(progress)),
                with_trend=True,
            )
        return learner

    plan = Plan(
        parts, data.is_target, options.allow_repeats, train, features, settings, options.max_targets, options.seed
    )
    outcome = run(plan, lambda stage, share: on_progress(stage, share, ""))
    content = {
        "protocol": "prequential",
        "options": options._asdict(),
        **prequential_report.report(outcome, options.seed),
        "time_s": {name: round(value, 2) for name, value in clock.stages_s.items()}
        | {"total": round(clock.elapsed_s, 2)},
        **machine(),
        "versions": versions(),
    }
    return outcome, content


def write(outcome: Outcome, content: Mapping[str, Any], out: Path, report: Path) -> None:
    """The report as JSON, and a line of JSON for each target: how the product foresaw it."""
    product = next(result for result in outcome.results if result.name == ONLINE)
    with out.open("w", encoding="utf-8") as file:
        for position, rank in zip(product.positions.tolist(), product.ranks.tolist(), strict=True):
            line = {"position": position, "user_id": outcome.user_of[position], "rank": rank}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    write_report(report, content)


def show(content: Mapping[str, Any]) -> None:
    """The main figures, as a table on standard output."""
    table = Table("", "HR@10", "NDCG@10", "the product's HR@10 minus it (95 %)", "relative", box=None)
    for row in prequential_report.summary(content):
        table.add_row(*row)
    console = Console()
    console.print(table)
    forgetting = content["forgetting"]
    if forgetting["targets"]:
        hr = forgetting["hr_at_10"]
        console.print(f"old targets ({forgetting['targets']}): HR@10 {hr['before']:.4f} → {hr['after']:.4f}")


def _encoded(
    histories: Histories, catalogue: ItemData, settings: UpdaterSettings, on_progress: OnProgress
) -> TextTable:
    """The features of all texts that any event is on."""
    events = [event for theirs in histories.values() for event in theirs]
    used = dict.fromkeys(text for event in events for text in (catalogue.texts.get(event.item_id, ""), event.query))
    wanted = [text for text in used if text.strip()]
    if not wanted:
        return TextTable(1)
    encoder = TextEncoder(settings.text_encoder_path)
    texts = TextTable(encoder.dimension)
    texts.fill(encoder, wanted, lambda: True, lambda share: on_progress("encoding texts", share, ""))
    return texts
