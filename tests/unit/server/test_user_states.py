"""User states: right whatever comes first, the reading from SQL or the log's next event."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_core.errors import DatabaseUnavailableError
from headwater_core.events import (
    BUILT_IN_EVENT_TYPES,
    NEVER_AGAIN,
    Event,
    LoggedEvent,
    Subject,
    SubjectKind,
    history_event,
)
from headwater_core.recalling import Recollection
from headwater_server import user_states
from headwater_server.user_states import UserState, UserStates

DEADLINE_S = 20
Until = Callable[[Callable[[], bool]], Awaitable[None]]
LENGTH = 5
USERS = [Subject(SubjectKind.USER, name) for name in ("ada", "bob")]
VISITORS = [Subject(SubjectKind.VISITOR, name) for name in ("cookie", "device")]
SUBJECTS = [*USERS, *VISITORS]


class Log:
    """A feedback log in memory that can be slow, as SQL is, and away."""

    def __init__(self) -> None:
        self.events: list[LoggedEvent] = []
        self.loads = self.given_up = 0
        self.steps = 1
        """How often a reading lets others work: between head and history, and after it."""
        self.gate: asyncio.Event | None = None
        self.is_away = False

    def write(
        self, item_id: str, user_id: str = "", visitor_id: str = "", time_us: int | None = None, kind: str = "like"
    ) -> LoggedEvent:
        position = len(self.events) + 1
        when = position * 10 if time_us is None else time_us
        event = Event(f"e{position}", kind, user_id, visitor_id, item_id=item_id, event_time_us=when)
        self.events.append(LoggedEvent(position, when, event))
        return self.events[-1]

    def links(self) -> dict[str, str]:
        return {e.event.visitor_id: e.event.user_id for e in self.events if e.event.user_id and e.event.visitor_id}

    def of(self, subject: Subject) -> list[LoggedEvent]:
        """The subject's events that are part of histories, by time."""
        links = self.links()
        group = {subject}
        if subject.kind is SubjectKind.USER:
            group |= {Subject(SubjectKind.VISITOR, visitor) for visitor, user in links.items() if user == subject.id}
        mine = [
            logged
            for logged in self.events
            if logged.event.subject in group and BUILT_IN_EVENT_TYPES[logged.event.event_type].in_history
        ]
        return sorted(mine, key=lambda logged: (logged.event.event_time_us or 0, logged.position))

    async def load(self, subject: Subject) -> Recollection:
        self.loads += 1
        if self.is_away:
            raise DatabaseUnavailableError("away")
        head = len(self.events)
        for _ in range(self.steps):
            await asyncio.sleep(0)
        mine = self.of(subject)
        for _ in range(self.steps):
            await asyncio.sleep(0)
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        history = [history_event(logged) for logged in mine[-LENGTH:]]
        unwanted = {logged.event.item_id for logged in mine if logged.event.event_type in NEVER_AGAIN}
        return Recollection(head, history, {logged.event.item_id for logged in mine}, unwanted)


def store(log: Log, capacity: int = 100) -> UserStates:
    return UserStates(log.load, lambda: BUILT_IN_EVENT_TYPES, history_length=LENGTH, capacity=capacity)


def gated() -> tuple[Log, asyncio.Event, UserStates]:
    """A store over a log of one event, of ada's, whose readings wait for the gate."""
    log, gate = Log(), asyncio.Event()
    log.gate = gate
    log.write("a", "ada")
    return log, gate, store(log)


async def get(states: UserStates, subject: Subject, min_position: int = 0) -> UserState:
    return await asyncio.wait_for(states.get(subject, min_position), DEADLINE_S)


def positions(state: UserState) -> list[int]:
    return [event.position for event in state.history]


def user(name: str) -> Subject:
    return Subject(SubjectKind.USER, name)


def visitor(name: str) -> Subject:
    return Subject(SubjectKind.VISITOR, name)


