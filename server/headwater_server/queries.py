"""Requests, checked: from messages to what the recommender needs to know, or a refusal that names a field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field

from headwater.v1 import event_pb2
from headwater.v1 import recommendation_service_pb2 as pb
from headwater_core.errors import InvalidFieldError
from headwater_core.events import (
    Event,
    EventType,
    HistoryEvent,
    Subject,
    SubjectKind,
    check_attributes,
    check_event,
    check_id,
    check_query,
)
from headwater_server.convert import to_event, to_time_us
from headwater_server.errors import NotBuiltError
from headwater_server.explanations.wording import check_locale
from headwater_server.filters import ItemFilter
from headwater_server.tokens import ConsistencyToken, PageToken

DEFAULT_PAGE_SIZE = 10
MAX_PAGE_SIZE = 500
DEFAULT_LIST_SIZE = 100
MAX_LIST_SIZE = 1000
MAX_EXCLUDED = 10_000
MAX_RECENT_EVENTS = 200
MAX_CONTEXT_ITEMS = 50
MAX_SCORED_ITEMS = 1000
MAX_CATEGORIES = 100
MAX_FILTER_ATTRIBUTES = 20
MAX_SURFACE_BYTES = 128


@dataclass(frozen=True, slots=True)
class Audience:
    """For whom an answer is, and what is known of them beside the log."""

    subject: Subject | None
    recent_events: tuple[HistoryEvent, ...] = ()
    """Not stored; newer than everything in the log."""
    min_position: int = 0
    """The answer must have seen the log up to here."""


@dataclass(frozen=True, slots=True)
class RecommendQuery:
    """A checked RecommendRequest."""

    audience: Audience
    session_id: str
    context_item_ids: tuple[str, ...]
    page_size: int
    page: PageToken | None
    item_filter: ItemFilter
    exclude_seen: bool
    diversity: float | None
    """None: as the strategy says."""
    context: Mapping[str, str] = field(default_factory=dict)
    surface: str = ""
    explain: bool = False
    label: str = ""
    generation: int = 0
    return_items: bool = False
    strategy: str = ""
    locale: str = ""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A checked SearchItemsRequest."""

    text: str
    audience: Audience
    page_size: int
    item_filter: ItemFilter
    return_items: bool = False


def page_size(value: int, default: int = DEFAULT_PAGE_SIZE, largest: int = MAX_PAGE_SIZE) -> int:
    """The page size asked for, or the default for 0.

    Raises:
        InvalidFieldError: negative, or above the largest.
    """
    if value < 0:
        raise InvalidFieldError("page_size", f"is {value}; must not be negative")
    if value > largest:
        raise InvalidFieldError("page_size", f"is {value}; the limit is {largest}")
    return value or default


def list_size(value: int) -> int:
    """The page size of a listing; see `page_size`."""
    return page_size(value, DEFAULT_LIST_SIZE, MAX_LIST_SIZE)


def check_count(name: str, values: Sized, largest: int, *, smallest: int = 0) -> None:
    """Refuse too few or too many.

    Raises:
        InvalidFieldError: naming the field.
    """
    if len(values) < smallest:
        raise InvalidFieldError(name, f"must have at least {smallest}")
    if len(values) > largest:
        raise InvalidFieldError(name, f"has {len(values)}; the limit is {largest}")


def check_ids(name: str, ids: Sequence[str], largest: int, *, smallest: int = 0) -> None:
    """Refuse too few or too many ids, and bad ones.

    Raises:
        InvalidFieldError: naming the field and the place in it.
    """
    check_count(name, ids, largest, smallest=smallest)
    for index, value in enumerate(ids):
        check_id(f"{name}[{index}]", value, required=True)


def subject_of(user_id: str, visitor_id: str, *, exactly_one: bool = False) -> Subject | None:
    """Whom a request names: the user before the visitor; None when neither.

    Raises:
        InvalidFieldError: an id is too long, or not exactly one is given though that is asked.
    """
    check_id("user_id", user_id)
    check_id("visitor_id", visitor_id)
    if exactly_one and bool(user_id) == bool(visitor_id):
        raise InvalidFieldError("user_id", "exactly one of user_id and visitor_id is required")
    if user_id:
        return Subject(SubjectKind.USER, user_id)
    return Subject(SubjectKind.VISITOR, visitor_id) if visitor_id else None


