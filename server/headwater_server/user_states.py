"""Histories of the subjects seen lately, kept in memory and extended as the log grows.

All events reach a state through `apply`, in log order, and `apply` is idempotent, so a state that was loaded from SQL
while the log went on is right whichever came first.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from headwater_core.errors import DatabaseUnavailableError
from headwater_core.events import NEVER_AGAIN, EventType, HistoryEvent, LoggedEvent, Subject, SubjectKind, history_event
from headwater_core.recalling import Recollection
from headwater_core.shards import Vectors
from headwater_server.kept_slates import KeptSlate

FEW_READINGS = 64
"""So many at once are done in a moment, once a database that hung is there again."""


class KeptInterests(NamedTuple):
    """The user tower's answer, and for which state of things it was."""

    history_version: int
    items_version: int | None
    """Of the item space; None when the history rests on items of the generation alone."""
    interests: Vectors  # (K, d)


@dataclass(slots=True, weakref_slot=True)
class UserState:
    """One subject's history. Read it; only `UserStates` writes."""

    history: list[HistoryEvent] = field(default_factory=list)
    """The newest events, oldest first by (event_time_us, position)."""
    seen_item_ids: set[str] = field(default_factory=set)
    """Every item the subject ever had an in_history event on."""
    unwanted_item_ids: set[str] = field(default_factory=set)
    """Those of them that it does not want to be shown again."""
    version: int = 0
    """The highest position in it."""
    complete_to: int = 0
    """Everything up to this position was in it when it was loaded."""
    vectors: dict[int, KeptInterests] = field(default_factory=dict)
    """The user tower's answers, by generation."""
    slates: list[KeptSlate] = field(default_factory=list)
    """The last few answers, the newest first."""


@dataclass(slots=True)
class _Load:
    """One reading of a subject from SQL, and what happened meanwhile."""

    task: asyncio.Task[UserState]
    applied_meanwhile: list[LoggedEvent] = field(default_factory=list)
    outdated: bool = False
    """A link or an erasure came in between: what was read is not what should be read."""
    n_waiting: int = 0
    """Callers who still want it."""


