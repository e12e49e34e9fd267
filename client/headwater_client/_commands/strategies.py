"""The commands of `headwater strategies`: how slates are made, looked at and changed."""

from __future__ import annotations

from itertools import zip_longest
from typing import Annotated, Any

import typer

from headwater.v1.strategy_service_pb2 import StrategyVersion
from headwater_client import RecommendRequest
from headwater_client._commands.documents import Expected, File, plain_version, read_document, show_version, written
from headwater_client._commands.frame import Session, command
from headwater_client._commands.output import show_json, show_table

Name = Annotated[str, typer.Argument(help="The strategy's name; `default` answers requests that name none.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    strategies = typer.Typer(help="Look at and change how slates are made.", no_args_is_help=True)
    app.add_typer(strategies, name="strategies")

    @command(strategies, "list")
    def list_(session: Session) -> None:
        """List the strategies that can answer now."""
        found = session.client.list_strategies()
        if session.as_json:
            show_json({"strategies": [plain_version(each) for each in found]})
            return
        show_table(("name", "version", "written", "ranking", "sources", "rules"), (_row(each) for each in found))

    @command(strategies, "show")
    def show(session: Session, name: Name = "default") -> None:
        """Show a strategy as JSON, which `put` reads."""
        show_json(plain_version(session.client.get_strategy(name))["strategy"])

    @command(strategies, "versions")
    def versions(session: Session, name: Name) -> None:
        """List the versions of a strategy, newest first."""
        found = session.client.list_strategy_versions(name).versions
        if session.as_json:
            show_json({"versions": [plain_version(each) for each in found]})
            return
        show_table(("name", "version", "written", "ranking", "sources", "rules"), (_row(each) for each in found))

    @command(strategies, "put")
    def put(session: Session, name: Name, file: File, expected: Expected = None) -> None:
        """Write the next version of a strategy; it answers on every server within a second."""
        version = session.client.put_strategy(name, read_document(file), expected_version=expected)
        show_version(session, name, version, "")

    @command(strategies, "delete")
    def delete(session: Session, name: Name) -> None:
        """Delete a strategy; its versions can still be listed."""
        show_version(session, name, session.client.delete_strategy(name), "deleted, ")

    @command(strategies, "preview")
    def preview(
        session: Session,
        file: File,
        user: Annotated[str, typer.Option(help="Whose slate: a user's id.")] = "",
        current: Annotated[str, typer.Option(help="Which strategy to compare with.")] = "default",
        page_size: Annotated[int, typer.Option("--page-size", "-n", help="How many items.", min=1, max=500)] = 10,
    ) -> None:
        """Show a user's slate as it is and as a strategy would make it, side by side; nothing is written."""
        request = RecommendRequest(user_id=user, strategy=current, page_size=page_size, return_items=True)
        answer = session.client.preview_strategy(request, read_document(file))
        if session.as_json:
            show_json(answer)
            return
        pairs = zip_longest(answer.current.results, answer.preview.results)
        show_table(
            ("place", answer.current.strategy, "sources", "preview", "sources "),
            ((place, *_cells(now), *_cells(then)) for place, (now, then) in enumerate(pairs, start=1)),
        )


def _row(version: StrategyVersion) -> tuple[object, ...]:
    if not version.HasField("strategy"):
        return version.name, version.version, written(version), "deleted", "", ""
    strategy = version.strategy
    counts = {"boosts": len(strategy.boosts), "caps": len(strategy.caps), "pins": len(strategy.pins)}
    said = [f"{count} {name}" for name, count in counts.items() if count]
    said += ["only"] if strategy.HasField("only") else []
    said += [f"diversity {strategy.diversity:g}"] if strategy.diversity else []
    said += [f"dislikes {strategy.dislikes:g}"] if strategy.HasField("dislikes") else []
    sources = ", ".join(_source(each.name, each.weight, each.HasField("weight")) for each in strategy.sources)
    return version.name, version.version, written(version), strategy.ranking or "blend", sources, ", ".join(said)


def _source(name: str, weight: float, has_weight: bool) -> str:
    return f"{name} x{weight:g}" if has_weight else name


def _cells(result: Any) -> tuple[str, str]:
    if result is None:
        return "", ""
    return result.item.title or result.item_id, ", ".join(result.sources)
