"""The command that shows what a user's recommendations rest on."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from headwater.v1.user_service_pb2 import Activity, AttributeInterest, GetProfileResponse, Interest
from headwater_client._commands.frame import Session, command
from headwater_client._commands.output import show_json, show_lines, show_table


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "profile")
    def profile(
        session: Session,
        user: Annotated[str, typer.Argument(help="Whose: a user's id.")] = "",
        visitor: Annotated[str, typer.Option(help="Whose, when not signed in.")] = "",
    ) -> None:
        """Show what a user turns to and away from, what that rests on, and how active the user is."""
        if bool(user) == bool(visitor):
            raise ValueError("give a user or --visitor, one of them")
        found = session.client.get_profile(user_id=user, visitor_id=visitor)
        if session.as_json:
            show_json(found)
            return
        _show(found)


def _show(found: GetProfileResponse) -> None:
    if not found.HasField("activity"):
        show_lines(["no events"])
        return
    rows = [("turns to", each.category, *_basis(each)) for each in found.interests]
    rows += [("turns to", f"{each.key}: {each.value}", *_basis(each)) for each in found.attributes]
    rows += [("turns away from", each.category, *_basis(each)) for each in found.aversions]
    rows += [("turns away from", f"{each.key}: {each.value}", *_basis(each)) for each in found.attribute_aversions]
    show_table(("", "what", "share", "events", "last", "most by"), rows)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(found.event_counts.items()))
    show_lines(
        [
            f"events: {counts}; from {_time(found.first_event_time)} to {_time(found.last_event_time)}",
            _activity(found.activity),
        ]
    )


def _basis(each: Interest | AttributeInterest) -> tuple[float, int, str, str]:
    """What it rests on."""
    return each.share, each.event_count, _time(each.last_event_time), ", ".join(each.strongest_item_ids)


def _activity(activity: Activity) -> str:
    hours = activity.events_by_hour
    busiest = max(range(len(hours)), key=hours.__getitem__)
    return (
        f"last day: {activity.events_last_day}, week: {activity.events_last_week}, "
        f"30 days: {activity.events_last_30_days}; different days: {activity.active_days}, "
        f"sessions: {activity.sessions}; busiest hour: {busiest:02}:00 UTC"
    )


def _time(timestamp: Timestamp) -> str:
    return timestamp.ToDatetime().strftime("%Y-%m-%d %H:%M")
