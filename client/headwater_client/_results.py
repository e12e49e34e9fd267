"""What callers read most, as plain frozen values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

import grpc

from headwater.v1.item_pb2 import Item
from headwater.v1.recommendation_service_pb2 import Explanation
from headwater_client.errors import EventsRefusedError


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item."""

    item_id: str
    """The item."""
    score: float
    """What it was ordered by: higher is better; comparable within one answer only."""
    rank: int
    """Its place, from 1, counted over all pages."""
    sources: tuple[str, ...] = ()
    """Which sources proposed it: `tower`, `co_visit`, `popular`, `fresh`; in a search `text` and `vector`."""
    reasons: tuple[str, ...] = ()
    """Why it is here, in sentences; with `explain=True` only."""
    item: Item | None = None
    """The item's texts and attributes; with `return_items=True` only."""
    explanations: tuple[Explanation, ...] = ()
    """What each of `reasons` says, for a program to read, in the same order."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """One answer, best item first; can be iterated and has a length."""

    items: tuple[Recommendation, ...]
    """The items, best first; fewer than page_size where no more pass the filters."""
    generation: int = 0
    """The generation that answered."""
    attribution_token: str = ""
    """Give it to `event(…, attribution_token=…)` when the user acts on what was shown."""
    next_page_token: str = ""
    """Gives the next page; empty when there is none."""
    watermark: int = 0
    """The highest log position that the generation has learned from."""
    staleness_s: float = 0.0
    """How long the oldest event that the generation has not learned from has waited, seconds."""
    degraded_reasons: tuple[str, ...] = ()
    """What was missing from the answer; empty when nothing was."""
    notices: tuple[str, ...] = ()
    """What in the request had no effect, for a person to read."""
    experiment_arm: str = ""
    """The experiment's arm that made the answer; empty without an experiment."""
    strategy: str = ""
    """What made the slate: the strategy's name and version, for example `default/3`."""
    degraded: bool = False
    """Whether a part of the answer was missing (the database is away, a source failed)."""

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def item_ids(self) -> list[str]:
        """The items' ids, best first."""
        return [item.item_id for item in self.items]


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """The scores of one item for one user."""

    item_id: str
    """The item."""
    score: float
    """The ranking score."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Per event type: the probability of such an event, given that the item is shown."""
    expected_value: float | None = None
    """The expected value (stars, quantity…) of an event that carries one."""


@dataclass(frozen=True, slots=True)
class ScoredItems:
    """The scores of given items, in the request's order; can be iterated and has a length."""

    items: tuple[ScoredItem, ...]
    """One for each item that can be scored."""
    missing_item_ids: tuple[str, ...] = ()
    """The ids that cannot be scored."""
    generation: int = 0
    """The generation that answered."""
    from_impressions: bool = False
    """True: the probabilities were learned from impressions. False: they are relative to a reference exposure of 1
    positive to 99 items sampled by popularity, good for ordering, not as rates."""

    def __iter__(self) -> Iterator[ScoredItem]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class RefusedEvent:
    """An event that the server refused."""

    index: int
    """Its place in the call, from 0."""
    event_id: str
    """Its id."""
    field: str
    """The field at fault, for example `value`."""
    reason: str
    """What is wrong with it, for a person to read."""
    status: grpc.StatusCode
    """INVALID_ARGUMENT, or ALREADY_EXISTS for an id that is taken by another event."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of the events of one call."""

    accepted: int
    """How many were committed by this call."""
    duplicates: int
    """How many were committed before: harmless."""
    refused: tuple[RefusedEvent, ...]
    """The events that were refused; the others are written."""
    consistency_token: str
    """Give it to `recommend(…, min_consistency_token=…)` and the answer has seen the events, on any server."""

    def raise_for_refused(self) -> WriteResult:
        """This result, when every event was written.

        Raises:
            EventsRefusedError: some were not.
        """
        if self.refused:
            raise EventsRefusedError(self.refused)
        return self


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item that the server refused."""

    index: int
    """Its place in the call, from 0."""
    item_id: str
    """Its id."""
    field: str
    """The field at fault, for example `categories[3]`."""
    reason: str
    """What is wrong with it, for a person to read."""
    status: grpc.StatusCode
    """INVALID_ARGUMENT, or NOT_FOUND for an unknown item under an update mask."""


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """What became of the items of one call."""

    upserted: int
    """How many were written."""
    refused: tuple[RefusedItem, ...]
    """The items that were refused; the others are written."""
    revision: int
    """The catalogue's revision after the change."""


class HealthStatus(Enum):
    """What a server says of its health (grpc.health.v1)."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3