@dataclasses.dataclass(frozen=True)
class Act:
    """One thing that happens: an event is committed, events are applied, a state is asked for, time passes."""

    kind: str
    user_id: str = ""
    visitor_id: str = ""
    time_us: int = 0
    event_type: str = "like"
    subject: Subject = USERS[0]


_names = st.sampled_from(["", "ada", "bob"])
_visits = st.sampled_from(["", "cookie", "device"])
_writes = st.builds(
    Act,
    st.just("write"),
    _names,
    _visits,
    st.integers(0, 30),
    st.sampled_from(["like", "click", "impression"]),
).filter(lambda act: bool(act.user_id or act.visitor_id))
_acts = st.one_of(
    _writes,
    st.just(Act("apply")),
    st.builds(Act, st.just("get"), subject=st.sampled_from(SUBJECTS)),
    st.just(Act("wait")),
)


async def _run(acts: Sequence[Act], steps: int, capacity: int) -> None:
    log = Log()
    log.steps = steps
    states = store(log, capacity)
    applied = 0
    asked: list[asyncio.Task[UserState]] = []
    for act in acts:
        if act.kind == "write":
            item_id = f"item-{len(log.events) % 7}"
            log.write(item_id, act.user_id, act.visitor_id, act.time_us, act.event_type)
        elif act.kind == "apply" and applied < len(log.events):
            states.apply(log.events[applied])
            applied += 1
        elif act.kind == "get":
            asked.append(asyncio.create_task(states.get(act.subject)))
        else:
            await asyncio.sleep(0)
    for logged in log.events[applied:]:
        states.apply(logged)
    await asyncio.wait_for(asyncio.gather(*asked), DEADLINE_S)
    assert len(states) <= capacity
    links = log.links()
    for subject in SUBJECTS:
        state = await get(states, subject)
        owner = user(links[subject.id]) if subject.kind is SubjectKind.VISITOR and subject.id in links else subject
        expected = log.of(owner)
        assert positions(state) == [logged.position for logged in expected[-LENGTH:]]
        assert state.seen_item_ids == {logged.event.item_id for logged in expected}


@settings(deadline=None, max_examples=200)
@given(st.lists(_acts, max_size=40), st.integers(0, 4), st.sampled_from([1, 2, 100]))
def test_a_state_is_what_the_log_says(acts: list[Act], steps: int, capacity: int) -> None:
    """However writes, readings, applied events, links and evictions follow one another."""
    asyncio.run(_run(acts, steps, capacity))


async def test_an_event_that_was_read_and_then_applied_counts_once(until: Until) -> None:
    """It may be committed between the reading of the head and that of the history."""
    log = Log()
    states = store(log)
    log.write("a", "ada")
    asking = asyncio.create_task(states.get(user("ada")))
    await until(lambda: log.loads == 1)
    late = log.write("b", "ada")
    state = await asyncio.wait_for(asking, DEADLINE_S)
    for logged in log.events:
        states.apply(logged)
    assert late.position in positions(state)
    assert positions(state) == [1, 2]


async def test_an_event_applied_twice_counts_once() -> None:
    """Applying is idempotent."""
    log = Log()
    states = store(log)
    state = await get(states, user("ada"))
    logged = log.write("a", "ada")
    states.apply(logged)
    states.apply(logged)
    assert positions(state) == [1]


async def test_a_late_event_takes_its_place_by_time() -> None:
    """Histories are ordered by when things happened; over the length the oldest go, but stay seen."""
    log = Log()
    states = store(log)
    state = await get(states, user("ada"))
    for number in range(LENGTH):
        states.apply(log.write(f"item-{number}", "ada", time_us=100 + number))
    states.apply(log.write("early", "ada", time_us=1))
    assert positions(state) == [1, 2, 3, 4, 5]
    states.apply(log.write("between", "ada", time_us=102))
    assert positions(state) == [2, 3, 7, 4, 5]
    assert state.seen_item_ids >= {"early", "item-0"}


