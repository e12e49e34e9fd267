"""Experiments: which of several strategies or generations answers whom, as data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from headwater_core.documents import Document, Part, refuse_repeated
from headwater_core.errors import InvalidFieldError
from headwater_core.names import NAME_PATTERN
from headwater_core.strategies import DEFAULT

KIND = "experiment"
FIXED: Final = "fixed"
THOMPSON: Final = "thompson"
INTERLEAVED: Final = "interleaved"
ACTIVITY = "activity"
SURFACE = "surface"
CONTEXT_PREFIX = "context."
NEW, RETURNING = "new", "returning"
NEW_BELOW_EVENTS = 3
"""A history shorter than this is a new user's."""
MAX_ARMS = 20
MAX_SEGMENT_CHARS = 64
_SUM_TOLERANCE = 1e-6

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Arm(Part):
    """One of the ways to answer."""

    name: Name
    strategy: Name = DEFAULT
    """Makes the slate."""
    label: str = Field(default="", pattern=r"^[a-z0-9_-]{0,64}$")
    """The generation that answers, by its label; "": as without an experiment. Not for `interleaved`."""
    share: Share = 0.0
    """`fixed`: of the users. The shares add up to 1."""
    min_share: Share = 0.0
    """`thompson`: it never gets less of the slates than this; `interleaved`: of the places."""
    max_share: Share = 1.0
    """It never gets more."""


class Experiment(Document):
    """Who is answered by what, and what counts as better."""

    arms: tuple[Arm, ...] = Field(min_length=2, max_length=MAX_ARMS)
    allocation: Literal["fixed", "thompson", "interleaved"] = FIXED
    """`fixed`: by the user's id, always the same arm. `thompson`: slate by slate, the more often the better an arm has
    done lately (Thompson sampling with discounting). `interleaved`: so place by place, all arms in one slate."""
    surfaces: tuple[Annotated[str, Field(max_length=128)], ...] = Field(default=(), max_length=100)
    """Only requests of these take part. None given: all."""
    rewards: Mapping[str, Share] = Field(min_length=1, max_length=100)
    """What an event of a type, on an item that was shown, is worth. A slate's rewards add up to 1 at most; with
    `interleaved` an item's do."""
    window_s: float = Field(default=1800.0, gt=0.0, le=30 * 86_400.0)
    """How long after a slate was shown its events count."""
    segment_by: str = Field(default="", pattern=r"^(|activity|surface|context\..{1,128})$")
    """What learns learns apart for each: `activity` (new or returning users), `surface`, or a key of the request's
    context. "": for all together."""
    half_life_slates: float = Field(default=10_000.0, ge=10.0, le=1e9)
    """Where shares are learned: after so many further slates of a segment an old one counts half, so that change is
    followed."""
    frozen: bool = False
    """Shares stay as they are; what is shown and earned still counts in the totals."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        refuse_repeated((arm.name for arm in self.arms), "arms: {0} is there more than once")
        refuse_repeated(self.surfaces, "surfaces: {0!r} is there more than once")
        total = sum(arm.share for arm in self.arms)
        if self.allocation == FIXED:
            if abs(total - 1.0) > _SUM_TOLERANCE:
                raise ValueError(f"arms: the shares add up to {total:g}; must be 1")
            if not all(arm.share for arm in self.arms):
                raise ValueError("arms: every one needs a share above 0")
            if self.segment_by:
                raise ValueError("segment_by: is for the allocations that learn, `thompson` and `interleaved`")
            if any((arm.min_share, arm.max_share) != (0.0, 1.0) for arm in self.arms):
                raise ValueError("arms: min_share and max_share are for the allocations `thompson` and `interleaved`")
            return self
        if self.allocation == INTERLEAVED and any(arm.label for arm in self.arms):
            raise ValueError("arms: an interleaved slate is of one generation; label is for the other allocations")
        if total:
            raise ValueError("arms: share is for the allocation `fixed`")
        for arm in self.arms:
            if arm.min_share > arm.max_share:
                raise ValueError(f"arms: {arm.name} has a min_share above its max_share")
        if sum(arm.min_share for arm in self.arms) > 1.0 + _SUM_TOLERANCE:
            raise ValueError("arms: the min_shares add up to more than 1")
        if sum(arm.max_share for arm in self.arms) < 1.0 - _SUM_TOLERANCE:
            raise ValueError("arms: the max_shares add up to less than 1")
        return self

    @property
    def learning_half_life(self) -> float:
        """The half-life with which shares are learned; 0 when they are not."""
        return self.half_life_slates if self.allocation != FIXED and not self.frozen else 0.0

    def takes(self, surface: str) -> bool:
        """Whether requests of this surface take part."""
        return not self.surfaces or surface in self.surfaces

    def segment(self, n_events: int, surface: str, context: Mapping[str, str]) -> str:
        """Which of the segments a request is of. Args: n_events: as many as the user's history has."""
        if not self.segment_by:
            return ""
        if self.segment_by == ACTIVITY:
            return NEW if n_events < NEW_BELOW_EVENTS else RETURNING
        if self.segment_by == SURFACE:
            return surface[:MAX_SEGMENT_CHARS]
        return context.get(self.segment_by.removeprefix(CONTEXT_PREFIX), "")[:MAX_SEGMENT_CHARS]


class Assignment(NamedTuple):
    """Which arm answers a request."""

    experiment: str
    arm: str
    """"": the slate is interleaved, and each of its items has its own."""
    segment: str
    propensity: float | None
    """With which probability it was this arm; None for an interleaved slate."""
    half_life: float
    """As Experiment.learning_half_life."""


def check_disjoint(experiments: Mapping[str, Experiment]) -> None:
    """Refuse two experiments of which both would take the same request.

    Raises:
        InvalidFieldError: naming the field `surfaces`.
    """
    for (one, first), (other, second) in combinations(experiments.items(), 2):
        both = set(first.surfaces) & set(second.surfaces)
        if both or not first.surfaces or not second.surfaces:
            where = f"the surface {min(both)!r}" if both else "every surface"
            raise InvalidFieldError("surfaces", f"experiments {one!r} and {other!r} would both take {where}")
