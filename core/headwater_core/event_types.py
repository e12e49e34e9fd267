"""The event types a tenant knows: the built-in ones, and what was registered or changed since."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, select

from headwater_core.database import Database, advance, insert
from headwater_core.errors import InvalidFieldError
from headwater_core.events import BUILT_IN_EVENT_TYPES, EventType, check_event_type
from headwater_core.repeating import repeated
from headwater_core.schema import event_types

MAX_TYPES = 500
"""How many types a tenant may have, the built-in ones included: each is a part of the model."""
REVISION = "event_types_revision"
"""The counter that every change advances."""


class EventTypes:
    """The registered event types of one tenant."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant

    def all(self) -> dict[str, EventType]:
        """Every registered type by name; what was stored wins over what is built in."""
        with self._database.read() as connection:
            return registered(connection, self._tenant)

    @repeated
    def upsert(self, types: Sequence[EventType]) -> None:
        """Register types, or change how registered ones (built-in ones too) are understood; the last of a name wins.

        Raises:
            InvalidFieldError: `event_types[i].…`, or there would be too many; nothing is written then.
        """
        for index, event_type in enumerate(types):
            _check(event_type, f"event_types[{index}]")
        rows = [self._row(event_type) for event_type in {each.name: each for each in types}.values()]
        if not rows:
            return
        with self._database.write() as connection:
            self._make_room(connection, [row["name"] for row in rows], "event_types")
            statement = insert(connection, event_types)
            changed = {name: statement.excluded[name] for name in rows[0] if name not in ("tenant", "name")}
            connection.execute(statement.on_conflict_do_update(index_elements=["tenant", "name"], set_=changed), rows)

    @repeated
    def register_missing(self, names: Iterable[str]) -> list[str]:
        """Register the names that are not yet, with the defaults of EventType; gives those, sorted.

        Raises:
            InvalidFieldError: a name cannot be an event type's, or there would be too many; nothing is written then.
        """
        missing = sorted(set(names) - self.all().keys())
        for name in missing:
            _check(EventType(name), "event_type")
        if missing:
            with self._database.write() as connection:
                self._make_room(connection, missing, "event_type")
                rows = [self._row(EventType(name)) for name in missing]
                connection.execute(insert(connection, event_types).on_conflict_do_nothing(), rows)
        return missing

    def _make_room(self, connection: Connection, names: Iterable[str], field: str) -> None:
        # Counted up first: nobody else registers types until this transaction ends.
        advance(connection, self._tenant, REVISION, 1)
        if len(registered(connection, self._tenant).keys() | set(names)) > MAX_TYPES:
            raise InvalidFieldError(field, f"would be too many: at most {MAX_TYPES} types can be registered")

    def _row(self, event_type: EventType) -> dict[str, Any]:
        return {
            "tenant": self._tenant,
            "name": event_type.name,
            "weight": event_type.weight,
            "in_history": event_type.in_history,
            "is_target": event_type.is_target,
            "is_negative": event_type.is_negative,
            "value_min": event_type.value_min,
            "value_max": event_type.value_max,
        }


def registered(connection: Connection, tenant: str) -> dict[str, EventType]:
    """As EventTypes.all, inside a transaction."""
    columns = [column for column in event_types.c if column.name != "tenant"]
    rows = connection.execute(select(*columns).where(event_types.c.tenant == tenant))
    return {**BUILT_IN_EVENT_TYPES, **{row.name: EventType(*row) for row in rows}}


def _check(event_type: EventType, prefix: str) -> None:
    try:
        check_event_type(event_type)
    except InvalidFieldError as error:
        raise error.within(prefix) from None
