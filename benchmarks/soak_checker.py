"""What answers may not hold, and which events must be in the log: the judge of a soak. Pure logic.

A server learns at once of what it was told, and within moments of what others were told; how long that may take is
`GRACE_S`. While the database is away nobody can be told anything, and until `RECOVERY_S` after its return an answer
that says it is degraded may lack what was told to others right before; one that says that it has no history knows
nothing of what its user met. A consistency token lets nothing be missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

GRACE_S = 1.0
"""What was acknowledged longer ago is known to every server, unless it is told otherwise."""
HISTORY = "history unavailable"
"""As answers say it."""
RECOVERY_S = 5.0
"""So long after the database is back answers may still know as little as without it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as it says what may not come back."""

    begun_s: float
    """When it was sent, on the checker's clock."""
    user_id: str = ""
    page_size: int = 10
    categories: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    shown: frozenset[str] = frozenset()
    """Items of the pages before."""
    covered: frozenset[str] = frozenset()
    """Items of the user's events that the consistency token sent along covers."""


@dataclass
class Checker:
    """Follows what was acknowledged and judges answers by it."""

    categories: dict[str, frozenset[str]]
    """Of every item that was ever written."""
    grace_s: float = GRACE_S
    """On a machine that stands still at times it takes longer."""
    _gone_s: dict[str, float] = field(default_factory=dict)
    """Hidden and deleted items, and since when."""
    _ever_gone: set[str] = field(default_factory=set)
    """Items that were hidden or deleted at some time."""
    _met_s: dict[str, dict[str, float]] = field(default_factory=dict)
    """By user, the items of acknowledged events, and since when."""
    _away_s: float | None = None
    """When the database went away last."""
    _back_s: float = math.inf
    """And when it was back."""

    def add(self, item_id: str, categories: Iterable[str]) -> None:
        """An item may appear from now on: it is about to be written, or shown again."""
        self.categories[item_id] = frozenset(categories)
        self._gone_s.pop(item_id, None)

    def show(self, item_id: str) -> None:
        """It may appear again from now on."""
        self._gone_s.pop(item_id, None)

    def hide(self, item_id: str, now_s: float) -> None:
        """That it is hidden or deleted was acknowledged."""
        self._gone_s[item_id] = now_s
        self._ever_gone.add(item_id)

    def meet(self, user_id: str, item_id: str, now_s: float) -> None:
        """An event of the user's on the item was acknowledged."""
        self._met_s.setdefault(user_id, {}).setdefault(item_id, now_s)

    def met(self, user_id: str) -> frozenset[str]:
        """The items of the user's acknowledged events."""
        return frozenset(self._met_s.get(user_id, ()))

    def away(self, now_s: float) -> None:
        """The database is about to go away."""
        self._away_s, self._back_s = now_s, math.inf

    def back(self, now_s: float) -> None:
        """The database is there again."""
        self._back_s = now_s

    def judge(self, asked: Asked, item_ids: Sequence[str], missing: Collection[str] = ()) -> list[str]:
        """What is wrong with an answer to a user; empty: nothing. Args: missing: what it says it had to do without."""
        known_s = asked.begun_s - self.grace_s
        if missing and self._away_s is not None and asked.begun_s < self._back_s + RECOVERY_S:
            known_s = min(known_s, self._away_s - self.grace_s)
        met_s = {} if HISTORY in missing else self._met_s.get(asked.user_id, {})
        wrong = [f"{item_id} twice" for item_id, count in Counter(item_ids).items() if count > 1]
        if len(item_ids) > asked.page_size:
            wrong.append(f"{len(item_ids)} items instead of {asked.page_size}")
        if len(item_ids) < asked.page_size and not asked.categories and not asked.shown:
            wrong.append(f"{len(item_ids)} items only")
        for item_id in item_ids:
            if item_id not in self.categories:
                wrong.append(f"{item_id} was never written")
            elif asked.categories and not asked.categories & self.categories[item_id]:
                wrong.append(f"{item_id} is not of the category")
            if item_id in asked.excluded:
                wrong.append(f"{item_id} was excluded")
            if item_id in asked.shown:
                wrong.append(f"{item_id} was on a page before")
            if self._gone_s.get(item_id, known_s + 1) <= known_s:
                wrong.append(f"{item_id} was hidden {asked.begun_s - self._gone_s[item_id]:.1f} s before")
            if item_id in asked.covered:
                wrong.append(f"{item_id} was met, and a token said so")
            elif met_s.get(item_id, known_s + 1) <= known_s:
                wrong.append(f"{item_id} was met {asked.begun_s - met_s[item_id]:.1f} s before")
        return wrong

    def judge_scores(self, begun_s: float, asked: Collection[str], scored: Sequence[str]) -> list[str]:
        """What is wrong with scores of items that were written before; hidden ones have none."""
        gone = {each for each in asked if self._gone_s.get(each, math.inf) <= begun_s - self.grace_s}
        counts = Counter(scored)
        return [
            *(f"{each} scored {count} times" for each, count in counts.items() if count > 1 or each not in asked),
            *(f"{each} scored, though hidden" for each in sorted(gone & counts.keys())),
            *(f"{each} not scored" for each in asked if each not in counts and each not in self._ever_gone),
        ]


@dataclass
class Ledger:
    """The ids of events: sent, and acknowledged."""

    sent: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)

    def compare(self, logged: Collection[str]) -> Mapping[str, int]:
        """How many are lost (acknowledged and not in the log), there twice, or were never sent. Args: logged: ids."""
        counts = Counter(logged)
        return {
            "sent": len(self.sent),
            "acknowledged": len(self.acknowledged),
            "found": len(counts),
            "lost": len(self.acknowledged - counts.keys()),
            "twice": sum(count > 1 for count in counts.values()),
            "never_sent": len(counts.keys() - self.sent),
        }
