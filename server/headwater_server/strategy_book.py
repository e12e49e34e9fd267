"""The strategies that this server answers with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from headwater_core.document_store import Version
from headwater_core.errors import InvalidFieldError
from headwater_core.strategies import CO_VISIT, DEFAULT, FRESH, POPULAR, REPEAT, TOWER, SourceUse, Strategy


class NamedStrategy(NamedTuple):
    """A strategy, by its name and version."""

    name: str
    version: int
    """0: built in, or of a dry run."""
    strategy: Strategy

    def __str__(self) -> str:
        """As impressions name it."""
        return f"{self.name}/{self.version}"


class StrategyBook:
    """The newest version of each strategy, and the built-in one where none is written under its name."""

    def __init__(self, built_in: Strategy) -> None:
        """Args: built_in: answers until another is written as `default`."""
        self.built_in = built_in
        self._strategies: dict[str, NamedStrategy] = {}
        self.replace(())

    def replace(self, stored: Iterable[Version[Strategy]]) -> None:
        """Answer with these from now on."""
        named = {each.name: NamedStrategy(each.name, each.number, each.content) for each in stored if each.content}
        self._strategies = {DEFAULT: NamedStrategy(DEFAULT, 0, self.built_in), **named}

    def of(self, name: str) -> NamedStrategy:
        """The strategy of a name; "": the default.

        Raises:
            InvalidFieldError: naming the field `strategy`: there is none of that name.
        """
        found = self._strategies.get(name or DEFAULT)
        if found is None:
            raise InvalidFieldError("strategy", f"no strategy {name!r}")
        return found


def built_in_strategy(fresh_every: int, fresh_every_below: int) -> Strategy:
    """What answers until something else is written: the blend, what is popular, and places for new items.

    Args:
        fresh_every: of the first places, one in so many goes to a new item that fits.
        fresh_every_below: below them, one in so many.
    """
    return Strategy(
        sources=(
            SourceUse(name=TOWER),
            SourceUse(name=CO_VISIT),
            SourceUse(name=REPEAT),
            SourceUse(name=POPULAR),
            SourceUse(name=FRESH, weight=0.0, every=fresh_every, every_below=fresh_every_below),
        )
    )