async def test_a_link_joins_the_visitors_events_to_the_users() -> None:
    """Both states are read anew, the visitor is answered with the user's; a new link moves the events on."""
    log = Log()
    states = store(log)
    for logged in (log.write("a", "ada"), log.write("b", visitor_id="cookie")):
        states.apply(logged)
    assert positions(await get(states, user("ada"))) == [1]
    assert positions(await get(states, visitor("cookie"))) == [2]
    states.apply(log.write("c", "ada", "cookie"))
    assert positions(await get(states, user("ada"))) == [1, 2, 3]
    assert await get(states, visitor("cookie")) is await get(states, user("ada"))
    states.apply(log.write("d", "bob", "cookie"))
    assert positions(await get(states, user("ada"))) == [1, 3]
    assert positions(await get(states, visitor("cookie"))) == [2, 4]


async def test_a_link_during_a_reading_makes_it_begin_again(until: Until) -> None:
    """What was read before the link is not what the user's history is now."""
    log = Log()
    states = store(log)
    log.gate = asyncio.Event()
    states.apply(log.write("a", "ada"))
    asking = asyncio.create_task(states.get(user("ada")))
    await until(lambda: log.loads == 1)
    states.apply(log.write("b", visitor_id="cookie"))
    states.apply(log.write("c", "ada", "cookie"))
    log.gate.set()
    state = await asyncio.wait_for(asking, DEADLINE_S)
    assert positions(state) == [1, 2, 3]
    assert log.loads == 2


async def test_replaced_links_forget_the_states_they_touch() -> None:
    """And no others."""
    log = Log()
    states = store(log)
    for subject in SUBJECTS:
        await get(states, subject)
    states.set_links({"cookie": "ada"})
    assert set(states.subjects()) == {user("bob"), visitor("device")}
    await get(states, user("ada"))
    states.set_links({"cookie": "ada"})
    assert user("ada") in states.subjects()
    states.set_links({})
    assert user("ada") not in states.subjects()


async def test_an_erased_user_is_forgotten_with_its_visitors() -> None:
    """The links go, and the next reading finds nothing."""
    log = Log()
    states = store(log)
    states.apply(log.write("a", "ada", "cookie"))
    await get(states, user("ada"))
    log.events.clear()
    states.unlink("ada")
    assert states.resolve(visitor("cookie")) == visitor("cookie")
    assert positions(await get(states, user("ada"))) == []


async def test_callers_share_one_reading_and_may_leave(until: Until) -> None:
    """One SQL reading for all who ask at once; one who is cancelled takes nothing from the others."""
    log, gate, states = gated()
    leaver, *stayers = [asyncio.create_task(states.get(user("ada"))) for _ in range(3)]
    await until(lambda: log.loads == 1)
    leaver.cancel()
    gate.set()
    found = await asyncio.wait_for(asyncio.gather(*stayers), DEADLINE_S)
    assert found[0] is found[1]
    assert (leaver.cancelled(), log.loads) == (True, 1)


async def test_a_reading_that_everybody_left_answers_who_asks_next(until: Until) -> None:
    """A database that takes longer than a caller waits is asked once."""
    log, gate, states = gated()
    leaver = asyncio.create_task(states.get(user("ada")))
    await until(lambda: log.loads == 1)
    leaver.cancel()
    await asyncio.wait([leaver])
    gate.set()
    assert positions(await get(states, user("ada"))) == [1]
    assert (log.loads, log.given_up) == (1, 0)


