"""The attribution token leads back to its slate, and no other text does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_core.attribution import attributed_slate, attribution_token
from headwater_core.errors import InvalidFieldError
from headwater_core.sealing import seal


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=64))
def test_a_token_leads_to_its_slate(slate_id: str) -> None:
    """Whatever characters the id holds."""
    assert attributed_slate(attribution_token("default", slate_id), "default") == slate_id


@pytest.mark.parametrize(
    "text", ["", "fake-slate", attribution_token("other", "s"), seal("l", ["default", "s"]), seal("a", ["default"])]
)
def test_anything_else_is_refused(text: str) -> None:
    """Text of the caller's, another tenant's token, one of another kind or shape."""
    with pytest.raises(InvalidFieldError, match="attribution_token"):
        attributed_slate(text, "default")
