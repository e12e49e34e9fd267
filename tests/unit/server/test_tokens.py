"""Tokens come back as they went, and anything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.attribution import attribution_token
from headwater_core.errors import InvalidFieldError
from headwater_server.tokens import ConsistencyToken, ListToken, PageToken

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
tenants = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
positions = st.integers(0, (1 << 63) - 1)

OPENERS: list[Callable[[str], object]] = [
    lambda text: ConsistencyToken.open(text, "field", "default"),
    lambda text: PageToken.open(text, "field", "default"),
    lambda text: ListToken.open(text, "field"),
    lambda text: ListToken.open_number(text, "field"),
]
SEALED = [
    ConsistencyToken("default", 12).seal(),
    PageToken("default", 3, "home", ("a", "b")).seal(),
    ListToken("17").seal(),
    attribution_token("default", "slate"),
]


def assert_refused(opener: Callable[[str], object], text: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        opener(text)
    assert caught.value.field == "field"


@given(tenants, positions)
def test_a_consistency_token_comes_back(tenant: str, position: int) -> None:
    """What was sealed is what is opened."""
    token = ConsistencyToken(tenant, position)
    assert ConsistencyToken.open(token.seal(), "field", tenant) == token


@given(tenants, positions, st.lists(ids, max_size=50))
def test_a_page_token_comes_back(tenant: str, generation: int, served: list[str]) -> None:
    """Whatever characters the ids hold."""
    token = PageToken(tenant, generation, "home", tuple(served))
    assert PageToken.open(token.seal(), "field", tenant) == token


@given(ids)
def test_a_list_token_comes_back(after: str) -> None:
    """With text and with numbers."""
    assert ListToken.open(ListToken(after).seal(), "field") == ListToken(after)


@given(st.integers(0, 10**18 - 1))
def test_a_numbered_list_token_comes_back(after: int) -> None:
    """As the number it was."""
    assert ListToken.open_number(ListToken(str(after)).seal(), "field") == after


@pytest.mark.parametrize("opener", OPENERS)
@given(st.text(max_size=200))
def test_any_text_that_is_no_token_is_refused(opener: Callable[[str], object], text: str) -> None:
    """With an InvalidFieldError and nothing else, whatever the text."""
    assert_refused(opener, text)


@pytest.mark.parametrize("opener", OPENERS)
@given(st.sampled_from(SEALED), st.data())
def test_a_damaged_token_is_refused(opener: Callable[[str], object], token: str, data: st.DataObject) -> None:
    """One character changed, removed or added anywhere."""
    at = data.draw(st.integers(0, len(token) - 1))
    characters = st.sampled_from("ABCxyz019-_=+/ \né")
    kind = data.draw(st.sampled_from(["change", "remove", "add"]))
    if kind == "remove":
        damaged = token[:at] + token[at + 1 :]
    else:
        damaged = token[:at] + data.draw(characters) + token[at + (kind == "change") :]
    try:
        opened = opener(damaged)
    except InvalidFieldError:
        return
    # base64 has spare bits and padding: text may differ where the bytes do not.
    assert opened == opener(token)


@pytest.mark.parametrize("opener", OPENERS[:2])
def test_another_tenants_token_is_refused(opener: Callable[[str], object]) -> None:
    """Though it is well formed."""
    assert_refused(opener, ConsistencyToken("other", 1).seal())
    assert_refused(opener, PageToken("other", 1, "home", ()).seal())


def test_a_token_of_another_kind_is_refused() -> None:
    """A token says what it is for."""
    for opener, own in zip(OPENERS, [0, 1, 2, 2], strict=True):
        for number, token in enumerate(SEALED):
            if number != own:
                assert_refused(opener, token)


def test_a_list_token_that_is_no_number_is_refused() -> None:
    """Also one that looks like a number to Python alone."""
    for after in ("", "x", "-1", "1.5", "٣", "1" * 19):
        assert_refused(OPENERS[3], ListToken(after).seal())


def test_a_negative_position_is_refused() -> None:
    """There is none in any log."""
    assert_refused(OPENERS[0], ConsistencyToken("default", -1).seal())


def test_a_position_that_no_database_can_hold_is_refused() -> None:
    """The largest one that it can hold is a position like any other."""
    assert_refused(OPENERS[0], ConsistencyToken("default", 1 << 63).seal())
    assert OPENERS[0](ConsistencyToken("default", (1 << 63) - 1).seal()) == ConsistencyToken("default", (1 << 63) - 1)
