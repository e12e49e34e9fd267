"""Documents in the database, strategies for one kind: versions, deletion, races."""

from __future__ import annotations

import pytest

from headwater_core import document_store
from headwater_core.database import Database
from headwater_core.document_store import MAX_DOCUMENTS, DocumentStore
from headwater_core.errors import ConflictError, InvalidFieldError, NotFoundError
from headwater_core.strategies import KIND, Strategy


def strategies_of(database: Database, tenant: str = "default") -> DocumentStore[Strategy]:
    return DocumentStore(database, KIND, Strategy, tenant)


def diverse(diversity: float) -> Strategy:
    return Strategy.from_dict({"sources": [{"name": "tower"}], "diversity": diversity})


def test_the_newest_version_is_what_counts_and_all_can_be_read(database: Database) -> None:
    """Versions are numbered from 1 and never change."""
    store = strategies_of(database)
    assert [store.put("home", diverse(diversity)) for diversity in (0.1, 0.2)] == [1, 2]
    assert store.put("basket", diverse(0.3)) == 1
    assert [(each.name, each.number, each.content) for each in store.all()] == [
        ("basket", 1, diverse(0.3)),
        ("home", 2, diverse(0.2)),
    ]
    assert [(each.number, each.content) for each in store.versions("home")] == [
        (2, diverse(0.2)),
        (1, diverse(0.1)),
    ]
    assert [each.number for each in store.versions("home", before=2)] == [1]
    assert [each.number for each in store.versions("home", limit=1)] == [2]
    assert strategies_of(database, "other").all() == []


def test_a_deletion_is_a_version_too(database: Database) -> None:
    """A deleted strategy is gone, what it was can still be read, and it can come back."""
    store = strategies_of(database)
    store.put("home", diverse(0.1))
    assert store.delete("home") == 2
    assert store.all() == []
    assert [each.content for each in store.versions("home")] == [None, diverse(0.1)]
    with pytest.raises(NotFoundError, match="no strategy 'home'"):
        store.delete("home")
    with pytest.raises(NotFoundError, match="no strategy 'never'"):
        store.delete("never")
    assert store.put("home", diverse(0.2)) == 3


def test_who_relies_on_another_version_is_refused(database: Database) -> None:
    """Of two operators who read the same version the second is told."""
    store = strategies_of(database)
    assert store.put("home", diverse(0.1), expected_version=0) == 1
    with pytest.raises(ConflictError, match="is at version 1, not 0"):
        store.put("home", diverse(0.2), expected_version=0)
    assert store.put("home", diverse(0.2), expected_version=1) == 2
    assert len(store.versions("home")) == 2


def test_every_change_is_counted(database: Database) -> None:
    """Servers read strategies again when the counter has moved."""
    store = strategies_of(database)
    store.put("home", diverse(0.1))
    store.delete("home")
    assert database.counters("default")[document_store.REVISION] == 2


def test_there_is_an_end_to_strategies(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every server holds all: past the limit new ones are refused, known ones can still be changed."""
    monkeypatch.setattr(document_store, "MAX_DOCUMENTS", 2)
    assert MAX_DOCUMENTS > 2
    store = strategies_of(database)
    store.put("a", diverse(0.1))
    store.put("b", diverse(0.1))
    with pytest.raises(InvalidFieldError, match="at most 2"):
        store.put("c", diverse(0.1))
    assert store.put("b", diverse(0.2)) == 2
    store.delete("a")
    assert store.put("c", diverse(0.1)) == 1
