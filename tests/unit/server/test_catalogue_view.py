"""The catalogue as requests see it, and what changed in it since when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headwater_core.catalogue import Item, ItemChange
from headwater_server import catalogue_view
from headwater_server.catalogue_view import CatalogueView


@given(
    changes=st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60),
    since=st.integers(min_value=0, max_value=60),
    kept=st.integers(min_value=0, max_value=20),
)
def test_what_is_newer_is_found_without_looking_at_the_rest(
    changes: list[tuple[str, bool]], since: int, kept: int
) -> None:
    """Just the living items whose last change came later, whatever record of older changes was dropped."""
    before, catalogue_view._KEPT_CHANGES = catalogue_view._KEPT_CHANGES, kept
    try:
        view = CatalogueView()
        for revision, (item_id, is_deleted) in enumerate(changes, start=1):
            item = None if is_deleted else Item(item_id, categories=("x",), revision=revision)
            view.apply(ItemChange(revision, item_id, item))
    finally:
        catalogue_view._KEPT_CHANGES = before
    newer = {item.item_id for item in view.newer(since)}
    assert newer == {item_id for item_id, item in view.items.items() if item.revision > since}
    assert set(view.in_category("x")) == set(view.items)
    if since >= view.gone_after:
        assert set(view.changed_after(since)) == {item_id for item_id, _ in changes[since:]}
