"""What is said of why an item is in an answer: the events that raised it most, then what proposed it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headwater_core.catalogue import Item
from headwater_server.explanations.removal import Raiser
from headwater_server.explanations.wording import Wording
from headwater_server.strategy import Candidate

MAX_EVENTS = 3
"""So many events are named for one item, at most."""
MIN_SHARE = 0.1
"""What has a smaller share in raising an item is not named beside what has more."""
MAX_SHARED = 3
"""So much of what two items share is said; all of it is in the explanation."""
MAX_TEXT_CHARS = 80
"""So long a title, query, category or attribute may be in a sentence."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason."""

    text: str
    """The sentence."""
    source: str = ""
    """What proposed the item, where the reason is that."""
    raiser: Raiser | None = None
    """The event, where the reason is one."""
    shared_categories: Sequence[str] = ()
    """With the event's item, the rarest first."""
    shared_attributes: Mapping[str, str] = field(default_factory=dict)


def reasons(
    candidate: Candidate,
    raisers: Sequence[Raiser],
    items: Mapping[str, Item],
    category_size: Callable[[str], int],
    wording: Wording,
) -> list[Reason]:
    """Why a candidate is there.

    Args:
        candidate: the item and what proposed it.
        raisers: the events that raised it, strongest first.
        items: the catalogue.
        category_size: how many items a category has.
        wording: the language.
    """
    found = [_of_event(candidate.item_id, raiser, items, category_size, wording) for raiser in _named(raisers)]
    return found + [Reason(wording.source(source), source=source) for source in candidate.sources]


def _named(raisers: Sequence[Raiser]) -> list[Raiser]:
    """Those that are named: one for each item or query, the first of them however little it does."""
    different: dict[tuple[str, str], Raiser] = {}
    for raiser in raisers:
        if not different or raiser.share >= MIN_SHARE:
            different.setdefault((raiser.event.item_id, raiser.event.query), raiser)
    return list(different.values())[:MAX_EVENTS]


def _of_event(
    item_id: str, raiser: Raiser, items: Mapping[str, Item], category_size: Callable[[str], int], wording: Wording
) -> Reason:
    item, other = items.get(item_id), items.get(raiser.event.item_id)
    categories: list[str] = []
    attributes: dict[str, str] = {}
    if item is not None and other is not None and item_id != raiser.event.item_id:
        common = set(item.categories) & set(other.categories)
        categories = sorted(common, key=lambda category: (category_size(category), category))
        attributes = {key: value for key, value in item.attributes.items() if other.attributes.get(key) == value}
    title = raiser.event.query or (other.title if other is not None else "") or raiser.event.item_id
    if raiser.is_context:
        text = wording.context(_short(title))
    else:
        text = wording.event(raiser.event.event_type, _short(title))
    shared = [*categories, *(f"{key}: {value}" for key, value in attributes.items())]
    text = wording.with_shared(text, [_short(each) for each in shared[:MAX_SHARED]])
    return Reason(text, "", raiser, categories, attributes)


def _short(text: str) -> str:
    """The text in one line, cut when it is long."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT_CHARS else line[: MAX_TEXT_CHARS - 1] + "…"
