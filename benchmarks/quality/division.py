"""One division of the data for every method: made by the product's own code, handed to other environments as files."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headwater_core.events import HistoryEvent
from headwater_updater.evaluation.events_file import EventData, Ordering
from headwater_updater.evaluation.splits import MIN_EVENTS, AskedUser, k_core, last_target_block, leave_one_out

EVENTS_FILE = "train.csv.gz"
TARGETS_FILE = "targets.jsonl"
OPTIONS_FILE = "options.json"
COLUMNS = ("user_id", "item_id", "timestamp", "is_validation", "is_target")


@dataclass(frozen=True, slots=True)
class UserParts:
    """One user's events before the test block."""

    user_id: str
    learned: Sequence[HistoryEvent]
    held: Sequence[HistoryEvent]
    """From the validation block on: known when lists are made, and learned only when that is asked for."""
    validation_targets: tuple[str, ...]
    """Different items of the validation block; empty where no block comes before it."""


@dataclass(frozen=True, slots=True)
class Division:
    """Leave-one-out as `headwater-updater evaluate` makes it."""

    users: list[UserParts]
    asked: list[AskedUser]
    candidates: list[str]
    """The most popular first, so that equal scores are in the order of popularity."""
    is_target: Callable[[HistoryEvent], bool]
    has_times: bool
    allow_repeats: bool
    learn_validation: bool

    def training(self) -> list[Sequence[HistoryEvent]]:
        """What the lists may be learned from, once all choices are made."""
        if not self.learn_validation:
            return [user.learned for user in self.users]
        return [[*user.learned, *user.held] for user in self.users]

    def target_lines(self) -> str:
        """Who is asked for what, a line of JSON per user: the same for every method."""
        lines = [{"user_id": user.user_id, "targets": user.targets["last"]} for user in self.asked]
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def divide(data: EventData, min_core: int, *, allow_repeats: bool, learn_validation: bool) -> Division:
    """Divide as `headwater-updater evaluate --protocol leave-one-out` does.

    Raises:
        InvalidFieldError: too few users or items are left.
    """
    histories = k_core(data.histories, min_core) if min_core else data.histories
    split = leave_one_out(histories, data.is_target, learn_validation=learn_validation)
    asked = {user.user_id: user for user in split.test}
    users = []
    for user_id, events in histories.items():
        if user_id in asked:
            history = asked[user_id].history
            start, stop = last_target_block(history, data.is_target)
            if start:
                block = history[start:stop]
                targets = tuple(dict.fromkeys(event.item_id for event in block if data.is_target(event)))
                users.append(UserParts(user_id, history[:start], history[start:], targets))
            else:
                users.append(UserParts(user_id, history, (), ()))
        elif sum(bool(event.item_id) for event in events) >= MIN_EVENTS:
            users.append(UserParts(user_id, events, (), ()))
    learned = [[*user.learned, *(user.held if learn_validation else ())] for user in users]
    popularity = Counter(event.item_id for theirs in learned for event in theirs if data.is_target(event))
    candidates = sorted(split.candidates, key=lambda item_id: -popularity[item_id])
    has_times = data.ordering is Ordering.TIMESTAMP
    return Division(users, split.test, candidates, data.is_target, has_times, allow_repeats, learn_validation)


def write_division(folder: Path, division: Division) -> None:
    """Leave the files that methods of other environments read.

    `train.csv.gz` holds each user's events on items in their order, the test block and what follows it left out;
    `targets.jsonl` names the users who are asked, in order, and what only the scorer may look at; `options.json` says
    what lists may hold and what may be learned.

    Raises:
        ValueError: the folder holds another division: its predictions could not be compared with new ones.
    """
    options = {name: getattr(division, name) for name in ("allow_repeats", "learn_validation", "has_times")}
    # Same input, same bytes: gzip's header would else hold the time.
    contents = {
        EVENTS_FILE: gzip.compress(_event_rows(division).encode(), mtime=0),
        TARGETS_FILE: division.target_lines().encode(),
        OPTIONS_FILE: (json.dumps(options, indent=2) + "\n").encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        path = folder / name
        if path.exists() and path.read_bytes() != content:
            raise ValueError(f"{path} is of another split; choose another folder for --out")
        path.write_bytes(content)


def _event_rows(division: Division) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for user in division.users:
        for is_validation, events in enumerate((user.learned, user.held)):
            for event in events:
                if event.item_id:
                    seconds = f"{event.event_time_us / 1_000_000:.16g}"
                    is_target = int(division.is_target(event))
                    rows.writerow((user.user_id, event.item_id, seconds, is_validation, is_target))
    return text.getvalue()