async def test_of_many_readings_those_that_everybody_left_are_given_up(
    until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for the database no more; who asks next has a reading that begins anew."""
    monkeypatch.setattr(user_states, "FEW_READINGS", 0)
    log, gate, states = gated()
    leavers = [asyncio.create_task(states.get(user("ada"))) for _ in range(2)]
    await until(lambda: log.loads == 1)
    leavers[0].cancel()
    await asyncio.wait(leavers[:1])
    assert states.subjects() == [user("ada")]
    leavers[1].cancel()
    await asyncio.wait(leavers)
    assert states.subjects() == []
    await until(lambda: log.given_up == 1)
    next_one = asyncio.create_task(states.get(user("ada")))
    await until(lambda: log.loads == 2)
    gate.set()
    assert positions(await asyncio.wait_for(next_one, DEADLINE_S)) == [1]


async def test_who_asks_while_a_reading_is_given_up_is_not_given_up_with_it(
    until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the one before has not ended yet."""
    monkeypatch.setattr(user_states, "FEW_READINGS", 0)
    log, gate, states = gated()
    leaver = asyncio.create_task(states.get(user("ada")))
    await until(lambda: log.loads == 1)
    leaver.cancel()
    stayer = asyncio.create_task(states.get(user("ada")))
    await until(lambda: log.loads == 2)
    gate.set()
    assert positions(await asyncio.wait_for(stayer, DEADLINE_S)) == [1]
    assert states.subjects() == [user("ada")]


async def test_a_position_that_must_be_seen_is_read_when_it_was_not_applied() -> None:
    """A state in memory is enough once the log was applied that far; a position nobody knows is an error."""
    log = Log()
    states = store(log)
    states.apply(log.write("a", "ada"))
    await get(states, user("ada"))
    log.write("b", "ada")
    assert positions(await get(states, user("ada"))) == [1]
    assert positions(await get(states, user("ada"), min_position=2)) == [1, 2]
    assert log.loads == 2
    assert positions(await get(states, user("ada"), min_position=2)) == [1, 2]
    assert log.loads == 2
    with pytest.raises(DatabaseUnavailableError):
        await get(states, user("ada"), min_position=3)


async def test_without_the_database_what_is_held_is_answered() -> None:
    """What is not is an error, and asked for again it is read when the database is back."""
    log = Log()
    states = store(log)
    await get(states, user("ada"))
    log.is_away = True
    await get(states, user("ada"))
    with pytest.raises(DatabaseUnavailableError):
        await get(states, user("bob"))
    log.is_away = False
    await get(states, user("bob"))


async def test_longer_histories_are_read_anew() -> None:
    """When a generation reads further back than what is kept, what was cut is not extended but forgotten."""
    log = Log()
    for number in range(LENGTH):
        log.write(f"item-{number}", "ada")
    states = store(log)
    await get(states, USERS[0])
    states.keep_at_least(LENGTH - 1)
    assert (states.history_length, len(states)) == (LENGTH, 1)
    states.keep_at_least(LENGTH + 1)
    assert (states.history_length, len(states)) == (LENGTH + 1, 0)
    await get(states, USERS[0])
    states.apply(log.write("one-more", "ada"))
    assert len((await get(states, USERS[0])).history) == LENGTH + 1


async def test_a_type_that_is_not_known_yet_makes_histories_be_read_anew(until: Until) -> None:
    """SQL holds the event, whatever this server has heard of its type: of a state held, and of one being read."""
    log = Log()
    types = {name: each for name, each in BUILT_IN_EVENT_TYPES.items() if name != "like"}
    states = UserStates(log.load, lambda: types, history_length=LENGTH, capacity=100)
    await get(states, user("ada"))
    states.apply(log.write("a", "ada"))
    assert positions(await get(states, user("ada"))) == [1]
    log.gate = asyncio.Event()
    asking = asyncio.create_task(states.get(user("bob")))
    await until(lambda: log.loads == 3)
    await asyncio.sleep(0)
    states.apply(log.write("b", "bob"))
    log.gate.set()
    assert positions(await asyncio.wait_for(asking, DEADLINE_S)) == [2]


async def test_the_least_recently_used_state_goes_first() -> None:
    """Using one keeps it."""
    log = Log()
    states = store(log, capacity=2)
    await get(states, user("ada"))
    await get(states, user("bob"))
    await get(states, user("ada"))
    await get(states, visitor("cookie"))
    assert set(states.subjects()) == {user("ada"), visitor("cookie")}
    assert len(states.newest(5)) == 2
