"""The commands `evaluate` and `rank`: files in, ranked lists and figures out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from headwater_core.errors import InvalidFieldError
from headwater_core.text import TextEncoder
from headwater_updater.evaluation.clock import Clock
from headwater_updater.evaluation.events_file import EventData, Ordering, read_events, read_users
from headwater_updater.evaluation.items_file import ItemData, read_items
from headwater_updater.evaluation.learner_scorer import LearnerScorer
from headwater_updater.evaluation.prequential_command import Options, prequential, show, write
from headwater_updater.evaluation.progress import OnProgress, progress_bar
from headwater_updater.evaluation.ranked_lists import ranked_lists
from headwater_updater.evaluation.reports import (
    check_writable,
    machine,
    metrics_of,
    target_facts,
    versions,
    write_predictions,
    write_report,
)
from headwater_updater.evaluation.splits import Protocol, Split, global_time, k_core, leave_one_out
from headwater_updater.evaluation.training import Task, Trained, train
from headwater_updater.learner_config import target_weights, users_repeat
from headwater_updater.settings import UpdaterSettings

EventsFile = Annotated[
    Path,
    typer.Option(help="CSV or .csv.gz: user_id,item_id and, if known, timestamp or order, event_type, value, query"),
]
ItemsFile = Annotated[
    Path | None,
    typer.Option(
        help="CSV or .csv.gz: item_id and, if known, title, categories (a|b), description, "
        "vector (numbers separated by spaces or ;, the same count for every item)"
    ),
]
BudgetMinutes = Annotated[
    float, typer.Option(min=0.01, help="Wall time for everything: reading, encoding, training, ranking.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
Predictions = Annotated[Path, typer.Option(help='Where to write {"user_id":…,"items":[100 ids]} lines.')]
AllowRepeats = Annotated[bool, typer.Option("--allow-repeats", help="Lists may hold items of the user's history.")]
MaxBadRows = Annotated[int, typer.Option(min=0, help="Rows of a file that may be unusable; they are left out.")]


def evaluate(
    events: EventsFile,
    protocol: Annotated[Protocol, typer.Option(help="How events are divided into what is learned and asked.")],
    budget_minutes: BudgetMinutes,
    out: Predictions,
    report: Annotated[Path, typer.Option(help="Where to write the figures, as JSON.")],
    items: ItemsFile = None,
    seed: Seed = 0,
    min_core: Annotated[int, typer.Option(min=0, help="First keep only users and items with so many events.")] = 0,
    allow_repeats: AllowRepeats = False,
    learn_validation: Annotated[
        bool,
        typer.Option("--learn-validation", help="Leave-one-out: learn the validation events, too, after all choices."),
    ] = False,
    query_time: Annotated[
        bool,
        typer.Option("--query-time", help="Tell the model when each target happened; see above. Report it apart."),
    ] = False,
    max_targets: Annotated[
        int, typer.Option(min=100, help="Prequential: so many of the stream's targets are foreseen, evenly spread.")
    ] = 20_000,
    max_bad_rows: MaxBadRows = 0,
) -> None:
    """Split a file of events, learn one part, rank all of its items for the users of the other, and measure.

    leave-one-out: a user's last timestamp block with a target is the test (each of its items a target, what comes
    after it left out), the block before it validation; without timestamps a block is one event. Users with fewer
    than 3 events are dropped. Validation events are in the histories that lists are made from, and learned only with
    --learn-validation.

    global-time: events are cut at the time of the first of their last fifth. What is before is learned, its
    validation blocks included; each user with a target after it is asked once, new users too. Measured on the first
    block of targets after the cut, and apart on all of them.

    prequential: three fifths of the events, by time, are the warm-up, one fifth is for tuning, the last is the stream:
    each of its targets is foreseen from what came before it, then learned. Beside the product stand simple
    recommenders, frozen weights, weights trained anew at intervals, and controls that must fail. The budget is that of
    each full training, of which there are five; going through the stream comes on top.

    Candidates are the items with a training event; any other target is a miss. Figures are means over users with 95 %
    bootstrap intervals.

    --query-time: the model reads how long after the last event it is asked: the time of the first target block minus
    that of the history's end, in training, validation and test. Figures published for HSTU and its like are made so.
    A target's own time says much about it, and what is served does not read it: report such figures apart. Without
    the option the time of what is asked is never read.
    """
    clock, settings = _start(budget_minutes)
    for path in (out, report):
        check_writable(path)
    if protocol is Protocol.PREQUENTIAL:
        for name, is_given in (("learn_validation", learn_validation), ("query_time", query_time)):
            if is_given:
                raise InvalidFieldError(name, "is not for --protocol prequential")
        options = Options(budget_minutes, seed, min_core, allow_repeats, max_targets)
        with progress_bar(clock) as on_progress:
            data, catalogue = _read(events, items, max_bad_rows, clock, on_progress)
            outcome, found = prequential(data, catalogue, options, settings, clock, on_progress)
        write(outcome, {**found, "data": _data_facts(events, items, data, catalogue)}, out, report)
        show(found)
        return
    with progress_bar(clock) as on_progress:
        data, catalogue = _read(events, items, max_bad_rows, clock, on_progress)
        if query_time and data.ordering is not Ordering.TIMESTAMP:
            raise InvalidFieldError("query_time", "--query-time needs events with a timestamp")
        with clock.stage("splitting"):
            split = _split(data, protocol, min_core, learn_validation=learn_validation)
        _warn_of_repeats(split, data, allow_repeats=allow_repeats)
        asked = [user.history for user in split.test]
        learns_all = learn_validation or protocol is Protocol.GLOBAL_TIME
        task = Task(
            split.training,
            asked,
            split.candidates,
            catalogue.texts,
            catalogue.vectors,
            data.event_types,
            allow_repeats,
            learns_all,
            [user.query_time_us for user in split.test] if query_time else None,
        )
        trained, lists = _train_and_rank(task, settings, seed, clock, on_progress)
    with clock.stage("measuring"):
        metrics = metrics_of(split, lists, seed)
    write_predictions(out, [user.user_id for user in split.test], lists)
    main, *others = split.target_sets
    content: dict[str, Any] = {
        "protocol": protocol.value,
        "options": {
            "budget_minutes": budget_minutes,
            "seed": seed,
            "min_core": min_core,
            "allow_repeats": allow_repeats,
            "validation_learned": learns_all,
            "query_time": query_time,
            "max_bad_rows": max_bad_rows,
        },
        "data": _data_facts(events, items, data, catalogue),
        "split": {
            "test_users": len(split.test),
            "candidates": len(split.candidates),
            "training_histories": len(split.training),
            "events_in_training_histories": sum(map(len, split.training)),
            **target_facts(split),
            **split.facts,
        },
        "target_set": main,
        "metrics": metrics[main],
        "metrics_of_other_target_sets": {name: metrics[name] for name in others},
        **_training_facts(trained),
        "time_s": {**_rounded(clock.stages_s), "total": round(clock.elapsed_s, 2)},
        **machine(),
        "versions": versions(),
    }
    write_report(report, content)
    _show(content)


def rank(
    events: EventsFile,
    users: Annotated[Path, typer.Option(help="CSV or .csv.gz with the column user_id: whom to make lists for.")],
    budget_minutes: BudgetMinutes,
    out: Predictions,
    items: ItemsFile = None,
    seed: Seed = 0,
    allow_repeats: AllowRepeats = False,
    max_bad_rows: MaxBadRows = 0,
) -> None:
    """Learn every event of a file and write ranked lists for the users named, for others to measure.

    The last timestamp block of up to 2,000 users is held out to choose the weights by, then learned, too, by
    incremental steps: of what is given, nothing stays unlearned. Lists are made from all of a user's events. All
    items with an event are ranked. Users without events get what is popular.
    """
    clock, settings = _start(budget_minutes)
    check_writable(out)
    with progress_bar(clock) as on_progress:
        data, catalogue = _read(events, items, max_bad_rows, clock, on_progress)
        user_ids = read_users(users, max_bad_rows)
        training = list(data.histories.values())
        asked = [data.histories.get(user_id, []) for user_id in user_ids]
        candidates = dict.fromkeys(event.item_id for theirs in training for event in theirs if event.item_id)
        task = Task(
            training,
            asked,
            list(candidates),
            catalogue.texts,
            catalogue.vectors,
            data.event_types,
            allow_repeats,
            learn_validation=True,
        )
        trained, lists = _train_and_rank(task, settings, seed, clock, on_progress)
    write_predictions(out, user_ids, lists)
    unknown = sum(user_id not in data.histories for user_id in user_ids)
    typer.echo(
        f"{len(user_ids)} lists ({unknown} for unknown users) in {clock.elapsed_s:.1f} s; "
        f"validation NDCG@10 {trained.result.validation_ndcg_at_10:.4f}",
        err=True,
    )


def _start(budget_minutes: float) -> tuple[Clock, UpdaterSettings]:
    clock = Clock(budget_minutes * 60)
    settings = UpdaterSettings()
    settings.configure_logs()
    torch.set_num_threads(settings.bootstrap_threads or os.cpu_count() or 1)
    return clock, settings


def _read(
    events: Path, items: Path | None, max_bad_rows: int, clock: Clock, on_progress: OnProgress
) -> tuple[EventData, ItemData]:
    with clock.stage("reading"):
        # The shorter file first: what is wrong with it is told at once.
        catalogue = ItemData({}) if items is None else read_items(items, max_bad_rows)
        data = read_events(events, max_bad_rows, lambda share: on_progress("reading", share, ""))
    return data, catalogue


def _split(data: EventData, protocol: Protocol, min_core: int, *, learn_validation: bool) -> Split:
    if protocol is Protocol.GLOBAL_TIME and data.ordering is not Ordering.TIMESTAMP:
        raise InvalidFieldError("protocol", "global-time needs events with a timestamp")
    histories = k_core(data.histories, min_core) if min_core else data.histories
    if protocol is Protocol.GLOBAL_TIME:
        split = global_time(histories, data.is_target)
    else:
        split = leave_one_out(histories, data.is_target, learn_validation=learn_validation)
    if not split.test:
        raise InvalidFieldError("protocol", f"{protocol.value} finds no user to test on")
    if len(split.candidates) < 2:
        raise InvalidFieldError("protocol", f"{protocol.value} leaves {len(split.candidates)} items to rank")
    return split


def _train_and_rank(
    task: Task, settings: UpdaterSettings, seed: int, clock: Clock, on_progress: OnProgress
) -> tuple[Trained, list[list[str]]]:
    def encoder() -> TextEncoder:
        return TextEncoder(settings.text_encoder_path)

    trained = train(task, settings, seed, clock, encoder, on_progress)
    with clock.stage("ranking"):
        lists = ranked_lists(
            LearnerScorer(trained.learner, task.candidates),
            task.asked,
            allow_repeats=task.allow_repeats,
            query_times_us=task.query_times_us,
            on_share=lambda share: on_progress("ranking", share, ""),
        )
    return trained, lists


def _warn_of_repeats(split: Split, data: EventData, *, allow_repeats: bool) -> None:
    if not allow_repeats and users_repeat(split.training, target_weights(data.event_types)):
        typer.echo("warning: users come back to items here; without --allow-repeats these targets are misses", err=True)


def _data_facts(events_file: Path, items_file: Path | None, data: EventData, catalogue: ItemData) -> dict[str, Any]:
    events = [event for theirs in data.histories.values() for event in theirs]
    types: dict[str, int] = {}
    for event in events:
        types[event.event_type] = types.get(event.event_type, 0) + 1
    return {
        "events_file": events_file.name,
        "items_file": items_file and items_file.name,
        "ordering": data.ordering.value,
        "users": len(data.histories),
        "items": len({event.item_id for event in events if event.item_id}),
        "events": len(events),
        "events_by_type": types,
        "events_left_out": data.n_left_out,
        "bad_rows": data.n_bad_rows,
        "catalogue_items": len(catalogue.texts),
        "items_with_a_vector": len(catalogue.vectors),
        "bad_item_rows": catalogue.n_bad_rows,
    }


def _training_facts(trained: Trained) -> dict[str, Any]:
    result = trained.result
    return {
        "validation": {
            "hr_at_10": result.validation_hr_at_10,
            "ndcg_at_10": result.validation_ndcg_at_10,
            "mean_over": "users, by the targets of their held-out blocks",
            "max_users": trained.max_validation_users,
        },
        "training": {
            "best_epoch": result.epochs,
            "loss": result.loss,
            "curve": [point._asdict() for point in result.curve],
            "budget_s": round(trained.training_budget_s, 2),
            "texts": trained.n_texts,
            "texts_encoded": trained.n_texts_encoded,
            "tower": trained.learner.config.tower.to_dict(),
        },
    }


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in seconds.items()}


def _show(content: dict[str, Any]) -> None:
    """The main figures, as a table on standard output."""
    table = Table("", "mean", "95 %", box=None)
    for name, found in content["metrics"].items():
        label = name.upper().replace("_AT_", "@") if isinstance(found, dict) else "coverage@10"
        if isinstance(found, dict):
            table.add_row(label, f"{found['mean']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}")
        else:
            table.add_row(label, f"{found:.4f}", "")
    Console().print(table)