def item_filter(message: pb.ItemFilter, excluded: Sequence[str] = ()) -> ItemFilter:
    """The checked filter.

    Raises:
        InvalidFieldError: naming the field.
    """
    check_count("filter.categories", message.categories, MAX_CATEGORIES)
    for index, category in enumerate(message.categories):
        check_id(f"filter.categories[{index}]", category)
    check_count("filter.attributes", message.attributes, MAX_FILTER_ATTRIBUTES)
    check_attributes("filter.attributes", message.attributes)
    check_ids("exclude_item_ids", excluded, MAX_EXCLUDED)
    after, before = (
        to_time_us(f"filter.{name}", getattr(message, name)) if message.HasField(name) else None
        for name in ("published_after", "published_before")
    )
    return ItemFilter(
        categories=frozenset(message.categories),
        attributes=dict(message.attributes),
        available_only=message.available_only if message.HasField("available_only") else True,
        published_after_us=after,
        published_before_us=before,
        excluded=frozenset(excluded),
    )


def audience(
    user_id: str,
    visitor_id: str,
    recent_events: Sequence[event_pb2.Event],
    min_consistency_token: str,
    event_types: Mapping[str, EventType],
    tenant: str,
    now_us: int,
    max_ahead_us: int,
) -> Audience:
    """The checked audience.

    Raises:
        InvalidFieldError: naming the field.
    """
    check_count("recent_events", recent_events, MAX_RECENT_EVENTS)
    recent: list[HistoryEvent] = []
    for index, message in enumerate(recent_events):
        try:
            event = to_event(message)
            check_event(event, event_types, now_us, max_ahead_us=max_ahead_us, id_required=False)
        except InvalidFieldError as error:
            raise error.within(f"recent_events[{index}]") from error
        if event_types[event.event_type].in_history:
            recent.append(_inline(event, now_us))
    return Audience(subject_of(user_id, visitor_id), tuple(recent), _min_position(min_consistency_token, tenant))


def recommend_query(
    message: pb.RecommendRequest, event_types: Mapping[str, EventType], tenant: str, now_us: int, max_ahead_us: int
) -> RecommendQuery:
    """The checked request.

    Raises:
        InvalidFieldError: naming the field.
        NotBuiltError: it asks for exploration.
    """
    check_id("session_id", message.session_id)
    check_ids("context_item_ids", message.context_item_ids, MAX_CONTEXT_ITEMS)
    check_attributes("context", message.context)
    if len(message.surface.encode()) > MAX_SURFACE_BYTES or "\x00" in message.surface:
        raise InvalidFieldError("surface", f"is over {MAX_SURFACE_BYTES} bytes or holds a NUL character")
    for name in ("diversity", "exploration"):
        if message.HasField(name) and not 0.0 <= getattr(message, name) <= 1.0:
            raise InvalidFieldError(name, f"is {getattr(message, name)}; must be from 0 to 1")
    if message.exploration > 0.0:
        raise NotBuiltError("exploration: not built yet; only 0 is answered")
    check_locale(message.locale)
    chosen = message.WhichOneof("target")
    if chosen == "generation" and message.generation < 1:
        raise InvalidFieldError("generation", f"is {message.generation}; numbers start at 1")
    if chosen == "label" and not message.label:
        raise InvalidFieldError("label", "must not be empty")
    return RecommendQuery(
        audience=audience(
            message.user_id,
            message.visitor_id,
            message.recent_events,
            message.min_consistency_token,
            event_types,
            tenant,
            now_us,
            max_ahead_us,
        ),
        session_id=message.session_id,
        context_item_ids=tuple(message.context_item_ids),
        page_size=page_size(message.page_size),
        page=PageToken.open(message.page_token, "page_token", tenant) if message.page_token else None,
        item_filter=item_filter(message.filter, message.exclude_item_ids),
        exclude_seen=message.exclude_seen if message.HasField("exclude_seen") else True,
        diversity=message.diversity if message.HasField("diversity") else None,
        context=dict(message.context),
        surface=message.surface,
        explain=message.explain,
        label=message.label if chosen == "label" else "",
        generation=message.generation if chosen == "generation" else 0,
        return_items=message.return_items,
        strategy=message.strategy,
        locale=message.locale,
    )


def search_query(message: pb.SearchItemsRequest, tenant: str) -> SearchQuery:
    """The checked request.

    Raises:
        InvalidFieldError: naming the field.
    """
    if not message.query.strip():
        raise InvalidFieldError("query", "must not be empty")
    check_query(message.query)
    min_position = _min_position(message.min_consistency_token, tenant)
    return SearchQuery(
        text=message.query,
        audience=Audience(subject_of(message.user_id, message.visitor_id), min_position=min_position),
        page_size=page_size(message.page_size),
        item_filter=item_filter(message.filter, message.exclude_item_ids),
        return_items=message.return_items,
    )


def _min_position(token: str, tenant: str) -> int:
    """Up to where an answer must have seen the log; 0 without a token."""
    return ConsistencyToken.open(token, "min_consistency_token", tenant).position if token else 0


def _inline(event: Event, now_us: int) -> HistoryEvent:
    time_us = event.event_time_us if event.event_time_us is not None else now_us
    return HistoryEvent(0, time_us, event.event_type, event.item_id, event.value, event.query)
