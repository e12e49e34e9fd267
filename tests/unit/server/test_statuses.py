"""Every error that is raised on purpose has a status of its own."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import headwater_server.errors
from headwater_core.errors import (
    ArtifactError,
    ConfigurationError,
    DatabaseUnavailableError,
    HeadwaterError,
    InvalidFieldError,
    NotFoundError,
)
from headwater_server.errors import OverloadedError
from headwater_server.statuses import Refusal, code_of, refusal

OURS = ("headwater_core", headwater_server.__name__)


def subclasses(kind: type[HeadwaterError]) -> Iterator[type[HeadwaterError]]:
    for child in kind.__subclasses__():
        if child.__module__.startswith(OURS):
            yield child
        yield from subclasses(child)


def made(kind: type[HeadwaterError]) -> HeadwaterError:
    """An error of this class, however many arguments it takes."""
    if issubclass(kind, InvalidFieldError):
        return kind("field", "reason")
    if issubclass(kind, ArtifactError):
        return kind("read", "path", "reason")
    if issubclass(kind, OverloadedError):
        return kind("reason", 100)
    return kind("reason")


def status_of(answer: Refusal) -> status_pb2.Status:
    [content] = [value for key, value in answer.trailers if key == "grpc-status-details-bin"]
    assert isinstance(content, bytes)
    return status_pb2.Status.FromString(content)


@pytest.mark.parametrize("kind", sorted(set(subclasses(HeadwaterError)), key=str))
def test_every_error_has_a_status(kind: type[HeadwaterError]) -> None:
    """None is answered UNKNOWN, and INTERNAL is for bugs alone; settings are checked before any call."""
    code = code_of(made(kind))
    if kind is ConfigurationError:
        assert code is grpc.StatusCode.INTERNAL
    else:
        assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK)


def test_a_subclass_of_an_error_has_its_parents_status() -> None:
    """A finer error needs no entry of its own."""

    class FinerError(NotFoundError):
        pass

    assert code_of(FinerError("x")) is grpc.StatusCode.NOT_FOUND


def test_a_refused_field_is_in_the_details() -> None:
    """Message and google.rpc.BadRequest name field and reason."""
    answer = refusal(InvalidFieldError("events[3].value", "must be finite"))
    assert (answer.code, answer.message) == (grpc.StatusCode.INVALID_ARGUMENT, "events[3].value: must be finite")
    status = status_of(answer)
    assert (status.code, status.message) == (3, answer.message)
    detail = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(detail)
    [violation] = detail.field_violations
    assert (violation.field, violation.description) == ("events[3].value", "must be finite")


@pytest.mark.parametrize(
    ("error", "retry_ms"), [(OverloadedError("full", 2750), 2750), (DatabaseUnavailableError("away"), 500)]
)
def test_what_may_be_tried_again_says_when(error: HeadwaterError, retry_ms: int) -> None:
    """As gRPC's pushback and as google.rpc.RetryInfo."""
    answer = refusal(error)
    assert ("grpc-retry-pushback-ms", str(retry_ms)) in answer.trailers
    hint = error_details_pb2.RetryInfo()
    assert status_of(answer).details[0].Unpack(hint)
    assert hint.retry_delay.ToMilliseconds() == retry_ms


def test_other_errors_carry_no_details() -> None:
    """Nothing to add to code and message."""
    assert refusal(NotFoundError("no such item")).trailers == ()


@pytest.mark.parametrize("character", ["x", "é", "😀", "\n"])
def test_a_refusal_fits_into_a_callers_metadata(character: str) -> None:
    """However long what it repeats is: with more than 8 KiB a caller would be told of that and of nothing else."""
    for error in (NotFoundError(character * 10_000), InvalidFieldError(character * 10_000, character * 10_000)):
        ending = refusal(error)
        assert ending.message.startswith(character * 100)
        encoded = len(urllib.parse.quote(ending.message)) + sum(len(value) * 4 / 3 for _, value in ending.trailers)
        assert encoded < 8000
