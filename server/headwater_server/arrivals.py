"""What a call brings beside its request: tenant, token, request id; and whether it is let in at all.

It is read before the request is, so whoever is refused here costs no decoding.
"""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar

from headwater_core.logs import logged_request_id
from headwater_server.access import Access, Caller, check_scope
from headwater_server.errors import ForbiddenError, NotReadyError, shown
from headwater_server.scopes import Scope

TENANT_KEY = "headwater-tenant"
TIMING_KEY = "headwater-timing"
"""A caller that sends it, with whatever value, is told how long the stages took."""
REQUEST_ID_KEY = "headwater-request-id"
"""What the caller calls this call; log lines about it and the answer's trailers repeat it."""
_AUTHORIZATION_KEY = "authorization"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Arrival:
    """What came with a call."""

    __slots__ = ("authorization", "caller", "has_admin", "has_own_id", "request_id", "scope", "tenant", "wants_timing")

    def __init__(
        self, request_id: str, tenant: str | None, authorization: str, *, has_own_id: bool, wants_timing: bool
    ) -> None:
        self.request_id = request_id
        self.has_own_id = has_own_id
        """Whether the caller named it, not this server."""
        self.tenant = tenant
        self.authorization = authorization
        self.wants_timing = wants_timing
        self.caller: Caller | None = None
        """None: there are no tokens here, or the call was not let in."""
        self.scope: Scope | None = None
        """What the method needs."""
        self.has_admin = True
        """Whether what needs the scope admin is done at the port where it came in."""

    def may_administer(self) -> bool:
        """Whether it may do what needs the scope admin beside what its method does for everybody."""
        return self.has_admin and (self.caller is None or Scope.ADMIN in self.caller.scopes)

    def check_still_allowed(self) -> None:
        """For long calls: refuse to go on where the token has been taken away.

        Raises:
            ForbiddenError: it has.
        """
        if self.caller is not None and self.scope is not None:
            check_scope(self.caller, self.scope)


arrived: ContextVar[Arrival] = ContextVar("arrived")
"""The call that is being answered: set before its handler is called, in the same task."""


class Reception:
    """Receives the calls of one port."""

    def __init__(self, tenant: str, access: Access | None, *, has_admin: bool = True) -> None:
        """Args: tenant: the one served; access: who may call, None: all; has_admin: whether admin is answered here."""
        self._tenant = tenant
        self._access = access
        self._has_admin = has_admin
        self._id_prefix = f"{uuid.uuid4().hex[:12]}-"
        self._numbers = itertools.count(1)
        """For calls that bring no id."""

    def read(self, metadata: Iterable[tuple[str, str | bytes]]) -> Arrival:
        """What the call brought. From here on log lines have its request id."""
        tenant, authorization, wants_timing, request_id, has_own_id = None, "", False, "", False
        for key, value in metadata:
            if key == REQUEST_ID_KEY:
                request_id = str(value)
                has_own_id = _REQUEST_ID.fullmatch(request_id) is not None
            elif key == _AUTHORIZATION_KEY:
                authorization = str(value)
            elif key == TENANT_KEY:
                tenant = str(value)
            elif key == TIMING_KEY:
                wants_timing = True
        if not has_own_id:
            request_id = f"{self._id_prefix}{next(self._numbers):x}"
        logged_request_id.set(request_id)
        return Arrival(request_id, tenant, authorization, has_own_id=has_own_id, wants_timing=wants_timing)

    def let_in(self, arrival: Arrival, scope: Scope) -> None:
        """Find out whose call it is and whether it may be made, here. Args: scope: what the method needs.

        Raises:
            UnknownCallerError: there are tokens, and the call has none of them.
            ForbiddenError: the token does not allow the method, or another port answers it.
            NotReadyError: the call is for a tenant that is not served here.
        """
        arrival.scope = scope
        arrival.has_admin = self._has_admin
        if self._access is not None:
            arrival.caller = self._access.identify(arrival.authorization)
            check_scope(arrival.caller, scope)
        if scope is Scope.ADMIN and not self._has_admin:
            raise ForbiddenError("needs the scope admin, and such methods are answered on the admin port alone")
        if arrival.tenant is not None and arrival.tenant != self._tenant:
            raise NotReadyError(f"tenant {shown(arrival.tenant)} is not served here")
