"""Where log lines go: standard error, which may be a file on a disk that is full."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import TextIO, cast


class _StandardError(io.TextIOBase):
    """A line that cannot be written must not fail the call that it tells of.

    How many were lost is said before the next one that can be written.
    """

    def __init__(self) -> None:
        self._lost = 0

    def write(self, text: str) -> int:
        """Write a line, or count it."""
        try:
            if self._lost:
                sys.stderr.write(json.dumps({"event": "log_lines_lost", "count": self._lost, "level": "error"}) + "\n")
                self._lost = 0
            return sys.stderr.write(text)
        except OSError:
            self._lost += 1
            return len(text)

    def flush(self) -> None:
        """What cannot be written stays in the buffer."""
        with contextlib.suppress(OSError):
            sys.stderr.flush()


standard_error = cast(TextIO, _StandardError())
