"""The commands that ask and tell: recommend, similar, search, write."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from headwater_client import Recommendations, event
from headwater_client._commands.frame import Session, command
from headwater_client._commands.output import show_json, show_lines, show_table

PageSize = Annotated[int, typer.Option("--page-size", "-n", help="How many items.", min=1, max=500)]
Categories = Annotated[list[str] | None, typer.Option("--category", help="Only items of one of these; repeatable.")]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", help="An item id to leave out; repeatable.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @command(app, "recommend")
    def recommend(
        session: Session,
        user: Annotated[str, typer.Argument(help="For whom: a user's id. Without one: what is popular now.")] = "",
        visitor: Annotated[str, typer.Option(help="For whom, when not signed in.")] = "",
        page_size: PageSize = 10,
        category: Categories = None,
        exclude: Exclude = None,
        context_item: Annotated[
            list[str] | None, typer.Option(help="An item the user looks at just now; repeatable.")
        ] = None,
        include_seen: Annotated[bool, typer.Option("--include-seen", help="Do not leave out what was seen.")] = False,
        diversity: Annotated[float | None, typer.Option(help="0 to 1: variety for score.", min=0, max=1)] = None,
        explain: Annotated[bool, typer.Option("--explain", help="Say why each item is there.")] = False,
        locale: Annotated[str, typer.Option(help="The language of the reasons: en, de, …")] = "",
        label: Annotated[str | None, typer.Option(help="Which published set answers, by label.")] = None,
        generation: Annotated[int | None, typer.Option(help="Which published set answers, by number.")] = None,
        strategy: Annotated[str, typer.Option(help="Which strategy makes the slate.")] = "",
        min_consistency_token: Annotated[str, typer.Option(help="Of a write that the answer must have seen.")] = "",
    ) -> None:
        """Recommend items to a user."""
        answer = session.client.recommend(
            user_id=user,
            visitor_id=visitor,
            page_size=page_size,
            categories=category or (),
            exclude_item_ids=exclude or (),
            context_item_ids=context_item or (),
            exclude_seen=False if include_seen else None,
            diversity=diversity,
            explain=explain,
            locale=locale,
            label=label,
            generation=generation,
            strategy=strategy,
            min_consistency_token=min_consistency_token,
            return_items=True,
        )
        _show(session, answer)

    @command(app, "similar")
    def similar(
        session: Session,
        item: Annotated[str, typer.Argument(help="To which item: its id.")],
        page_size: PageSize = 10,
        category: Categories = None,
        exclude: Exclude = None,
    ) -> None:
        """Find the items nearest to an item."""
        answer = session.client.similar_items(
            item,
            page_size=page_size,
            categories=category or (),
            exclude_item_ids=exclude or (),
            return_items=True,
        )
        _show(session, answer)

    @command(app, "search")
    def search(
        session: Session,
        query: Annotated[str, typer.Argument(help="What to look for; the last word may be unfinished.")],
        user: Annotated[str, typer.Option(help="For whom the order is made.")] = "",
        visitor: Annotated[str, typer.Option(help="For whom, when not signed in.")] = "",
        page_size: PageSize = 10,
        category: Categories = None,
        exclude: Exclude = None,
        min_consistency_token: Annotated[str, typer.Option(help="Of a write that the answer must have seen.")] = "",
    ) -> None:
        """Find items by text."""
        answer = session.client.search_items(
            query,
            user_id=user,
            visitor_id=visitor,
            page_size=page_size,
            categories=category or (),
            exclude_item_ids=exclude or (),
            min_consistency_token=min_consistency_token,
            return_items=True,
        )
        _show(session, answer)

    @command(app, "write")
    def write(
        session: Session,
        event_type: Annotated[str, typer.Argument(help="view, click, like, rating, purchase, search, …")],
        user: Annotated[str, typer.Option(help="Who did it, when signed in.")] = "",
        visitor: Annotated[str, typer.Option(help="Who did it, when not signed in.")] = "",
        item: Annotated[str, typer.Option(help="To which item; not for a search.")] = "",
        query: Annotated[str, typer.Option(help="What was searched for.")] = "",
        value: Annotated[float | None, typer.Option(help="Stars, quantity, seconds.")] = None,
        time: Annotated[str, typer.Option(help="When, ISO 8601; UTC without a zone. Default: now.")] = "",
        event_id: Annotated[str, typer.Option(help="An id of your own; makes a repetition harmless.")] = "",
        attribution_token: Annotated[str, typer.Option(help="Of the answer that showed the item.")] = "",
    ) -> None:
        """Write one event."""
        event_time = datetime.fromisoformat(time) if time else None
        if event_time is not None and event_time.tzinfo is None:
            event_time = event_time.replace(tzinfo=UTC)
        written = event(
            event_type,
            user_id=user,
            visitor_id=visitor,
            item_id=item,
            query=query,
            value=value,
            event_time=event_time,
            event_id=event_id,
            attribution_token=attribution_token,
        )
        result = session.client.write(written).raise_for_refused()
        if session.as_json:
            show_json({"event_id": written.event_id, **_outcome(result.duplicates, result.consistency_token)})
            return
        outcome = "was there already" if result.duplicates else "written"
        show_lines([f"{outcome}: {written.event_id}", f"consistency token: {result.consistency_token}"])


def _outcome(duplicates: int, consistency_token: str) -> dict[str, object]:
    return {"duplicate": duplicates > 0, "consistency_token": consistency_token}


def _show(session: Session, answer: Recommendations) -> None:
    if session.as_json:
        show_json(answer)
        return
    show_table(
        ("rank", "item", "score", "title", "categories", "sources", "reasons"),
        (
            (
                one.rank,
                one.item_id,
                one.score,
                one.item.title if one.item is not None else "",
                ", ".join(one.item.categories) if one.item is not None else "",
                ", ".join(one.sources),
                "; ".join(one.reasons),
            )
            for one in answer
        ),
    )
    lines = [f"generation {answer.generation}" + (f", strategy {answer.strategy}" if answer.strategy else "")]
    if answer.degraded:
        lines.append(f"degraded: {'; '.join(answer.degraded_reasons)}")
    lines.extend(f"notice: {notice}" for notice in answer.notices)
    show_lines(lines)
