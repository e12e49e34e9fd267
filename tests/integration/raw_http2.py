"""Calls as no gRPC library would make them: the frames of HTTP/2 (RFC 9113) by hand."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import MappingProxyType

from http2_load import DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, frame, literal

_NONE: Mapping[bytes, bytes] = MappingProxyType({})


class RawConnection:
    """One connection; nothing that comes back is understood."""

    def __init__(self, port: int) -> None:
        """Connect to 127.0.0.1."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        self._stream = 1

    def close(self) -> None:
        """End it."""
        self.socket.close()

    def begin(self, path: bytes, content: bytes = b"", headers: Mapping[bytes, bytes] = _NONE) -> None:
        """Begin a call and leave it so.

        Args:
            path: its method's.
            content: of its request, or a part.
            headers: further ones, or in place of the usual ones; shorter than 127 bytes each.
        """
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": path,
            b":authority": b"127.0.0.1",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
            **headers,
        }
        block = b"".join(b"\0" + literal(name) + literal(value) for name, value in fields.items())
        frames = [frame(HEADERS, END_HEADERS, self._stream, block)]
        if content:
            frames.append(frame(DATA, 0, self._stream, content))
        self._stream += 2
        self.socket.sendall(b"".join(frames))

    def send(self, kind: int, flags: int, payload: bytes, stream: int) -> None:
        """Send one frame of any kind."""
        self.socket.sendall(frame(kind, flags, stream, payload))

    def wait_for(self, text: bytes) -> None:
        """Read until it came. Raises: AssertionError: the connection ended before."""
        received = b""
        while text not in received:
            content = self.socket.recv(65536)
            assert content, f"it ended after {received!r}"
            received += content
