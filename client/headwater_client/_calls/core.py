"""What a call is: a method, a request, and how its response is read. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

Request = TypeVar("Request")
Response = TypeVar("Response")
MessageRequest = TypeVar("MessageRequest", bound=Message)
MessageResponse = TypeVar("MessageResponse", bound=Message)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """A unary method of the contract, and what a client must know to call it."""

    service: str
    """The service's full name, for example `headwater.v1.EventService`."""
    name: str
    timeout_s: float
    """The deadline when the caller names none."""
    idempotent: bool
    """Whether calling it twice is as good as once, so that it may be retried."""
    serialize: Callable[[Request], bytes]
    deserialize: Callable[[bytes], Response]
    is_patient: bool = True
    """Whether a server that is away is worth waiting for."""

    @property
    def path(self) -> str:
        """The method as HTTP/2 names it."""
        return f"/{self.service}/{self.name}"


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """One call that is ready to be made."""

    method: Method[Any, Any]
    request: Any
    read: Callable[[Any], Result]
    timeout_s: float | None = None
    """The caller's deadline; None means the client's or the method's."""


def method(
    service: str,
    name: str,
    request_type: type[MessageRequest],
    response_type: type[MessageResponse],
    *,
    timeout_s: float,
    idempotent: bool = True,
) -> Method[MessageRequest, MessageResponse]:
    """The method `name` of a service of headwater.v1, for example `method("EventService", "WriteEvents", …)`."""
    return Method(
        service=f"headwater.v1.{service}",
        name=name,
        timeout_s=timeout_s,
        idempotent=idempotent,
        serialize=request_type.SerializeToString,
        deserialize=response_type.FromString,
    )


def call(
    method: Method[Request, Response],
    request: Request,
    read: Callable[[Response], Result],
    timeout_s: float | None,
) -> Call[Result]:
    """A call whose parts fit together, which is what the type checker sees to."""
    return Call(method, request, read, timeout_s)


def as_is(response: Response) -> Response:
    """Reads a response as the message it is."""
    return response
