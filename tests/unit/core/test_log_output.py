"""Logs on a disk that is full."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from headwater_core.log_output import standard_error


class FullFile(io.StringIO):
    """Takes nothing in while it is full."""

    is_full = False

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_lost_lines_are_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the next line that can be written."""
    file = FullFile()
    monkeypatch.setattr(sys, "stderr", file)
    standard_error.write("1\n")
    file.is_full = True
    for line in ("2\n", "3\n"):
        standard_error.write(line)
        standard_error.flush()
    file.is_full = False
    standard_error.write("4\n")
    first, told, last = file.getvalue().splitlines()
    assert (first, json.loads(told)["count"], last) == ("1", 2, "4")
    standard_error.write("5\n")
    assert file.getvalue().endswith("4\n5\n")


def test_a_full_disk_fails_no_call() -> None:
    """Whoever logs goes on, whatever it says, by structlog or by the standard library."""
    program = """
import logging, structlog
from headwater_core.logs import configure_logs
configure_logs()
for _ in range(100):
    structlog.get_logger("x").warning("x" * 1000)
    logging.getLogger("y").warning("y" * 1000)
print("done")
"""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, timeout=60)
    assert done.stdout == b"done\n"
