"""Forgets the log's oldest events, never one that somebody has still to read."""

from __future__ import annotations

from itertools import takewhile

from sqlalchemy import Connection, delete, func, select

from headwater_core.database import Database, current
from headwater_core.outcomes import OFFSET
from headwater_core.repeating import repeated
from headwater_core.schema import REPORTED, events, generations, outcomes, rejections


class LogPruning:
    """Prunes the log of one tenant. Use it from one thread."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant
        # What was deleted lies in the index until it is vacuumed: looking for the oldest would walk through it anew.
        self._pruned_to = 0

    def read_by_all(self) -> int:
        """The highest position that nobody reads on from below.

        Every recorded generation has learned up to it, whichever a label may come to name, and attribution has read it.
        0 where there is no generation yet.
        """
        with self._database.read() as connection:
            return self._read_by_all(connection)

    @repeated
    def prune(self, before_us: int, limit: int, now_us: int) -> int:
        """Forget at most `limit` of the oldest events, and their rejections; how many events went.

        It ends at the first, in the order of positions, that was received at `before_us` or later or that not everybody
        has read: so the log always begins somewhere and is whole from there. Positions and ids stay used.

        One that was received later than now was received by a clock that was ahead: it is as old as the next that was
        not, and goes with that.

        Args:
            before_us: only events received before this time go, microseconds since 1970 UTC.
            limit: so many at once, so that no transaction is long.
            now_us: microseconds since 1970 UTC.
        """
        with self._database.write() as connection:
            last = self._read_by_all(connection)
            left = events.c.tenant == self._tenant, events.c.position > self._pruned_to, events.c.position <= last
            oldest = select(events.c.position, events.c.received_time_us).order_by(events.c.position).limit(limit)
            dated = connection.execute(oldest.where(*left, events.c.received_time_us <= now_us))
            old = [row.position for row in takewhile(lambda row: row.received_time_us < before_us, dated)]
            gone: list[int] = []
            if old:
                up_to_the_last = oldest.where(*left, events.c.position <= old[-1])
                gone = [row.position for row in connection.execute(up_to_the_last)]
                for table in (events, rejections):
                    up_to_there = table.c.position.between(self._pruned_to + 1, gone[-1])
                    connection.execute(delete(table).where(table.c.tenant == self._tenant, up_to_there))
                # Of what callers showed themselves: whose they are, the event alone says, and erasing must find them.
                connection.execute(
                    delete(outcomes).where(
                        outcomes.c.tenant == self._tenant,
                        outcomes.c.position.between(self._pruned_to + 1, gone[-1]),
                        outcomes.c.strategy == REPORTED,
                    )
                )
        if gone:
            self._pruned_to = gone[-1]
        return len(gone)

    def _read_by_all(self, connection: Connection) -> int:
        lowest = select(func.min(generations.c.watermark)).where(generations.c.tenant == self._tenant)
        learned = connection.execute(lowest).scalar() or 0
        return min(learned, current(connection, self._tenant, OFFSET))