class UserStates:
    """A bounded, least-recently-used store of user states."""

    def __init__(
        self,
        load: Callable[[Subject], Awaitable[Recollection]],
        event_types: Callable[[], Mapping[str, EventType]],
        *,
        history_length: int,
        capacity: int,
    ) -> None:
        """Make an empty store.

        Args:
            load: reads a subject's history and seen items from SQL.
            event_types: the registered types now.
            history_length: how many events of a history are kept.
            capacity: how many states are kept.
        """
        self._load = load
        self._event_types = event_types
        self._history_length = history_length
        self._capacity = capacity
        self._states: OrderedDict[Subject, UserState] = OrderedDict()
        self._loads: dict[Subject, _Load] = {}
        self._links: dict[str, str] = {}
        self.applied_position = 0
        """Every event up to this position is in every state held."""

    def __len__(self) -> int:
        return len(self._states)

    @property
    def history_length(self) -> int:
        """How many events of a history are kept."""
        return self._history_length

    def keep_at_least(self, history_length: int) -> None:
        """Keep longer histories from here on; states that were cut shorter are forgotten and read anew."""
        if history_length > self._history_length:
            self._history_length = history_length
            self.drop_all()

    def set_links(self, links: Mapping[str, str]) -> None:
        """Replace the visitor → user links, and forget the states that a changed one touches."""
        changed = {visitor for visitor, _ in self._links.items() ^ links.items()}
        touched = {user for user_of in (self._links, links) for visitor in changed if (user := user_of.get(visitor))}
        self._links = dict(links)
        for visitor_id in changed:
            self.drop(Subject(SubjectKind.VISITOR, visitor_id))
        for user_id in touched:
            self.drop(Subject(SubjectKind.USER, user_id))

    def resolve(self, subject: Subject) -> Subject:
        """The user that a linked visitor belongs to, else the subject itself."""
        if subject.kind is SubjectKind.VISITOR and (user_id := self._links.get(subject.id)):
            return Subject(SubjectKind.USER, user_id)
        return subject

    def subjects(self) -> list[Subject]:
        """Whose states are held or being read."""
        return [*self._states, *(subject for subject in self._loads if subject not in self._states)]

    def newest(self, count: int) -> list[UserState]:
        """The states used last, at most `count`."""
        return [self._states[subject] for subject in itertools.islice(reversed(self._states), count)]

    async def get(self, subject: Subject, min_position: int = 0) -> UserState:
        """The subject's state, holding every event up to `min_position`.

        Raises:
            DatabaseUnavailableError: the database is needed for it and away, or does not know that position yet.
        """
        subject = self.resolve(subject)
        state = self._states.get(subject)
        if state is not None and self._is_complete(state, min_position):
            self._states.move_to_end(subject)
            return state
        # A reading under way may have begun too early; one begun after it ended has not.
        for _ in range(2):
            state = await self._loaded(subject)
            if self._is_complete(state, min_position):
                return state
        raise DatabaseUnavailableError(f"the database does not hold log position {min_position} yet")

    def apply(self, logged: LoggedEvent) -> None:
        """Extend the state that an event belongs to. Call once per event, in log order."""
        event = logged.event
        if event.user_id and event.visitor_id and self._links.get(event.visitor_id) != event.user_id:
            before = self.resolve(Subject(SubjectKind.VISITOR, event.visitor_id))
            self._links[event.visitor_id] = event.user_id
            self.drop(before)
            self.drop(event.subject)
        subject = self.resolve(event.subject)
        if event.event_type not in self._event_types():
            self.drop(subject)  # registered elsewhere a moment ago: whether histories hold it SQL says, not this server
        if (load := self._loads.get(subject)) is not None:
            load.applied_meanwhile.append(logged)
        if (state := self._states.get(subject)) is not None:
            self._extend(state, logged)
        self.applied_position = logged.position

    def drop(self, subject: Subject) -> None:
        """Forget a state; the next `get` reads it anew."""
        self._states.pop(subject, None)
        if (load := self._loads.get(subject)) is not None:
            load.outdated = True

    def drop_all(self) -> None:
        """Forget every state."""
        for subject in self.subjects():
            self.drop(subject)

    def unlink(self, user_id: str) -> None:
        """Forget the links to a user, and the user's and the visitors' states."""
        for visitor_id in [visitor for visitor, user in self._links.items() if user == user_id]:
            del self._links[visitor_id]
            self.drop(Subject(SubjectKind.VISITOR, visitor_id))
        self.drop(Subject(SubjectKind.USER, user_id))

    def _is_complete(self, state: UserState, min_position: int) -> bool:
        return max(self.applied_position, state.complete_to) >= min_position

    async def _loaded(self, subject: Subject) -> UserState:
        load = self._loads.get(subject)
        if load is None:
            load = _Load(asyncio.create_task(self._load_state(subject), name="load-user-state"))
            self._loads[subject] = load
            load.task.add_done_callback(lambda _: self._end(subject, load))
            load.task.add_done_callback(_hear)
        load.n_waiting += 1
        try:
            # Shielded: one caller who leaves must not end the reading that others wait for.
            return await asyncio.shield(load.task)
        finally:
            load.n_waiting -= 1
            # Read to its end it answers the next request. But many that nobody waits for must not queue up before those
            # that somebody does.
            if not load.n_waiting and not load.task.done() and len(self._loads) > FEW_READINGS:
                self._end(subject, load)
                load.task.cancel()

    def _end(self, subject: Subject, load: _Load) -> None:
        """Let nobody join it any more."""
        if self._loads.get(subject) is load:
            del self._loads[subject]

    async def _load_state(self, subject: Subject) -> UserState:
        await asyncio.sleep(0)  # lets the caller register the load before anything is read
        load = self._loads[subject]
        while True:
            load.outdated = False
            load.applied_meanwhile.clear()
            loaded = await self._load(subject)
            if not load.outdated:
                break
        state = UserState(
            history=loaded.history[-self._history_length :],
            seen_item_ids=loaded.seen_item_ids,
            unwanted_item_ids=loaded.unwanted_item_ids,
            version=max((event.position for event in loaded.history), default=0),
            complete_to=loaded.head,
        )
        for logged in load.applied_meanwhile:
            self._extend(state, logged)
        self._states[subject] = state
        self._states.move_to_end(subject)
        while len(self._states) > self._capacity:
            self._states.popitem(last=False)
        return state

    def _extend(self, state: UserState, logged: LoggedEvent) -> None:
        event_type = self._event_types().get(logged.event.event_type)
        if logged.position <= state.complete_to or event_type is None or not event_type.in_history:
            return
        event = history_event(logged)
        at = bisect.bisect_left(state.history, (event.event_time_us, event.position), key=_place)
        if at < len(state.history) and state.history[at].position == event.position:
            return  # committed while the state was being read, and read with it
        state.history.insert(at, event)
        del state.history[: -self._history_length]
        if event.item_id:
            state.seen_item_ids.add(event.item_id)
            if event.event_type in NEVER_AGAIN:
                state.unwanted_item_ids.add(event.item_id)
        state.version = event.position


def _place(event: HistoryEvent) -> tuple[int, int]:
    return event.event_time_us, event.position


def _hear(load: asyncio.Task[UserState]) -> None:
    """Let a failure that nobody waits for any more be no news to the event loop: who asks next is told of it."""
    if not load.cancelled():
        load.exception()
