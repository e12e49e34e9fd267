"""From the log to what the learner learns: each subject's new events behind the history that serving would see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from headwater_core.cleaning import Cleaner, CleaningLimits
from headwater_core.database import chunks
from headwater_core.events import EventType, HistoryEvent, LoggedEvent, Subject, SubjectKind, history_event
from headwater_core.feedback_log import EventQuery, FeedbackLog
from headwater_updater.examples import Example, example_of

_MAX_LATE_EVENTS = 1000
_REPLAY_DEPTH = 2
_HISTORIES_AT_ONCE = 20
"""Deep ones have thousands of events."""


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
    grouped = by_subject(new, event_types)
    histories = log.histories({subject: history_length + len(theirs) for subject, theirs in grouped.items()})
    for subject, theirs in grouped.items():
        first = _order(theirs[0])
        positions = {each.position for each in theirs}
        # No later than the newest of the batch: what was written since is context of the next rounds.
        newest = max(positions)
        context = [
            each
            for each in histories[subject]
            if each.position not in positions and each.position < newest and _order(each) < first
        ]
        found[subject] = Example([*context[-history_length:], *theirs], len(theirs))
    return found


def replay_examples(
    log: FeedbackLog, events: Sequence[LoggedEvent], history_length: int, depth: int = _REPLAY_DEPTH
) -> list[Example]:
    """One example per learned event: itself as the last one, behind what came before it.

    Events that lie deeper in a history than `depth` times `history_length` are left out.
    """
    links = links_of(log, events)
    wanted_of: dict[Subject, list[int]] = {}
    for logged in events:
        subject = logged.event.subject
        if subject.kind is SubjectKind.VISITOR and subject.id in links:
            subject = Subject(SubjectKind.USER, links[subject.id])
        wanted_of.setdefault(subject, []).append(logged.position)
    found: list[Example] = []
    for subjects in chunks(wanted_of, _HISTORIES_AT_ONCE):
        for subject, history in log.histories(dict.fromkeys(subjects, depth * history_length)).items():
            index_of = {event.position: index for index, event in enumerate(history)}
            for position in wanted_of[subject]:
                index = index_of.get(position)
                if index is not None:
                    found.append(example_of(history, index, history_length))
    return found


def by_subject(
    events: Iterable[LoggedEvent], event_types: Mapping[str, EventType]
) -> dict[Subject, list[HistoryEvent]]:
    """The events that are part of histories, as the model reads them, by subject, each in the history's order."""
    grouped: dict[Subject, list[HistoryEvent]] = {}
    for logged in events:
        if event_types[logged.event.event_type].in_history:
            grouped.setdefault(logged.event.subject, []).append(history_event(logged))
    return {subject: sorted(theirs, key=_order) for subject, theirs in grouped.items()}


def links_of(log: FeedbackLog, events: Iterable[LoggedEvent]) -> dict[str, str]:
    """The links of the visitors without a user among these events: visitor_id → user_id."""
    visitors = {logged.event.subject for logged in events if not logged.event.user_id}
    return {visitor.id: owner.id for visitor, owner in log.owners(visitors).items() if owner.kind is SubjectKind.USER}


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


def _order(event: HistoryEvent) -> tuple[int, int]:
    return event.event_time_us, event.position
