"""The command `ope`: a log and a policy in, what the policy would have earned out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import torch
import typer

from headwater_core.database import Database
from headwater_core.errors import InvalidFieldError
from headwater_updater.evaluation.items_file import read_items
from headwater_updater.evaluation.reports import check_writable, write_report
from headwater_updater.lease import now_us
from headwater_updater.ope import report
from headwater_updater.ope.csv_log import column_names, read_csv_log
from headwater_updater.ope.evaluation import evaluate_policy
from headwater_updater.ope.log import BanditLog
from headwater_updater.ope.own_log import OwnRewards, read_own_log
from headwater_updater.ope.target import COLUMN, LOGGED, UNIFORM, Target, from_column, from_file, logged, uniform
from headwater_updater.settings import UpdaterSettings

_HOUR_US = 3_600_000_000


def ope(
    log: Annotated[Path | None, typer.Argument(help="CSV or .csv.gz; without it, our own impressions.")] = None,
    *,
    policy: Annotated[str, typer.Option(help="uniform, logged, column, or a CSV: item_id,target_propensity")],
    items: Annotated[Path | None, typer.Option(help="CSV with item_id: what uniform chooses from.")] = None,
    position: Annotated[list[int] | None, typer.Option(min=1, help="Only these places; may be repeated.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="How the file calls a column: reward=click; may be repeated.")
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(help="A column known before the choice, may be repeated; else those named context_…."),
    ] = None,
    max_bad_rows: Annotated[int, typer.Option(min=0, help="Rows that may be unusable; they are left out.")] = 0,
    reward: Annotated[
        list[str] | None, typer.Option(help="Our own log: events that count (click, unless told); may be repeated.")
    ] = None,
    window_hours: Annotated[
        float, typer.Option(min=0.001, help="Our own log: how long after the showing they count.")
    ] = 24.0,
    days: Annotated[float, typer.Option(min=0.01, help="Our own log: how far back.")] = 30.0,
    database_url: Annotated[
        str | None, typer.Option(help="Our own log: SQLite or PostgreSQL (HEADWATER_DATABASE_URL).")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Our own log: whose data (HEADWATER_TENANT).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write all figures, as JSON.")] = None,
) -> None:
    """Estimate what a policy would have earned per shown item, from the log of the policy that served.

    LOG has a row for each shown item: item_id, propensity (with which probability it was shown), reward and, if known,
    position, cluster (rows that share it may depend on each other: a slate's, better a user's), target_propensity,
    predicted_reward with predicted_value, and columns named context_….

    Estimators: inverse propensity scoring (IPS), self-normalised (SNIPS), direct method, doubly robust; the last two
    where all is known that the policy would show, or the log brings predictions. Intervals, 95 %, are bootstraps over
    clusters, widened for the effective sample size. What the log cannot tell is refused with the reason.
    """
    if out is not None:
        check_writable(out)
    if log is None:
        _refuse(column=column, context=context, max_bad_rows=max_bad_rows)
        _check_own_policy(policy, items)
        found = _own(database_url, tenant, reward or ["click"], window_hours, days)
    else:
        _refuse(reward=reward, database_url=database_url, tenant=tenant)
        found = read_csv_log(log, column_names(column or []), context or None, max_bad_rows)
    if position:
        found = found.at(position)
    target = _target(policy, found, items)
    evaluation = evaluate_policy(found, target, seed)
    if out is not None:
        write_report(out, report.content(found, target, evaluation, seed))
    report.show(evaluation)


def _refuse(**given: object) -> None:
    """Raises: InvalidFieldError when an option is given that is for the other kind of log."""
    for name, value in given.items():
        if value:
            whose = "our own log" if name in ("reward", "database_url", "tenant") else "a CSV log"
            raise InvalidFieldError(name, f"is for {whose} alone")


def _own(
    database_url: str | None, tenant: str | None, reward: Sequence[str], window_hours: float, days: float
) -> BanditLog:
    given = {"database_url": database_url, "tenant": tenant}
    settings = UpdaterSettings.model_validate({name: value for name, value in given.items() if value is not None})
    settings.configure_logs()
    torch.set_num_threads(settings.training_threads)
    now = now_us()
    rewards = OwnRewards(reward, round(window_hours * _HOUR_US))
    with closing(Database(settings.database_url)) as database:
        database.check_schema()
        return read_own_log(database, settings.tenant, rewards, now - round(days * 24 * _HOUR_US), now)


def _check_own_policy(policy: str, items: Path | None) -> None:
    """Raises: InvalidFieldError when impressions do not hold what the policy would show."""
    if policy == COLUMN:
        raise InvalidFieldError("policy", "impressions hold the propensities of the policy that served, no others")
    if policy == UNIFORM and items is None:
        raise InvalidFieldError(
            "policy",
            "impressions do not say what else could have been shown; --items says what uniform chooses from",
        )


def _target(policy: str, log: BanditLog, items: Path | None) -> Target:
    if items is not None and policy != UNIFORM:
        raise InvalidFieldError("items", "is for --policy uniform")
    if policy == LOGGED:
        return logged(log)
    if policy == UNIFORM:
        return uniform(log, None if items is None else list(read_items(items).texts))
    if policy == COLUMN:
        return from_column(log)
    path = Path(policy)
    if not path.is_file():
        raise InvalidFieldError("policy", f"{policy!r} is neither {UNIFORM}, {LOGGED}, {COLUMN} nor a file")
    return from_file(path, log)
