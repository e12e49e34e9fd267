"""The fake's answers of UserService."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import grpc

from headwater.v1 import user_service_pb2 as users
from headwater.v1.event_pb2 import Event
from headwater_client.testing._answers.core import Answers, Refusal, invalid
from headwater_client.testing._state import FakeState

_NEGATIVE = frozenset({"cancel", "dislike", "hide"})
_DAY_S = 24 * 3600


def get_profile(state: FakeState, request: users.GetProfileRequest) -> users.GetProfileResponse:
    history = [stored.event for stored in state.history(request.user_id, request.visitor_id)]
    liked = [event for event in history if event.event_type not in _NEGATIVE]
    disliked = [event for event in history if event.event_type in _NEGATIVE]
    return users.GetProfileResponse(
        interests=_categories(state, liked),
        attributes=_attributes(state, liked),
        aversions=_categories(state, disliked),
        attribute_aversions=_attributes(state, disliked),
        activity=_activity(history) if history else None,
        event_counts=Counter(event.event_type for event in history),
        first_event_time=history[0].event_time if history else None,
        last_event_time=history[-1].event_time if history else None,
        recent_events=history[:-21:-1],
    )


def _categories(state: FakeState, events: Sequence[Event]) -> list[users.Interest]:
    found = []
    for category, share in state.category_shares(events).items():
        own = [
            each for each in events if each.item_id in state.items and category in state.items[each.item_id].categories
        ]
        found.append(
            users.Interest(
                category=category,
                share=share,
                last_event_time=own[-1].event_time,
                event_count=len(own),
                strongest_item_ids=_most_met(own),
            )
        )
    return found


def _attributes(state: FakeState, events: Sequence[Event]) -> list[users.AttributeInterest]:
    by_value: dict[tuple[str, str], list[Event]] = {}
    totals: Counter[str] = Counter()
    for event in events:
        if event.item_id in state.items:
            for entry in state.items[event.item_id].attributes.items():
                by_value.setdefault(entry, []).append(event)
                totals[entry[0]] += 1
    return [
        users.AttributeInterest(
            key=key,
            value=value,
            share=len(own) / totals[key],
            last_event_time=own[-1].event_time,
            event_count=len(own),
            strongest_item_ids=_most_met(own),
        )
        for (key, value), own in sorted(by_value.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    ]


def _most_met(events: Sequence[Event]) -> list[str]:
    return [item_id for item_id, _ in Counter(event.item_id for event in events).most_common(3)]


def _activity(history: Sequence[Event]) -> users.Activity:
    now_s = time.time()
    times_s = [event.event_time.seconds for event in history]
    by_hour = Counter(time_s % _DAY_S // 3600 for time_s in times_s)
    return users.Activity(
        events_last_day=sum(time_s > now_s - _DAY_S for time_s in times_s),
        events_last_week=sum(time_s > now_s - 7 * _DAY_S for time_s in times_s),
        events_last_30_days=sum(time_s > now_s - 30 * _DAY_S for time_s in times_s),
        active_days=len({time_s // _DAY_S for time_s in times_s}),
        sessions=len({event.session_id for event in history} - {""}),
        events_by_hour=[by_hour[hour] for hour in range(24)],
    )


def delete_user(state: FakeState, request: users.DeleteUserRequest) -> users.DeleteUserResponse:
    if bool(request.user_id) == bool(request.visitor_id):
        raise invalid("user_id: exactly one of user_id and visitor_id is required")
    if request.visitor_id and state.is_linked(request.visitor_id):
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "visitor_id: is linked to a user; delete the user")
    count, visitors = state.forget_subject(request.user_id, request.visitor_id)
    return users.DeleteUserResponse(
        events_deleted=count, linked_visitor_ids=visitors, first_clean_generation=max(state.generations) + 1
    )


ANSWERS: Answers = {
    "/headwater.v1.UserService/GetProfile": get_profile,
    "/headwater.v1.UserService/DeleteUser": delete_user,
}
