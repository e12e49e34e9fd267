"""Calls as no gRPC library would make them: the frames of HTTP/2 (RFC 9113) by hand."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from types import MappingProxyType

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_HEADERS = 4
_NONE: Mapping[bytes, bytes] = MappingProxyType({})


class RawConnection:
    """One connection; nothing that comes back is understood."""

    def __init__(self, port: int) -> None:
        """Connect to 127.0.0.1."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, b""))
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
        block = b"".join(b"\0" + _literal(name) + _literal(value) for name, value in fields.items())
        frames = [_frame(_HEADERS, _END_HEADERS, block, self._stream)]
        if content:
            frames.append(_frame(_DATA, 0, content, self._stream))
        self._stream += 2
        self.socket.sendall(b"".join(frames))

    def send(self, kind: int, flags: int, payload: bytes, stream: int) -> None:
        """Send one frame of any kind."""
        self.socket.sendall(_frame(kind, flags, payload, stream))

    def wait_for(self, text: bytes) -> None:
        """Read until it came. Raises: AssertionError: the connection ended before."""
        received = b""
        while text not in received:
            content = self.socket.recv(65536)
            assert content, f"it ended after {received!r}"
            received += content


def _literal(text: bytes) -> bytes:
    """A string of HPACK (RFC 7541), as it is; shorter than 127 bytes."""
    return bytes([len(text)]) + text


def _frame(kind: int, flags: int, payload: bytes, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
