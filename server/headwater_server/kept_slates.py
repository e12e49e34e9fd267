"""Slates that are kept with a user's state, for as long as nothing that they rest on has changed.

A page that is opened again asks the same of the same state of things. What is kept is what would be found again: it is
kept only where every source goes by the user's history, the generation and the catalogue alone, and whatever changes
one of these (an event, a swap, an item that comes, goes or changes) makes it another question. What time alone can
change, an item's end, is checked whenever a kept slate is given out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from headwater_core.events import EventType
from headwater_core.strategies import BLEND, CO_VISIT, FRESH, REPEAT, TOWER
from headwater_server.filters import ItemFilter
from headwater_server.strategy import Candidate
from headwater_server.strategy_book import NamedStrategy
from headwater_server.tokens import PageToken

_KEPT = 4
"""Of one user: a few pages and surfaces."""
_SETTLED = frozenset({BLEND, TOWER, CO_VISIT, REPEAT, FRESH})
"""Sources that go by history, generation and catalogue alone."""


class Basis(NamedTuple):
    """All that a slate rests on."""

    history_version: int
    generation: int
    items_version: int
    catalogue_revision: int
    event_types: Mapping[str, EventType]
    """Those that are registered: which of them speak against their item."""
    strategy: NamedStrategy
    page_size: int
    page: PageToken | None
    item_filter: ItemFilter
    """The request's own."""
    exclude_seen: bool


class KeptSlate(NamedTuple):
    """An answer, and what it rests on."""

    basis: Basis
    candidates: Sequence[Candidate]
    has_more: bool
    written: list[Any]
    """The message that whoever answers made of it, once there is one: to be made once."""


def may_keep(sources: Collection[str], left_out: Collection[str]) -> bool:
    """Whether what these sources made together may be kept. Args: left_out: those that did not answer."""
    return not left_out and _SETTLED.issuperset(sources)


def keep(slates: list[KeptSlate], slate: KeptSlate) -> None:
    """Put a slate first among those kept; the oldest goes."""
    slates[:] = [slate, *slates][:_KEPT]


def kept(slates: Sequence[KeptSlate], basis: Basis) -> KeptSlate | None:
    """The slate that rests on just this, if it is kept."""
    return next((slate for slate in slates if slate.basis == basis), None)
