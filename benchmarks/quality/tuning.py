"""Choosing options on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Options = dict[str, Any]


def climb(
    grid: Mapping[str, Sequence[Any]], start: Options, value: Callable[[Options], float]
) -> tuple[Options, float]:
    """Change one option at a time to its best value, over and over, until no single change gains anything.

    Args:
        grid: by option, the values to try.
        start: where to begin; options that the grid does not name stay as they are.
        value: of a choice, higher is better; asked once for each.

    Returns:
        The best choice and its value.
    """
    known: dict[tuple[Any, ...], float] = {}

    def worth(options: Options) -> float:
        key = tuple(options[name] for name in start)
        if key not in known:
            known[key] = value(options)
        return known[key]

    best = dict(start)
    while True:
        before = worth(best)
        for name, values in grid.items():
            for each in values:
                if worth(changed := {**best, name: each}) > worth(best):
                    best = changed
        if worth(best) == before:
            return best, before
