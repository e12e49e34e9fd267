"""Strategies: named serving configurations, as data. What cannot work is refused when it is written, never later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from headwater_core.documents import Document, Part, refuse, refuse_repeated

TOWER: Final = "tower"
CO_VISIT: Final = "co_visit"
REPEAT: Final = "repeat"
POPULAR: Final = "popular"
CATEGORY: Final = "category"
CONTEXT: Final = "context"
FRESH: Final = "fresh"
TEXT: Final = "text"
SourceName = Literal["tower", "co_visit", "repeat", "popular", "category", "context", "fresh", "text"]
SOURCES: tuple[SourceName, ...] = get_args(SourceName)
"""What can propose items; docs/strategy.md says what each does."""
BLENDED = (TOWER, CO_VISIT, REPEAT, POPULAR)
"""Those whose scores a generation's blend adds up."""
BLEND: Final = "blend"
RANKS: Final = "ranks"
LEARNED: Final = "learned"

KIND = "strategy"
DEFAULT = "default"
"""The strategy that answers requests which name none."""
CATEGORY_KEY = "category"
ATTRIBUTE_PREFIX = "attributes."
MAX_RULES = 100
MAX_PLACE = 500

Key = Annotated[str, Field(pattern=r"^(category|attributes\..{1,128})$")]
Value = Annotated[str, Field(min_length=1, max_length=1024)]


class SourceUse(Part):
    """How much a source counts, and which places are its own."""

    name: SourceName
    weight: float = Field(default=1.0, ge=0.0, le=10.0)
    """What its scores (`blend`) or its reciprocal ranks (`ranks`) are multiplied with. 0: only its own places count."""
    every: int = Field(default=0, ge=0, le=MAX_PLACE)
    """Of the first places one in so many is its own, where none of its items stands there already. 0: none."""
    every_below: int = Field(default=0, ge=0, le=MAX_PLACE)
    """Below the first of them, one in so many. 0: as `every`."""

    @property
    def places(self) -> tuple[int, int]:
        """(every, every below)."""
        return self.every, self.every_below or self.every


class Boost(Part):
    """Items that count for more, or for less."""

    key: Key
    """`category`, or `attributes.` and an attribute's name."""
    value: Value
    factor: float = Field(ge=0.01, le=100.0)
    """How many times as likely an item counts: above 1 it rises, below 1 it is buried."""


class Cap(Part):
    """How many items of one category, or of one value of an attribute, a page may show."""

    key: Key
    at_most: int = Field(ge=1, le=MAX_PLACE)


class Pin(Part):
    """An item that has a place of its own on the first page, as long as it passes the request's filters."""

    place: int = Field(ge=1, le=MAX_PLACE)
    item_id: str = Field(min_length=1, max_length=256)


class Only(Part):
    """Which items the strategy shows at all, beside what a request asks for."""

    categories: tuple[Value, ...] = Field(default=(), max_length=MAX_RULES)
    """Items of at least one of these. None given: all."""
    without_categories: tuple[Value, ...] = Field(default=(), max_length=MAX_RULES)
    attributes: Mapping[str, str] = Field(default_factory=dict, max_length=20)
    """Items that have all of these values."""


class Strategy(Document):
    """How a slate is made."""

    sources: tuple[SourceUse, ...] = Field(min_length=1, max_length=len(SOURCES))
    """What proposes items. Where too few come, those that the ranking does not read fill up, in this order."""
    ranking: Literal["blend", "ranks", "learned"] = BLEND
    """`blend`: by the sum of the sources' scores, as the generation's blend weighs them. `ranks`: by reciprocal-rank
    fusion of the sources' lists (Cormack et al., SIGIR 2009). `learned`: by what was learned from impressions and what
    came of them; as `ranks` until there is such a ranker."""
    only: Only = Only()
    boosts: tuple[Boost, ...] = Field(default=(), max_length=MAX_RULES)
    caps: tuple[Cap, ...] = Field(default=(), max_length=MAX_RULES)
    pins: tuple[Pin, ...] = Field(default=(), max_length=MAX_RULES)
    diversity: float = Field(default=0.0, ge=0.0, le=1.0)
    """As RecommendRequest.diversity, where a request says nothing."""
    dislikes: float = Field(default=4.0, ge=0.0, le=10.0)
    """How far what is like disliked items is lowered: it counts e^-dislikes times as much at the least. 0: not at
    all."""
    event_weights: Mapping[str, float] = Field(default_factory=dict, max_length=MAX_RULES)
    """How much an event of a type says about the categories that its user turns to. Left out: as the type says."""
    budget_ms: int = Field(default=500, ge=1, le=10_000)
    """How long the sources may take together; what is not there by then is left out, and the answer says so."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        self._check_sources()
        boosted = ((boost.key, boost.value) for boost in self.boosts)
        refuse_repeated(boosted, "boosts: {0[0]} {0[1]!r} is there more than once")
        refuse_repeated((cap.key for cap in self.caps), "caps: {0} is there more than once")
        refuse_repeated((pin.place for pin in self.pins), "pins: place {0} is given more than once")
        refuse_repeated((pin.item_id for pin in self.pins), "pins: item {0!r} has more than one place")
        shown, hidden = set(self.only.categories), set(self.only.without_categories)
        refuse(shown & hidden, "only: category {0!r} is both asked for and left out")
        for boost in self.boosts:
            if boost.key == CATEGORY_KEY and boost.value in hidden:
                raise ValueError(f"boosts: category {boost.value!r} is left out by only.without_categories")
            wanted = self.only.attributes.get(boost.key.removeprefix(ATTRIBUTE_PREFIX), boost.value)
            if boost.key != CATEGORY_KEY and wanted != boost.value:
                raise ValueError(f"boosts: {boost.key} {boost.value!r} never passes only.attributes")
        for name, weight in self.event_weights.items():
            if not 0.0 <= weight <= 100.0:
                raise ValueError(f"event_weights: {name} is {weight}; must be from 0 to 100")
        return self

    def _check_sources(self) -> None:
        refuse_repeated((source.name for source in self.sources), "sources: {0} is there more than once")
        names = {source.name: source for source in self.sources}
        if self.ranking == BLEND and (TOWER not in names or not names[TOWER].weight):
            raise ValueError("ranking: `blend` needs the source `tower`, of a weight above 0; or use `ranks`")
        for what, place in (("every", 0), ("every_below", 1)):
            owned = sum(1 / source.places[place] for source in self.sources if source.every)
            if owned > 1.0 + 1e-9:
                raise ValueError(f"sources: of {what} place more is given away than there is ({owned:.2f})")
        for source in self.sources:
            if source.every_below and not source.every:
                raise ValueError(f"sources: {source.name} has every_below without every")

    @property
    def limits(self) -> Only | None:
        """Which items it shows at all; None: any."""
        return self.only if self.only != Only() else None

    def use_of(self, name: str) -> SourceUse | None:
        """How a source is used; None when it is not."""
        return next((source for source in self.sources if source.name == name), None)

    def weight_of(self, name: str) -> float:
        """A source's weight; 0 when it is not used."""
        use = self.use_of(name)
        return use.weight if use else 0.0

    def keys(self) -> dict[str, str]:
        """The categories and attributes that it speaks of: each key, and where it stands."""
        found = {boost.key: f"boosts[{index}].key" for index, boost in enumerate(self.boosts)}
        found.update({cap.key: f"caps[{index}].key" for index, cap in enumerate(self.caps)})
        found.update({f"{ATTRIBUTE_PREFIX}{name}": f"only.attributes[{name!r}]" for name in self.only.attributes})
        return found
