"""The mixed traffic of a soak: what a shop's backends would send, through the SDK with its defaults."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from soak_checker import Asked, Checker, Ledger

from headwater_client import AsyncClient, Recommendations, event, item
from headwater_client.errors import RpcError

WINDOW_S = 5.0
"""Latencies are kept by windows of so many seconds."""
DELETION = "delete"
"""The one kind of call that the SDK does not try again: it would say that there was nothing to delete."""
READS = frozenset({"recommend", "two pages", "similar", "search"})
"""What is answered from memory, whatever becomes of the database; by a consistency token it may be refused."""
_MOST_AT_ONCE = 400
"""Calls under way; a call that is due when there are more waits, and its waiting counts."""
_TYPES = ("view", "click", "like", "cart", "purchase")
_WORDS = ("river", "night", "robot", "garden", "winter", "detective", "island", "dancer", "war", "dream", "circus")
_LIVE_NEW_ITEMS = 100
_HIDDEN_ITEMS = 50
_KEPT_WRONG = 100


@dataclass
class Tally:
    """What was seen of the calls that ended in one window."""

    latencies_s: array[float] = field(default_factory=lambda: array("f"))
    degraded: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that failed for good, whatever the SDK tried."""

    at_s: float
    kind: str
    status: str
    message: str


@dataclass
class Seen:
    """All that a run of traffic saw."""

    windows: dict[int, Tally] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    n_wrong: int = 0
    n_judged: int = 0
    generations: set[int] = field(default_factory=set)
    acknowledged_at_s: list[float] = field(default_factory=list)
    """When writes were acknowledged, in order."""


