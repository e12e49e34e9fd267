"""Event types: built in, registered, changed."""

from __future__ import annotations

import pytest

from headwater_core.database import Database
from headwater_core.errors import InvalidFieldError
from headwater_core.event_types import MAX_TYPES, EventTypes
from headwater_core.events import BUILT_IN_EVENT_TYPES, EventType


def test_the_built_in_types_are_there_at_once(database: Database) -> None:
    """A new tenant knows the built-in types."""
    assert EventTypes(database).all() == dict(BUILT_IN_EVENT_TYPES)


def test_what_was_stored_wins_over_what_is_built_in(database: Database) -> None:
    """upsert adds types and changes known ones, built-in ones too, field by field."""
    types = EventTypes(database)
    finish = EventType("finish", 4.0, in_history=True, is_target=False, is_negative=True, value_min=0.0, value_max=1.0)
    types.upsert([finish, EventType("view", weight=9.0)])
    types.upsert([EventType("view", weight=0.25)])
    assert types.all()["finish"] == finish
    assert types.all()["view"] == EventType("view", weight=0.25)
    assert EventTypes(database, "other").all() == dict(BUILT_IN_EVENT_TYPES)


def test_of_a_name_given_twice_the_last_counts(database: Database) -> None:
    """One batch may name a type twice."""
    types = EventTypes(database)
    types.upsert([EventType("play", weight=1.0), EventType("play", weight=2.0)])
    assert types.all()["play"].weight == 2.0


def test_a_type_that_cannot_work_is_refused_whole(database: Database) -> None:
    """The error names the type's place and field, and the good types of the batch are not written."""
    types = EventTypes(database)
    with pytest.raises(InvalidFieldError) as refused:
        types.upsert([EventType("fine"), EventType("heavy", weight=101.0)])
    assert refused.value.field == "event_types[1].weight"
    assert "fine" not in types.all()


def test_register_missing_leaves_known_types_alone(database: Database) -> None:
    """Only names that nobody registered are registered, with the defaults, and given back."""
    types = EventTypes(database)
    types.upsert([EventType("play", weight=3.0)])
    assert types.register_missing(["watch", "play", "view", "watch"]) == ["watch"]
    assert types.all()["watch"] == EventType("watch")
    assert types.all()["play"].weight == 3.0
    assert types.register_missing(["watch"]) == []


def test_there_is_an_end_to_registering_types(database: Database) -> None:
    """Every type is a part of the model: past the limit new ones are refused, known ones can still be changed."""
    types = EventTypes(database)
    room = MAX_TYPES - len(types.all())
    names = [f"type-{n}" for n in range(room)]
    types.register_missing(names)
    assert len(types.all()) == MAX_TYPES
    with pytest.raises(InvalidFieldError, match="too many"):
        types.register_missing(["one-more"])
    with pytest.raises(InvalidFieldError, match="too many") as refused:
        types.upsert([EventType("type-0", weight=2.0), EventType("one-more")])
    assert refused.value.field == "event_types"
    assert types.all()["type-0"] == EventType("type-0")
    types.upsert([EventType("type-0", weight=2.0)])
    assert types.register_missing(["type-1"]) == []
    assert EventTypes(database, "other").register_missing(["one-more"]) == ["one-more"]


def test_register_missing_refuses_a_name_that_cannot_be_one(database: Database) -> None:
    """Imports cannot bring in names outside the alphabet."""
    with pytest.raises(InvalidFieldError) as refused:
        EventTypes(database).register_missing(["Not A Name"])
    assert refused.value.field == "event_type.name"
