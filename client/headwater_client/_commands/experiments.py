"""The commands of `headwater experiments`, and `outcomes`: who is answered by what, and what came of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from headwater.v1.experiment_service_pb2 import ExperimentVersion
from headwater_client._commands.documents import Expected, File, plain_version, read_document, show_version, written
from headwater_client._commands.frame import Session, command
from headwater_client._commands.output import show_json, show_lines, show_table

Name = Annotated[str, typer.Argument(help="The experiment's name.")]
_CLICK = "click"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    experiments = typer.Typer(help="Let strategies or generations compete, and see who leads.", no_args_is_help=True)
    app.add_typer(experiments, name="experiments")

    @command(experiments, "list")
    def list_(session: Session) -> None:
        """List the experiments that run."""
        found = session.client.list_experiments()
        if session.as_json:
            show_json({"experiments": [plain_version(each) for each in found]})
            return
        show_table(("name", "version", "written", "allocation", "surfaces", "arms"), (_row(each) for each in found))

    @command(experiments, "show")
    def show(session: Session, name: Name) -> None:
        """Show how the arms of an experiment stand, and who leads."""
        found = session.client.get_experiment(name)
        if session.as_json:
            show_json(found)
            return
        show_table(
            ("segment", "arm", "share", "slates", "users", "reward", "rate", "+/-"),
            (
                (
                    one.segment,
                    one.arm,
                    one.share,
                    one.slates,
                    one.users or None,
                    one.reward,
                    one.rate,
                    one.half_width if one.HasField("half_width") else None,
                )
                for one in found.arms
            ),
        )
        if (found.experiment.experiment.allocation or "fixed") == "fixed":
            lines = [f"leads: {found.leader or 'nobody yet'}"]
            if found.has_mismatch:
                lines.append("the users came to the arms otherwise than by their shares: do not trust the rates")
            show_lines(lines)

    @command(experiments, "put")
    def put(session: Session, name: Name, file: File, expected: Expected = None) -> None:
        """Start an experiment, or change how it goes on."""
        version = session.client.put_experiment(name, read_document(file), expected_version=expected)
        show_version(session, name, version, "")

    @command(experiments, "delete")
    def delete(session: Session, name: Name) -> None:
        """End an experiment; what it counted is forgotten."""
        show_version(session, name, session.client.delete_experiment(name), "ended, ")

    @command(app, "outcomes")
    def outcomes(
        session: Session,
        by: Annotated[str, typer.Option(help="source, strategy, place, arm or surface.")] = "source",
        hours: Annotated[float, typer.Option(help="What was shown in so many last hours.", min=0.01)] = 24.0,
    ) -> None:
        """Tell what was shown and what came of it."""
        rows = session.client.get_outcomes(by, start_time=datetime.now(UTC) - timedelta(hours=hours))
        if session.as_json:
            show_json({"rows": rows})
            return
        types = sorted({name for row in rows for name in row.events})
        show_table(
            (by, "shown", *types, "clicks per item shown", "reward"),
            (
                (
                    row.key,
                    row.shown,
                    *(row.events.get(name, 0) for name in types),
                    row.events[_CLICK] / row.shown if row.shown and _CLICK in row.events else None,
                    row.reward,
                )
                for row in rows
            ),
        )


def _row(version: ExperimentVersion) -> tuple[object, ...]:
    experiment = version.experiment
    return (
        version.name,
        version.version,
        written(version),
        (experiment.allocation or "fixed") + (", frozen" if experiment.frozen else ""),
        ", ".join(experiment.surfaces) or "all",
        ", ".join(f"{arm.name} ({arm.strategy or 'default'})" for arm in experiment.arms),
    )