class Traffic:
    """Calls of many users, each checked when it is answered."""

    def __init__(
        self,
        client: AsyncClient,
        checker: Checker,
        ledger: Ledger,
        rated: Mapping[str, Sequence[str]],
        n_users: int,
        seed: int = 1,
    ) -> None:
        """Send nothing yet.

        Args:
            client: what sends.
            checker: judges the answers.
            ledger: keeps what was written.
            rated: each user's items; further ones are of those who share one.
            n_users: the first so many of them send, each as often as any other.
            seed: of what chance decides.
        """
        self._client = client
        self._checker = checker
        self._ledger = ledger
        self._rated = rated
        self._users = list(rated)[:n_users]
        self._raters: dict[str, list[str]] = {}
        for user_id, item_ids in rated.items():
            for item_id in item_ids:
                self._raters.setdefault(item_id, []).append(user_id)
        self._chance = random.Random(seed)
        self._items = sorted(checker.categories)
        self._tokens: dict[str, tuple[str, frozenset[str]]] = {}
        """By user, the newest consistency token and what it covers."""
        self._slates: dict[str, tuple[str, Sequence[str]]] = {}
        """By user, what was shown last and its attribution token."""
        self._hidden: list[str] = []
        self._new: list[str] = []
        self._changing = asyncio.Lock()
        """The catalogue has one writer: what is acknowledged first is what holds."""
        self._n_new = 0
        self.seen = Seen()
        kinds: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "recommend": (0.35, self._recommend),
            "two pages": (0.05, self._two_pages),
            "recommend by a token": (0.15, self._recommend_by_token),
            "write": (0.27, self._write_one),
            "write ten": (0.02, self._write_ten),
            "similar": (0.05, self._similar),
            "search": (0.05, self._search),
            "score": (0.03, self._score),
            "profile": (0.01, self._profile),
            "change the catalogue": (0.02, self._change_catalogue),
        }
        self._kinds = list(kinds)
        self._weights = [weight for weight, _ in kinds.values()]
        self._calls = {name: call for name, (_, call) in kinds.items()}

    async def saturate(self, callers: int, seconds: float) -> float:
        """Calls per second that so many callers get who ask again as soon as they are answered."""
        ends_s = time.monotonic() + seconds
        counted = self._answered()

        async def ask_on() -> None:
            while time.monotonic() < ends_s:
                await self._one(time.monotonic())

        await asyncio.gather(*(ask_on() for _ in range(callers)))
        return (self._answered() - counted) / seconds

    def _answered(self) -> int:
        return sum(len(tally.latencies_s) for tally in self.seen.windows.values())

    async def pace(self, rate: float, ended: asyncio.Event) -> None:
        """So many calls a second, at random moments, until told to end. Latencies count from when a call was due."""
        places = asyncio.Semaphore(_MOST_AT_ONCE)
        under_way: set[asyncio.Task[None]] = set()
        due_s = time.monotonic()
        while not ended.is_set():
            due_s += self._chance.expovariate(rate)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await places.acquire()
            task = asyncio.create_task(self._one(due_s))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            task.add_done_callback(lambda _: places.release())
        await asyncio.gather(*under_way)

    async def _one(self, due_s: float) -> None:
        [kind] = self._chance.choices(self._kinds, self._weights)
        seen = self.seen
        seen.calls[kind] += 1
        try:
            await self._calls[kind]()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a call that failed
            self._note(kind, error)
        else:
            self._window().latencies_s.append(time.monotonic() - due_s)

    def _note(self, kind: str, error: Exception) -> None:
        status = error.status.name if isinstance(error, RpcError) else type(error).__name__
        self.seen.failures.append(Failure(time.monotonic(), kind, status, str(error)[:200]))
        self._window().failed += 1

    def _window(self) -> Tally:
        return self.seen.windows.setdefault(int(time.monotonic() / WINDOW_S), Tally())

    # --- requests

    async def _recommend(self) -> None:
        await self._page(self._a_request())

    async def _recommend_by_token(self) -> None:
        asked = self._a_request()
        token, covered = self._tokens.get(asked.user_id, ("", frozenset()))
        await self._page(replace(asked, covered=covered), consistency_token=token)

    async def _two_pages(self) -> None:
        asked = self._a_request()
        first = await self._page(asked)
        if first.next_page_token:
            further = replace(asked, begun_s=time.monotonic(), shown=frozenset(first.item_ids))
            await self._page(further, page_token=first.next_page_token)

    def _a_request(self) -> Asked:
        user_id = self._chance.choice(self._users)
        excluded = frozenset(self._chance.sample(self._items, 3)) if self._chance.random() < 0.2 else frozenset[str]()
        categories = frozenset[str]()
        if self._chance.random() < 0.15:
            categories = self._checker.categories[self._chance.choice(self._items)] - {""}
            categories = frozenset(sorted(categories)[:1])
        return Asked(time.monotonic(), user_id, 10, categories=categories, excluded=excluded)

    async def _page(self, asked: Asked, consistency_token: str = "", page_token: str = "") -> Recommendations:
        answer = await self._client.recommend(
            user_id=asked.user_id,
            page_size=asked.page_size,
            categories=asked.categories,
            exclude_item_ids=asked.excluded,
            min_consistency_token=consistency_token,
            page_token=page_token,
        )
        self._judge(asked, answer)
        self.seen.generations.add(answer.generation)
        if not page_token:
            self._slates[asked.user_id] = answer.attribution_token, answer.item_ids
        return answer

    async def _similar(self) -> None:
        of = self._chance.choice(self._items)
        begun_s = time.monotonic()
        answer = await self._client.similar_items(of)
        self._judge(Asked(begun_s, page_size=10, excluded=frozenset([of])), answer)

    async def _search(self) -> None:
        begun_s = time.monotonic()
        answer = await self._client.search_items(
            self._chance.choice(_WORDS), user_id=self._chance.choice(self._users), page_size=10
        )
        self._judge(Asked(begun_s, page_size=10), answer)  # what was met is found, too

    async def _score(self) -> None:
        begun_s, asked = time.monotonic(), self._chance.sample(self._items, 20)
        scored = await self._client.score_items(asked, user_id=self._chance.choice(self._users))
        self.seen.n_judged += 1
        wrong = self._checker.judge_scores(begun_s, asked, [each.item_id for each in scored])
        if wrong:
            self._wrong("; ".join(wrong))

    async def _profile(self) -> None:
        await self._client.get_profile(user_id=self._chance.choice(self._users))

    def _judge(self, asked: Asked, answer: Recommendations) -> None:
        self.seen.n_judged += 1
        if answer.degraded:
            self._window().degraded += 1
        wrong = self._checker.judge(asked, answer.item_ids, answer.degraded_reasons)
        if wrong:
            without = "".join(f", {reason}" for reason in answer.degraded_reasons)
            self._wrong(f"{asked.begun_s:.1f} s, {asked.user_id or 'nobody'}{without}: {'; '.join(wrong)}")

    def _wrong(self, told: str) -> None:
        self.seen.n_wrong += 1
        if len(self.seen.wrong) < _KEPT_WRONG:
            self.seen.wrong.append(told)

    # --- writes

    async def _write_one(self) -> None:
        await self._write(1)

    async def _write_ten(self) -> None:
        await self._write(10)

    async def _write(self, count: int) -> None:
        batch = [self._event(self._chance.choice(self._users)) for _ in range(count)]
        self._ledger.sent.update(each.event_id for each in batch)
        met = {each.user_id: self._checker.met(each.user_id) for each in batch}
        result = await self._client.write(*batch)
        now_s = time.monotonic()
        self.seen.acknowledged_at_s.append(now_s)
        refused = {each.event_id for each in result.refused}
        for each in batch:
            if each.event_id not in refused:
                self._ledger.acknowledged.add(each.event_id)
                self._checker.meet(each.user_id, each.item_id, now_s)
                met[each.user_id] |= {each.item_id}
        for user_id, covered in met.items():
            self._tokens[user_id] = result.consistency_token, covered

    def _event(self, user_id: str) -> Any:
        token, slate = self._slates.get(user_id, ("", ()))
        if slate and self._chance.random() < 0.7:
            place = self._chance.randrange(len(slate))
            return event(
                self._chance.choice(_TYPES),
                user_id=user_id,
                item_id=slate[place],
                attribution_token=token,
                position=place + 1,
            )
        return event(self._chance.choice(_TYPES), user_id=user_id, item_id=self._liked_by_similar(user_id))

    def _liked_by_similar(self, user_id: str) -> str:
        """What somebody rated who rated one of theirs: of events at random there is nothing to learn, and the gate
        would be right to refuse what was learned of them."""
        shared = self._chance.choice(self._rated[user_id])
        return self._chance.choice(self._rated[self._chance.choice(self._raters[shared])])

    async def _change_catalogue(self) -> None:
        """Hide, show again, add or delete one item; who comes while another is being changed asks for one."""
        if self._changing.locked():
            await self._client.get_items([self._chance.choice(self._items)])
            return
        async with self._changing:
            if self._chance.random() < 0.7:
                await self._hide_or_show()
            else:
                await self._add_or_delete()

    async def _hide_or_show(self) -> None:
        if len(self._hidden) >= _HIDDEN_ITEMS:
            item_id = self._hidden[0]
            self._checker.show(item_id)
            await self._client.set_availability([item_id], available=True)
            self._hidden.pop(0)
            return
        # Of what is shown, most of the time: what would not be shown anyway proves little.
        shown = self._slates.get(self._chance.choice(self._users), ("", ()))[1]
        item_id = self._chance.choice(shown or self._items)
        if item_id in self._hidden or item_id in self._new:
            return
        await self._client.set_availability([item_id], available=False)
        self._checker.hide(item_id, time.monotonic())
        self._hidden.append(item_id)

    async def _add_or_delete(self) -> None:
        if len(self._new) >= _LIVE_NEW_ITEMS:
            item_id = self._new[0]
            try:
                await self._client.delete_items([item_id])
            except RpcError as error:
                self._note(DELETION, error)
                return
            self._checker.hide(item_id, time.monotonic())
            self._new.pop(0)
            return
        self._n_new += 1
        item_id, title = f"new-{self._n_new}", " ".join(self._chance.sample(_WORDS, 3))
        categories = ["New"]
        self._checker.add(item_id, categories)
        await self._client.upsert_items([item(item_id, title=title, categories=categories)])
        self._new.append(item_id)
