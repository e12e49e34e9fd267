"""From the log to what the learner learns: each subject's new events behind the history that serving would see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from headwater_core.cleaning import Cleaner, CleaningLimits
from headwater_core.events import EventType, HistoryEvent, LoggedEvent, Subject, SubjectKind, history_event
from headwater_core.feedback_log import EventQuery, FeedbackLog
from headwater_updater.examples import Example, example_of

_MAX_LATE_EVENTS = 1000
_REPLAY_DEPTH = 2


def new_examples(
    log: FeedbackLog, new: Sequence[LoggedEvent], event_types: Mapping[str, EventType], history_length: int
) -> dict[Subject, Example]:
    """One example per subject that has new events in its history.

    The context is read from the log as serving reads it, rejected events included: what is learned from a history
    must fit the histories that will be asked about.

    Args:
        log: where the histories are.
        new: cleaned events, under the subjects whose histories they belong to.
        event_types: the registered types, by name.
        history_length: how many events the user tower reads.
    """
    found: dict[Subject, Example] = {}
    for subject, theirs in by_subject(new, event_types).items():
        first = _order(theirs[0])
        positions = {each.position for each in theirs}
        # No later than the newest of the batch: what was written since is context of the next rounds.
        newest = max(positions)
        history = log.history(subject, history_length + len(theirs))
        context = [
            each
            for each in history
            if each.position not in positions and each.position < newest and _order(each) < first
        ]
        events = [history_event(each) for each in (*context[-history_length:], *theirs)]
        found[subject] = Example(events, len(theirs))
    return found


def replay_examples(
    log: FeedbackLog, positions: Sequence[int], history_length: int, depth: int = _REPLAY_DEPTH
) -> list[Example]:
    """One example per learned event: itself as the last one, behind what came before it.

    Events that were erased, or that lie deeper in a history than `depth` times `history_length`, are left out.
    """
    events = log.read_at(positions)
    links = links_of(log, events)
    wanted_of: dict[Subject, list[int]] = {}
    for logged in events:
        subject = logged.event.subject
        if subject.kind is SubjectKind.VISITOR and subject.id in links:
            subject = Subject(SubjectKind.USER, links[subject.id])
        wanted_of.setdefault(subject, []).append(logged.position)
    found: list[Example] = []
    for subject, wanted in wanted_of.items():
        history = [history_event(logged) for logged in log.history(subject, depth * history_length)]
        index_of = {event.position: index for index, event in enumerate(history)}
        for position in wanted:
            index = index_of.get(position)
            if index is not None:
                found.append(example_of(history, index, history_length))
    return found


def by_subject(events: Iterable[LoggedEvent], event_types: Mapping[str, EventType]) -> dict[Subject, list[LoggedEvent]]:
    """The events that are part of histories, by subject, each in the history's order."""
    grouped: dict[Subject, list[LoggedEvent]] = {}
    for logged in events:
        if event_types[logged.event.event_type].in_history:
            grouped.setdefault(logged.event.subject, []).append(logged)
    return {subject: sorted(theirs, key=_order) for subject, theirs in grouped.items()}


def links_of(log: FeedbackLog, events: Iterable[LoggedEvent]) -> dict[str, str]:
    """The links of the visitors without a user among these events: visitor_id → user_id."""
    visitors = {logged.event.subject for logged in events if not logged.event.user_id}
    owners = ((visitor, log.resolve(visitor)) for visitor in visitors)
    return {visitor.id: owner.id for visitor, owner in owners if owner.kind is SubjectKind.USER}


def events_before_their_item(
    log: FeedbackLog,
    item_ids: Iterable[str],
    up_to: int,
    event_types: Mapping[str, EventType],
    limits: CleaningLimits,
) -> list[LoggedEvent]:
    """Cleaned events at positions ≤ `up_to` on items that only now became known: they were kept, not learned."""
    late: list[LoggedEvent] = []
    for item_id in item_ids:
        events = log.list_events(EventQuery(item_id=item_id), 0, _MAX_LATE_EVENTS)
        late += [logged for logged in events if logged.position <= up_to]
    late.sort(key=lambda logged: logged.position)
    return Cleaner(limits).clean(late, event_types, links_of(log, late)).events


def _order(logged: LoggedEvent) -> tuple[int, int]:
    event: HistoryEvent = history_event(logged)
    return event.event_time_us, event.position
