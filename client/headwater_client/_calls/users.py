"""The calls of UserService."""

from __future__ import annotations

from headwater.v1 import user_service_pb2 as pb
from headwater_client._calls.core import Call, as_is, call, method

_SERVICE = "UserService"
GET_PROFILE = method(_SERVICE, "GetProfile", pb.GetProfileRequest, pb.GetProfileResponse, timeout_s=5)
# a repeated erasure would answer that nothing was there to erase
DELETE_USER = method(
    _SERVICE, "DeleteUser", pb.DeleteUserRequest, pb.DeleteUserResponse, timeout_s=60, idempotent=False
)


def get_profile(
    *, user_id: str = "", visitor_id: str = "", timeout_s: float | None = None
) -> Call[pb.GetProfileResponse]:
    """Gives what the user's recommendations rest on: interests and aversions, activity, the newest events.

    Args:
        user_id: whose; exactly one of user_id and visitor_id.
        visitor_id: whose, when not signed in.
        timeout_s: the deadline. Default 5 s.

    Raises:
        RpcError: the call failed.
    """
    return call(GET_PROFILE, pb.GetProfileRequest(user_id=user_id, visitor_id=visitor_id), as_is, timeout_s)


def delete_user(
    *, user_id: str = "", visitor_id: str = "", timeout_s: float | None = None
) -> Call[pb.DeleteUserResponse]:
    """Erases a user for good: events, those of linked visitors, states and impressions; says what was erased.

    Args:
        user_id: whom; exactly one of user_id and visitor_id.
        visitor_id: whom, when never signed in.
        timeout_s: the deadline. Default 60 s.

    Raises:
        FailedPreconditionError: the visitor is linked to a user; delete the user.
        RpcError: any other failure of the call.
    """
    return call(DELETE_USER, pb.DeleteUserRequest(user_id=user_id, visitor_id=visitor_id), as_is, timeout_s)
