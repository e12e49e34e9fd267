"""How long a server takes from its process's start until it serves.

`python benchmarks/start.py --folder F` starts and stops a server on an installation (`synthetic.py` makes one of any
size) and prints the median, the least and the most, seconds; health is asked for every 20 ms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from installations import QUIET, installation_class

from headwater_client import Client, HealthStatus


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="From start to SERVING")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    taken_s = []
    for _ in range(arguments.rounds):
        with installation_class()(arguments.folder.resolve(), QUIET) as installation:
            began_s = time.perf_counter()
            installation.start_server()
            with Client(installation.address) as client:
                while client.health() is not HealthStatus.SERVING:
                    time.sleep(0.02)
            taken_s.append(time.perf_counter() - began_s)
    median_s = statistics.median(taken_s)
    sys.stdout.write(f"{median_s:.1f} s ({min(taken_s):.1f} to {max(taken_s):.1f}, {len(taken_s)} starts)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
