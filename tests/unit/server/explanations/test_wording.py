"""The words of reasons: locales, templates, and texts from outside, which are never templates."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.errors import InvalidFieldError
from headwater_core.events import BUILT_IN_EVENT_TYPES
from headwater_core.strategies import SOURCES
from headwater_server.explanations.wording import Wording, check_locale, locales, unspoken, wording_of
from headwater_server.strategy import PINNED

ENGLISH = wording_of("en")


@pytest.mark.parametrize("locale", sorted(locales()))
def test_every_language_has_words_for_everything(locale: str) -> None:
    """Each file has English's keys, and in each template English's placeholders."""
    words = wording_of(locale)

    def used(templates: Mapping[str, Template]) -> dict[str, list[str]]:
        return {name: sorted(template.get_identifiers()) for name, template in templates.items()}

    for part in ("events", "sources", "phrases"):
        assert used(getattr(words, part)) == used(getattr(ENGLISH, part)), part
        assert all(template.is_valid() for template in getattr(words, part).values())


def test_every_source_and_every_usual_event_type_has_words() -> None:
    """Impressions are in no history, so none can be a reason."""
    assert set(ENGLISH.sources) == {*SOURCES, PINNED}
    assert set(BUILT_IN_EVENT_TYPES) - {"impression"} <= set(ENGLISH.events)


@pytest.mark.parametrize(
    ("locale", "language", "is_spoken"),
    [
        ("", "en", True),
        ("en", "en", True),
        ("EN-gb", "en", True),
        ("de-CH", "de", True),
        ("de-Latn-DE-1996", "de", True),
        ("fr", "en", False),
        ("den", "en", False),
        ("x-klingon", "en", False),
    ],
)
def test_locales_fall_back_by_language_and_then_to_english(locale: str, language: str, is_spoken: bool) -> None:
    """What there are no sentences for is answered in English, and said to be."""
    check_locale(locale)
    assert wording_of(locale).locale == language
    assert (unspoken(locale) == []) is is_spoken


@pytest.mark.parametrize(
    "locale", ["de_CH", "de-", "-de", " de", "de\n", "d€", "123", "../en", "abcdefghi", "de" + "-x" * 40]
)
def test_malformed_locales_are_refused(locale: str) -> None:
    """They name the field; none of them ever names a file."""
    with pytest.raises(InvalidFieldError) as caught:
        check_locale(locale)
    assert caught.value.field == "locale"


def test_events_have_verbs_and_unknown_ones_a_neutral_word() -> None:
    """In the language asked for."""
    assert ENGLISH.event("purchase", "Heat") == "because you bought “Heat”"
    assert ENGLISH.event("search", "bank robbery") == "because you searched for “bank robbery”"
    assert ENGLISH.event("teleport", "Heat") == "because of “Heat” in your history"
    assert wording_of("de").event("watch", "Heat") == "weil Sie „Heat“ gesehen haben"


def test_what_is_shared_is_added_to_the_reason() -> None:
    """Nothing is added where nothing is shared."""
    reason = ENGLISH.context("Heat")
    assert ENGLISH.with_shared(reason, []) == reason == "because you are looking at “Heat”"
    assert ENGLISH.with_shared(reason, ["Crime", "90s"]) == "because you are looking at “Heat” (both: Crime, 90s)"


@given(st.text(), st.text())
def test_texts_from_outside_come_through_as_they_are(title: str, category: str) -> None:
    """Braces, dollar signs, placeholders, percent signs: a title is never read as a template."""
    for words in map(wording_of, locales()):
        said = words.with_shared(words.event("like", title), [category])
        assert title in said
        assert category in said


def test_placeholders_in_titles_stay_what_they_are() -> None:
    """Neither $what nor {0} nor $ alone means anything in a title."""
    odd = "$what {0} ${shared} %s $"
    assert ENGLISH.event("like", odd) == f"because you liked “{odd}”"
    assert ENGLISH.with_shared(ENGLISH.event("like", odd), [odd]) == f"because you liked “{odd}” (both: {odd})"


def test_a_wording_is_read_once() -> None:
    """The files are read with the first request in a language, not with each."""
    assert wording_of("de-AT") is wording_of("de")
    assert isinstance(wording_of("de"), Wording)
