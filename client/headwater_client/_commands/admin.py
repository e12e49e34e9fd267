"""The commands that look after a server: generations, rollback, set-label, delete-user, health."""

from __future__ import annotations

from typing import Annotated

import typer

from headwater.v1.model_service_pb2 import Generation, GenerationState
from headwater_client import HealthStatus
from headwater_client._commands.frame import EXIT_FAILED, Session, command
from headwater_client._commands.output import show_json, show_lines, show_table

_LIVENESS = "liveness"
Label = Annotated[str, typer.Argument(help="The label; `stable` is what recommend answers from.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @command(app, "generations")
    def generations(
        session: Session,
        limit: Annotated[int, typer.Option("--limit", "-n", help="How many, newest first.", min=1, max=1000)] = 20,
    ) -> None:
        """List the published generations, newest first."""
        found = session.client.list_generations(page_size=limit).generations
        if session.as_json:
            show_json({"generations": found})
            return
        show_table(
            ("number", "labels", "state", "published", "items", "kind", "watermark", "bytes", "metrics", "failure"),
            (_row(generation) for generation in found),
        )

    @command(app, "rollback")
    def rollback(session: Session, label: Label = "stable") -> None:
        """Point a label back at the generation before the one it names."""
        answer = session.client.rollback(label)
        if session.as_json:
            show_json({"label": label, "generation": answer.generation, "previous": answer.previous_generation})
            return
        show_lines([f"{label}: {answer.previous_generation} -> {answer.generation}"])

    @command(app, "set-label")
    def set_label(
        session: Session,
        label: Label,
        generation: Annotated[int, typer.Argument(help="The generation's number.")],
        expected: Annotated[int | None, typer.Option(help="Only if the label names this generation now.")] = None,
    ) -> None:
        """Point a label at a generation."""
        previous = session.client.set_label(label, generation, expected_generation=expected)
        if session.as_json:
            show_json({"label": label, "generation": generation, "previous": previous})
            return
        show_lines([f"{label}: {previous or 'new'} -> {generation}"])

    @command(app, "delete-user")
    def delete_user(
        session: Session,
        user: Annotated[str, typer.Argument(help="Whom: a user's id.")] = "",
        visitor: Annotated[str, typer.Option(help="Whom, when never signed in.")] = "",
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    ) -> None:
        """Erase a user for good: events, states, impressions, and those of linked visitors."""
        if bool(user) == bool(visitor):
            raise ValueError("give a user or --visitor, one of them")
        if not yes:
            typer.confirm(f"Erase everything about {user or visitor} for good?", abort=True, err=True)
        erased = session.client.delete_user(user_id=user, visitor_id=visitor)
        if session.as_json:
            show_json(erased)
            return
        lines = [f"erased: {erased.events_deleted} events, {erased.impressions_deleted} impressions"]
        if erased.linked_visitor_ids:
            lines.append(f"visitors erased along: {', '.join(erased.linked_visitor_ids)}")
        if erased.first_clean_generation:
            lines.append(f"first generation that cannot have learned from it: {erased.first_clean_generation}")
        show_lines(lines)

    @command(app, "health")
    def health(
        session: Session,
        service: Annotated[str, typer.Argument(help="One service. Default: the server as a whole.")] = "",
        live: Annotated[
            bool, typer.Option("--live", help="Whether the process works at all, ready to recommend or not.")
        ] = False,
    ) -> None:
        """Ask the server for its health; the exit code is 0 only when it is SERVING."""
        if live and service:
            raise ValueError("give a service or --live, one of them")
        service = _LIVENESS if live else service
        status = session.client.health(service)
        if session.as_json:
            show_json({"service": service, "status": status})
        else:
            show_lines([status.name])
        if status is not HealthStatus.SERVING:
            raise typer.Exit(EXIT_FAILED)


def _row(generation: Generation) -> tuple[object, ...]:
    return (
        generation.number,
        ", ".join(generation.labels),
        GenerationState.Name(generation.state).removeprefix("GENERATION_STATE_").lower(),
        generation.publish_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
        generation.item_count,
        "full" if generation.full else "delta",
        generation.watermark,
        generation.total_bytes,
        ", ".join(f"{name}={value:.4f}" for name, value in sorted(generation.metrics.items())),
        generation.failure,
    )
