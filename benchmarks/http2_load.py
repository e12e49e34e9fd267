"""A generator of gRPC calls that costs little: the frames of HTTP/2 (RFC 9113) by hand, one thread, no gRPC library.

A gRPC client in Python costs as much as the server that it measures. This one writes each request as two frames, whose
bodies may all differ, and of the answers reads what it must: frame headers, and `grpc-status` in the trailers. The
server is told to keep no table of headers (SETTINGS_HEADER_TABLE_SIZE 0), so that trailers can be read without state.

Latency counts from when a call was due, not from when it was sent: a server that stalls does not get out of the calls
that came meanwhile.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, _RESET, SETTINGS, _PING, _GO_AWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK = 1, 1
END_HEADERS = 4
_MOST = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_HEADER = struct.Struct(">HBBBI")
_READ = 1 << 18
_STATUS = b"grpc-status"
_MOST_STREAMS = 2**31 - 2
_RESET_STATUS = 14
"""UNAVAILABLE: what a gRPC client makes of a call that was reset (REFUSED_STREAM)."""


class Call(NamedTuple):
    """One unary call."""

    method: str
    """As in `/package.Service/Method`."""
    body: bytes
    """The serialised request."""
    case: str = ""
    """What it is counted under; "": not at all."""
    timeout_ms: int = 0
    """The deadline that the server is told; 0: none. The answer is waited for all the same."""


class LoadError(Exception):
    """The server broke the connection, or answered with what is no gRPC."""


@dataclass(slots=True)
class Tally:
    """What came of the calls of one case."""

    latencies_s: list[float] = field(default_factory=list)
    """Of the calls that ended with OK."""
    refused_s: list[float] = field(default_factory=list)
    """Of the others."""
    statuses: Counter[int] = field(default_factory=Counter)
    """gRPC status codes; 0: OK."""
    last_body: bytes = b""
    """The last answer, serialised."""

    @property
    def errors(self) -> int:
        """Calls that did not end with OK."""
        return sum(count for status, count in self.statuses.items() if status)

    def percentile_s(self, share: float) -> float:
        """The latency that `share` of the calls did not exceed."""
        return float(np.quantile(self.latencies_s, share)) if self.latencies_s else float("nan")


@dataclass(slots=True)
class Caller:
    """Makes one call after another, each when the one before has ended."""

    calls: Iterator[Call]
    connection: int
    due_s: float = 0.0
    call: Call | None = None


def run(
    addresses: Iterable[tuple[str, int]],
    callers: Iterable[Iterator[Call]],
    duration_s: float,
    *,
    rate: float | None = None,
) -> dict[str, Tally]:
    """Make calls for some time; what came of them, by case.

    Args:
        addresses: host and port of each connection; callers take them in turn.
        callers: an endless row of calls for each caller.
        duration_s: how long new calls are begun; those under way are waited for.
        rate: calls a second over all callers, evenly spaced, whether the server keeps up or not (a caller that is free
            takes the next one; it is late when none is); None: each caller calls again at once.

    Raises:
        LoadError: a connection ended, or an answer could not be read.
    """
    connections = [_Connection(*address) for address in addresses]
    everyone = [Caller(calls, index % len(connections)) for index, calls in enumerate(callers)]
    tallies: dict[str, Tally] = {}
    began_s = time.perf_counter()
    until_s = began_s + duration_s
    free = deque(everyone)
    n_begun, n_running = 0, 0
    with selectors.DefaultSelector() as selector:
        for number, connection in enumerate(connections):
            selector.register(connection.socket, selectors.EVENT_READ, number)
        while True:
            now_s = time.perf_counter()
            while free and now_s < until_s:
                due_s = now_s if rate is None else began_s + n_begun / rate
                if due_s > now_s:
                    break
                caller = free.popleft()
                caller.due_s, caller.call = due_s, next(caller.calls)
                connections[caller.connection].begin(caller)
                n_begun, n_running = n_begun + 1, n_running + 1
            for connection in connections:
                connection.flush()
            if not n_running and now_s >= until_s:
                break
            wait_s = (
                max(0.0, began_s + n_begun / rate - now_s) if rate is not None and free and now_s < until_s else 5.0
            )
            ready = selector.select(wait_s)
            if not ready and wait_s == 5.0:
                raise LoadError("no answer for five seconds")
            for key, _ in ready:
                for caller, status, body in connections[key.data].receive():
                    n_running -= 1
                    free.append(caller)
                    assert caller.call is not None
                    if caller.call.case:
                        tally = tallies.setdefault(caller.call.case, Tally())
                        took_s = time.perf_counter() - caller.due_s
                        (tally.refused_s if status else tally.latencies_s).append(took_s)
                        tally.statuses[status] += 1
                        if body:
                            tally.last_body = body
    for connection in connections:
        connection.socket.close()
    return tallies


class _Connection:
    """One HTTP/2 connection, many calls in flight on it."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._authority = f"{host}:{port}".encode()
        settings = struct.pack(">HIHIHI", 1, 0, 2, 0, 4, _MOST)  # header table 0, no push, initial window
        self._out = [PREFACE, frame(SETTINGS, 0, 0, settings), _window(_MOST - _DEFAULT_WINDOW)]
        self._waiting: deque[tuple[int, bytes]] = deque()  # bodies for which the server has no room yet
        self._room = _DEFAULT_WINDOW
        self._received = 0
        self._in = bytearray()
        self._next = 1
        self._callers: dict[int, Caller] = {}
        self._bodies: dict[int, bytes] = {}
        self._headers: dict[tuple[str, int], bytes] = {}

    def begin(self, caller: Caller) -> None:
        assert caller.call is not None
        stream, self._next = self._next, self._next + 2
        if stream > _MOST_STREAMS:
            raise LoadError("a connection has no more streams")
        method, body, _, timeout_ms = caller.call
        headers = self._headers.get((method, timeout_ms))
        if headers is None:
            headers = self._headers[method, timeout_ms] = self._header_block(method, timeout_ms)
        self._callers[stream] = caller
        self._out.append(frame(HEADERS, END_HEADERS, stream, headers))
        self._waiting.append((stream, b"\0" + len(body).to_bytes(4, "big") + body))

    def flush(self) -> None:
        while self._waiting and len(self._waiting[0][1]) <= self._room:
            stream, content = self._waiting.popleft()
            self._room -= len(content)
            self._out.append(frame(DATA, _END_STREAM, stream, content))
        if self._out:
            self.socket.sendall(b"".join(self._out))
            self._out.clear()

    def receive(self) -> Iterator[tuple[Caller, int, bytes]]:
        """The calls that ended: the caller, the status, the answer."""
        content = self.socket.recv(_READ)
        if not content:
            raise LoadError("the server closed the connection")
        self._in += content
        self._received += len(content)
        if self._received > _MOST // 2:
            self._out.append(_window(self._received))
            self._received = 0
        at, end = 0, len(self._in)
        while end - at >= 9:
            high, low, kind, flags, stream = _HEADER.unpack_from(self._in, at)
            size = high << 8 | low
            if end - at < 9 + size:
                break
            payload = self._in[at + 9 : at + 9 + size]
            at += 9 + size
            if kind == DATA:
                self._bodies[stream] = self._bodies.get(stream, b"") + payload
            elif kind == HEADERS:
                if flags & _END_STREAM:
                    body = self._bodies.pop(stream, b"")[5:]
                    yield self._callers.pop(stream), _status(payload), bytes(body)
            elif kind == _RESET:  # a server that has no time for a status
                self._bodies.pop(stream, None)
                if stream in self._callers:  # else it follows the status of a call that was answered early
                    yield self._callers.pop(stream), _RESET_STATUS, b""
            else:
                self._control(kind, flags, stream, bytes(payload))
        del self._in[:at]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & _ACK:
            self._out.append(frame(SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._out.append(frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW and not stream:
            self._room += int.from_bytes(payload, "big")
        elif kind == _GO_AWAY:
            raise LoadError(f"the server goes away: {payload[8:].decode(errors='replace')}")

    def _header_block(self, method: str, timeout_ms: int) -> bytes:
        """HPACK (RFC 7541), every header by its place in the static table or as a literal that nobody remembers."""
        return b"".join(
            (
                b"\x83\x86",  # :method POST, :scheme http
                b"\x04" + literal(method.encode()),
                b"\x01" + literal(self._authority),
                b"\x0f\x10" + literal(b"application/grpc"),  # content-type
                b"\x00" + literal(b"te") + literal(b"trailers"),
                b"\x00" + literal(b"grpc-timeout") + literal(b"%dm" % timeout_ms) if timeout_ms else b"",
            )
        )


def literal(text: bytes) -> bytes:
    """A string of HPACK (RFC 7541), as it is.

    Raises:
        ValueError: it is longer than 126 bytes.
    """
    if len(text) > 126:
        raise ValueError(f"{text!r} is longer than one byte can tell")
    return bytes([len(text)]) + text


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    size = len(payload)
    return _HEADER.pack(size >> 8, size & 255, kind, flags, stream) + payload


def _window(size: int) -> bytes:
    return frame(_WINDOW, 0, 0, struct.pack(">I", size))


def _status(trailers: bytes | bytearray) -> int:
    """The gRPC status of a block of trailers, whose strings are not Huffman coded."""
    at = trailers.find(_STATUS)
    if at < 0:
        raise LoadError(f"an answer has no {_STATUS.decode()}: {bytes(trailers)!r}")
    at += len(_STATUS)
    return int(trailers[at + 1 : at + 1 + trailers[at]])
