"""A server in this process, called as any caller calls it, and what must hold of every call."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message

from headwater_server.server import HeadwaterServer
from headwater_server.settings import ServerSettings

ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,  # exploration, which the contract has and this version does not do
}
"""What a call may end with that only its input can be blamed for."""
_ERROR_CODES = {code.value[0] for code in ALLOWED} | {grpc.StatusCode.ALREADY_EXISTS.value[0]}
DEADLINE_S = 60.0
MAX_CPU_S = 20.0
"""How long one call may keep this process busy: far more than any needs, far less than a caller's harm would."""
MAX_GROWTH = 400 * 1024 * 1024
"""By how many bytes the process may grow, whatever is sent to it."""


class Ended(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    responses: list[Any]


class Served:
    """A running server and a connection to it."""

    def __init__(self, settings: ServerSettings) -> None:
        """Start it, on an event loop of its own."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served", daemon=True)
        self._thread.start()
        self.server = asyncio.run_coroutine_threadsafe(_started(settings), self._loop).result(60)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{self.server.port}", options=options)
        self._bytes: int | None = None

    def close(self) -> None:
        """End both."""
        self._channel.close()
        asyncio.run_coroutine_threadsafe(self.server.stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    def call(self, method: MethodDescriptor, requests: Sequence[bytes], metadata: Sequence[Any] = ()) -> Ended:
        """Call a method with these bytes. Of what never ends, only the first answer is read."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        decode = message_factory.GetMessageClass(method.output_type).FromString
        options: dict[str, Any] = {"metadata": tuple(metadata), "timeout": DEADLINE_S}
        responses: list[Any] = []
        try:
            if method.client_streaming:
                stream: Any = self._channel.stream_stream(path, response_deserializer=decode)
                responses = list(stream(iter(requests), **options))
            elif method.server_streaming:
                watch: Any = self._channel.unary_stream(path, response_deserializer=decode)
                call = watch(requests[0], **options)
                responses = [next(call)]
                call.cancel()
            else:
                unary: Any = self._channel.unary_unary(path, response_deserializer=decode)
                responses = [unary(requests[0], **options)]
        except grpc.RpcError as error:
            return Ended(error.code(), error.details() or "", responses)
        return Ended(grpc.StatusCode.OK, "", responses)

    def check(self, method: MethodDescriptor, requests: Sequence[bytes], metadata: Sequence[Any] = ()) -> Ended:
        """Call a method; what every call must keep to, whatever was sent, is asserted."""
        began = time.process_time()
        ended = self.call(method, requests, metadata)
        took_s = time.process_time() - began
        late = {grpc.StatusCode.UNAVAILABLE} if any(_waits(method, content) for content in requests) else set()
        assert ended.code in ALLOWED | late, (method.full_name, ended.code, ended.details[:500])
        assert took_s < MAX_CPU_S, (method.full_name, took_s)
        for response in ended.responses:
            for field, value in values(response):
                if field.name == "code":
                    assert value in _ERROR_CODES | {code.value[0] for code in late}, (method.full_name, value)
                if isinstance(value, float):
                    assert math.isfinite(value), (method.full_name, field.full_name)
        return ended

    def grown(self) -> int:
        """By how many bytes this process is larger than at the first time it was asked."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident = pages * 4096
        if self._bytes is None:
            self._bytes = resident
        return resident - self._bytes


def _waits(method: MethodDescriptor, content: bytes) -> bool:
    """Whether a request waits for a position of the log, which may not be there yet: then UNAVAILABLE is right."""
    try:
        request = message_factory.GetMessageClass(method.input_type).FromString(content)
    except DecodeError:
        return False
    return any(field.name == "min_consistency_token" for field, _ in values(request))


async def _started(settings: ServerSettings) -> HeadwaterServer:
    server = HeadwaterServer(settings)  # it belongs to the loop that it is made on
    await server.start()
    return server


def values(message: Message) -> Iterator[tuple[FieldDescriptor, Any]]:
    """Every scalar value in a message, with its field."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of_entry = field.message_type.fields_by_name["value"]
            for each in value.values():
                yield from values(each) if of_entry.message_type is not None else [(of_entry, each)]
        elif field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                yield from values(each)
        else:
            for each in value if field.is_repeated else [value]:
                yield field, each
