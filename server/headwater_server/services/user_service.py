"""UserService: what is known of a user, and forgetting it."""

from __future__ import annotations

from typing import Any

import grpc

from headwater.v1 import user_service_pb2 as pb
from headwater.v1 import user_service_pb2_grpc as pb_grpc
from headwater_core.events import SubjectKind
from headwater_core.feedback_log import subject_hash
from headwater_server import queries
from headwater_server.profiles import make_profile
from headwater_server.rooms import Rooms
from headwater_server.services.profile_response import profile_response

MAX_PROFILE_EVENTS = 1000


class UserService(pb_grpc.UserServiceServicer):
    """See protos/headwater/v1/user_service.proto."""

    def __init__(self, rooms: Rooms) -> None:
        """Answer from these rooms."""
        self._rooms = rooms

    async def GetProfile(  # noqa: N802
        self, request: pb.GetProfileRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetProfileResponse:
        """Summarise the newest events; an unknown user has an empty profile."""
        subject = queries.subject_of(request.user_id, request.visitor_id, exactly_one=True)
        assert subject is not None  # exactly one is given
        rooms = self._rooms
        owner = await rooms.in_database(rooms.log.resolve, subject)
        history = await rooms.in_database(rooms.log.history, owner, MAX_PROFILE_EVENTS)
        profile = make_profile(history, rooms.view.items, rooms.event_types, rooms.now_us())
        return profile_response(profile)

    async def DeleteUser(  # noqa: N802
        self, request: pb.DeleteUserRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteUserResponse:
        """Erase a user from the log, the impressions and this server's memory; other servers follow."""
        subject = queries.subject_of(request.user_id, request.visitor_id, exactly_one=True)
        assert subject is not None  # exactly one is given
        rooms = self._rooms
        await rooms.impression_writer.flush()
        erasure = await rooms.in_writing(rooms.log.delete_subject, subject, rooms.now_us())
        if subject.kind is SubjectKind.USER:
            rooms.states.unlink(subject.id)
        else:
            rooms.states.drop(subject)
        rooms.impression_writer.forget(subject_hash(subject))
        last_allocated = await rooms.in_database(rooms.registry.last_allocated)
        return pb.DeleteUserResponse(
            events_deleted=erasure.events,
            impressions_deleted=erasure.impressions,
            linked_visitor_ids=erasure.visitors,
            first_clean_generation=last_allocated + 1,
        )
