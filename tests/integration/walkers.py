"""Users of whom everything is known beforehand."""

from __future__ import annotations

import numpy as np

from headwater_core.events import Event, Subject, SubjectKind
from headwater_updater.held_out import is_held_out
from tests.integration.updater_world import N_ITEMS, START_US, World

N_WALKERS = 120
MINUTE_US = 60_000_000


class Walkers:
    """Users who walk around the ring of items, a step each minute; what comes next is certain."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.at = np.random.default_rng(0).integers(0, N_ITEMS, N_WALKERS)
        self.minute = 0
        self.written = 0

    def walk(self, steps: int, *, lie: bool = False) -> None:
        """Everybody takes so many steps; with `lie`, those who are learned from tell of random items instead."""
        rng = np.random.default_rng(self.minute)
        for _ in range(steps):
            self.minute += 1
            told = [
                int(rng.integers(N_ITEMS)) if lie and not is_held_out(walker(n)) else int(at)
                for n, at in enumerate(self.at)
            ]
            self.write([(walker(n).id, f"item-{item}") for n, item in enumerate(told)])
            self.at = (self.at + 1) % N_ITEMS

    def write(self, clicks: list[tuple[str, str]], *, spread_us: int = 0) -> None:
        batch = []
        for place, (user, item) in enumerate(clicks):
            self.written += 1
            time_us = START_US + self.minute * MINUTE_US + place * spread_us
            batch.append(Event(f"w{self.written}", "click", user, item_id=item, event_time_us=time_us))
        self.world.resources.log.append(batch, START_US + (self.minute + 1) * MINUTE_US)


def walker(number: int) -> Subject:
    return Subject(SubjectKind.USER, f"walker-{number}")
