"""The benchmarks' modules are scripts beside each other, not packages: their folders are put on the path."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("", "quality", "strategy"):
    sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / folder))
