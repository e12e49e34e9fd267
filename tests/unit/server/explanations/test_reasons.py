"""What is said of why an item is there."""

from __future__ import annotations

import pytest

from headwater_core.catalogue import Item
from headwater_core.events import HistoryEvent
from headwater_server.explanations.reasons import MAX_EVENTS, MAX_TEXT_CHARS, Reason, reasons
from headwater_server.explanations.removal import Raiser
from headwater_server.explanations.wording import wording_of
from headwater_server.strategy import Candidate

ITEMS = {
    "ronin": Item("ronin", "Ronin", "", ("drama", "crime", "heist"), {"decade": "90s", "studio": "Big"}),
    "heat": Item("heat", "Heat", "", ("crime", "drama", "heist"), {"decade": "90s", "studio": "Small"}),
    "up": Item("up", "Up", "", ("animation",), {"decade": "00s"}),
    "nameless": Item("nameless"),
}
SIZES = {"drama": 900, "crime": 500, "heist": 10}


def raiser(
    item_id: str, share: float, event_type: str = "like", query: str = "", *, is_context: bool = False
) -> Raiser:
    return Raiser(HistoryEvent(1, 1, event_type, item_id, None, query), is_context, 2 * share, share)


def why(
    *raisers: Raiser, sources: tuple[str, ...] = ("tower",), item_id: str = "ronin", locale: str = "en"
) -> list[Reason]:
    return reasons(
        Candidate(item_id, 1.0, sources), raisers, ITEMS, lambda each: SIZES.get(each, 0), wording_of(locale)
    )


def test_events_come_first_and_then_what_proposed_the_item() -> None:
    """One sentence each, in the language asked for."""
    found = why(raiser("up", 0.7), sources=("co_visit", "popular"), locale="de-CH")
    assert [each.text for each in found] == [
        "weil Ihnen „Up“ gefällt",
        "darauf stießen andere nach dem, womit Sie sich zuletzt beschäftigt haben",
        "zurzeit beliebt",
    ]
    assert [each.source for each in found] == ["", "co_visit", "popular"]
    assert [each.raiser is None for each in found] == [False, True, True]


def test_without_events_only_the_source_is_named() -> None:
    """What is popular or pinned owes nothing to the user."""
    assert [each.text for each in why(sources=("pinned",))] == ["chosen for everybody"]


def test_what_both_items_have_is_said_the_rarest_category_first() -> None:
    """All of it is in the reason; the sentence says the first three."""
    [first, _] = why(raiser("heat", 1.0))
    assert first.text == "because you liked “Heat” (both: heist, crime, drama)"
    assert first.shared_categories == ["heist", "crime", "drama"]
    assert first.shared_attributes == {"decade": "90s"}
    [first, _] = why(raiser("up", 1.0))
    assert (first.text, first.shared_categories, first.shared_attributes) == ("because you liked “Up”", [], {})


def test_an_item_shares_nothing_with_itself() -> None:
    """A user who comes back to an item is not told that it is like itself."""
    [first, _] = why(raiser("ronin", 1.0, "purchase"), sources=("repeat",))
    assert (first.text, first.shared_categories) == ("because you bought “Ronin”", [])


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (raiser("nameless", 1.0), "because you liked “nameless”"),
        (raiser("gone", 1.0), "because you liked “gone”"),
        (raiser("", 1.0, "search", "robbers"), "because you searched for “robbers”"),
        (raiser("up", 1.0, "view", is_context=True), "because you are looking at “Up”"),
    ],
)
def test_titles_are_used_where_there_are_any(of: Raiser, text: str) -> None:
    """Else ids; a search is named by its words, what is looked at now by that."""
    assert why(of)[0].text == text


def test_at_most_so_many_different_events_are_named() -> None:
    """Each item and query once, by its strongest event; what does little beside others is not named."""
    named = why(raiser("heat", 0.4), raiser("heat", 0.2, "view"), raiser("up", 0.15), raiser("gone", 0.05))
    assert [each.raiser.event.item_id for each in named if each.raiser] == ["heat", "up"]
    assert [each.raiser.share for each in named if each.raiser] == [0.4, 0.15]
    many = why(*(raiser(f"item-{number}", 0.2) for number in range(5)))
    assert sum(each.raiser is not None for each in many) == MAX_EVENTS
    weak = why(*(raiser(f"item-{number}", 0.04) for number in range(25)))
    assert [each.raiser.event.item_id for each in weak if each.raiser] == ["item-0"]


def test_long_and_broken_titles_make_one_short_line() -> None:
    """Line breaks are spaces, and what is too long is cut."""
    items = {**ITEMS, "long": Item("long", "A\nlong\t" + "x" * 500)}
    [first, _] = reasons(
        Candidate("ronin", 1.0, ("tower",)), [raiser("long", 1.0)], items, lambda _: 0, wording_of("en")
    )
    assert "“A long xxx" in first.text
    assert "…”" in first.text
    assert len(first.text) == len("because you liked “”") + MAX_TEXT_CHARS
