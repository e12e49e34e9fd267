"""Which visitors turned out to be which users. One user per visitor at a time; the latest link counts.

Events stay under the subject they were written for; a user's history is gathered from the user's own and those of the
visitors linked to it now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Connection, delete, select

from headwater_core.database import chunks, insert
from headwater_core.events import Event, Subject, SubjectKind
from headwater_core.schema import visitor_links


def write(connection: Connection, tenant: str, logged: Iterable[tuple[int, Event]]) -> None:
    """Link the visitor and the user of every (position, event) that names both; given in the positions' order."""
    latest = {
        event.visitor_id: {
            "tenant": tenant,
            "visitor_id": event.visitor_id,
            "user_id": event.user_id,
            "position": position,
        }
        for position, event in logged
        if event.user_id and event.visitor_id
    }
    if not latest:
        return
    statement = insert(connection, visitor_links)
    changed = {"user_id": statement.excluded.user_id, "position": statement.excluded.position}
    statement = statement.on_conflict_do_update(index_elements=["tenant", "visitor_id"], set_=changed)
    connection.execute(statement, list(latest.values()))


def remove(connection: Connection, tenant: str, user_id: str) -> None:
    """Unlink all of a user's visitors."""
    connection.execute(
        delete(visitor_links).where(visitor_links.c.tenant == tenant, visitor_links.c.user_id == user_id)
    )


def all_links(connection: Connection, tenant: str) -> dict[str, str]:
    """Every linked visitor's user."""
    statement = select(visitor_links.c.visitor_id, visitor_links.c.user_id).where(visitor_links.c.tenant == tenant)
    return {row.visitor_id: row.user_id for row in connection.execute(statement)}


def group(connection: Connection, tenant: str, subject: Subject) -> list[Subject]:
    """The subjects whose events make up a subject's history: itself and, for a user, the linked visitors, sorted."""
    return groups(connection, tenant, [subject])[subject]


def groups(connection: Connection, tenant: str, subjects: Collection[Subject]) -> dict[Subject, list[Subject]]:
    """The group of each of these subjects; see `group`."""
    found = {subject: [subject] for subject in subjects}
    for chunk in chunks([subject.id for subject in found if subject.kind is SubjectKind.USER]):
        statement = (
            select(visitor_links.c.user_id, visitor_links.c.visitor_id)
            .where(visitor_links.c.tenant == tenant, visitor_links.c.user_id.in_(chunk))
            .order_by(visitor_links.c.visitor_id)
        )
        for user_id, visitor_id in connection.execute(statement):
            found[Subject(SubjectKind.USER, user_id)].append(Subject(SubjectKind.VISITOR, visitor_id))
    return found


def owners(connection: Connection, tenant: str, subjects: Collection[Subject]) -> dict[Subject, Subject]:
    """For each subject, whose history its events belong to: a linked visitor's user, else the subject itself."""
    found = {subject: subject for subject in subjects}
    visitors = [subject.id for subject in found if subject.kind is SubjectKind.VISITOR]
    for chunk in chunks(visitors):
        statement = select(visitor_links.c.visitor_id, visitor_links.c.user_id).where(
            visitor_links.c.tenant == tenant, visitor_links.c.visitor_id.in_(chunk)
        )
        for visitor_id, user_id in connection.execute(statement):
            found[Subject(SubjectKind.VISITOR, visitor_id)] = Subject(SubjectKind.USER, user_id)
    return found
