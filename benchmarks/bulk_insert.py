"""The bare bulk insert that Headwater's writes are measured against: prepared rows, nothing checked, nothing answered.

Writes events into the two tables of a migrated database, with their indexes, as one would by hand with SQLAlchemy Core:
an executemany each, a commit per 1,000 events, on Headwater's own connections (on SQLite synchronous=FULL: a commit is
on disk when it returns). Only the transactions are timed. Prints one line of JSON: events, seconds and CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from sqlalchemy import func, select
from write_load import BATCH, write_batch

from headwater_core.database import Database
from headwater_core.event_rows import to_row
from headwater_core.schema import event_ids, events
from headwater_server.convert import to_event

_TENANT = "default"


def main() -> int:
    """Insert for so many seconds."""
    parser = argparse.ArgumentParser(description="a bare bulk insert of events")
    parser.add_argument("url", help="of a database that is this program's own")
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    database = Database(arguments.url)
    database.migrate()
    with database.read() as connection:
        position = connection.execute(select(func.max(events.c.position))).scalar() or 0
    n_events, took_s, cpu_s = 0, 0.0, 0.0
    while took_s < arguments.seconds:
        received_time_us = time.time_ns() // 1000
        event_rows: list[dict[str, Any]] = [
            dict(zip(events.c.keys(), to_row(_TENANT, place, to_event(message), received_time_us), strict=True))
            for place, message in enumerate(write_batch(), position + 1)
        ]
        id_rows = [
            {
                "tenant": _TENANT,
                "event_id": row["event_id"],
                "content_hash": os.urandom(32),
                "position": row["position"],
                "received_time_us": received_time_us,
            }
            for row in event_rows
        ]
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        with database.write() as connection:
            connection.execute(events.insert(), event_rows)
            connection.execute(event_ids.insert(), id_rows)
        took_s += time.perf_counter() - began_s
        cpu_s += time.process_time() - cpu_began_s
        position += BATCH
        n_events += BATCH
    database.close()
    print(json.dumps({"events": n_events, "seconds": took_s, "cpu_s": cpu_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
