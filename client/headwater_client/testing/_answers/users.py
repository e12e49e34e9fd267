"""The fake's answers of UserService."""

from __future__ import annotations

import grpc

from headwater.v1 import user_service_pb2 as users
from headwater_client.testing._answers.core import Answers, Refusal, invalid
from headwater_client.testing._state import FakeState


def get_profile(state: FakeState, request: users.GetProfileRequest) -> users.GetProfileResponse:
    history = [stored.event for stored in state.history(request.user_id, request.visitor_id)]
    counts: dict[str, int] = {}
    for event in history:
        counts[event.event_type] = counts.get(event.event_type, 0) + 1
    shares = state.category_shares(history)
    return users.GetProfileResponse(
        interests=[users.Interest(category=category, share=share) for category, share in shares.items()],
        event_counts=counts,
        first_event_time=history[0].event_time if history else None,
        last_event_time=history[-1].event_time if history else None,
        recent_events=history[:-21:-1],
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
