"""What Linux says of a process that runs: its children, its end, what it takes."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that a process has started, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def has_ended(pid: int) -> bool:
    """Whether it has: a zombie, too, for a container's first process may never ask for an orphan's end."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def process_cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def busy_and_all_s() -> tuple[float, float]:
    """Of all cores together since the machine began: how long they were at work, and how long there was."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]  # what guests take is in what users do
    spent = [int(field) / _TICKS for field in fields]
    return sum(spent) - spent[3] - spent[4], sum(spent)  # less idle, and waiting for disks


def memory_mib(pid: int) -> float:
    """The proportional set: what is shared counts by the number of those who share it."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
