"""The experiments that run on this server, and which arm answers whom."""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from headwater_core.allocation import Record, Shares, by_hash, thompson_shares
from headwater_core.document_store import Version
from headwater_core.experiments import FIXED, INTERLEAVED, THOMPSON, Arm, Assignment, Experiment
from headwater_core.tallies import ArmTally

MAX_SEGMENTS = 1000
"""Of one experiment: what callers name beyond them is of the segment ""."""
_NOTHING = Record(0.0, 0.0)
_DECIDED = {THOMPSON: 1.0, INTERLEAVED: 2.0}


class Assigned(NamedTuple):
    """What answers a request."""

    turns: tuple[Arm, ...]
    """The arm that answers; interleaved: the arm of each place."""
    assignment: Assignment
    shares: Mapping[str, float]
    """Interleaved: by arm, with which probability a place is its own. Else empty."""


class ExperimentBook:
    """The running experiments, and of each that learns how its arms stand."""

    def __init__(self, chance: random.Random | None = None) -> None:
        """No experiment runs. Args: chance: draws arms; None: one of its own."""
        self._chance = chance or random.Random()
        self._experiments: dict[str, Experiment] = {}
        self._tallies: dict[str, Mapping[str, Mapping[str, Record]]] = {}
        self._shares: dict[tuple[str, str], Shares] = {}
        self._segments: defaultdict[str, set[str]] = defaultdict(set)
        """By experiment: those that have been counted, or will be."""

    @property
    def experiments(self) -> Mapping[str, Experiment]:
        """Those that run, by name."""
        return self._experiments

    def replace(self, stored: Iterable[Version[Experiment]]) -> None:
        """Run these from now on."""
        self._experiments = {each.name: each.content for each in stored if each.content is not None}
        self._shares.clear()
        for name in self._segments.keys() - self._experiments.keys():
            del self._segments[name]

    def learn(self, name: str, tallies: Iterable[ArmTally]) -> None:
        """Take in how the arms of an experiment stand."""
        of_segment: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        for each in tallies:
            of_segment[each.segment][each.arm] = each.recent
        self._tallies[name] = of_segment
        self._segments[name].update(of_segment)
        self._shares = {key: shares for key, shares in self._shares.items() if key[0] != name}

    def shares(self, name: str, segment: str) -> Sequence[float]:
        """With which probability each arm of an experiment answers a slate of a segment, or has a place of it."""
        experiment = self._experiments[name]
        if experiment.allocation == FIXED:
            return [arm.share for arm in experiment.arms]
        found = self._shares.get((name, segment))
        if found is None:
            records = self._tallies.get(name, {}).get(segment, {})
            found = thompson_shares(
                [records.get(arm.name, _NOTHING) for arm in experiment.arms],
                experiment.arms,
                _DECIDED[experiment.allocation],
            )
            self._shares[name, segment] = found
        return [float(share) for share in found]

    def assign(
        self, key: str, n_events: int, surface: str, context: Mapping[str, str], n_places: int
    ) -> Assigned | None:
        """What answers; None: no experiment takes the request.

        Args:
            key: whose request it is, the same for all requests that must be answered alike; "": nobody's.
            n_events: as many as the history has.
            surface: of the request.
            context: of the request.
            n_places: as many as the slate has.
        """
        for name, experiment in self._experiments.items():
            if not experiment.takes(surface):
                continue
            segment = self._bounded(name, experiment.segment(n_events, surface, context))
            shares = self.shares(name, segment)
            if experiment.allocation == INTERLEAVED:
                turns = self._chance.choices(experiment.arms, shares, k=n_places)
                assignment = Assignment(name, "", segment, None, experiment.learning_half_life)
                by_arm = {arm.name: share for arm, share in zip(experiment.arms, shares, strict=True)}
                return Assigned(tuple(turns), assignment, by_arm)
            if experiment.allocation == FIXED:
                place = by_hash(key or uuid.uuid4().hex, name, shares)
            else:
                (place,) = self._chance.choices(range(len(shares)), shares)
            arm = experiment.arms[place]
            assignment = Assignment(name, arm.name, segment, shares[place], experiment.learning_half_life)
            return Assigned((arm,), assignment, {})
        return None

    def _bounded(self, name: str, segment: str) -> str:
        """The segment; "" for one that is new where there are too many: callers may name as many as they like."""
        known = self._segments[name]
        if segment not in known:
            if len(known) >= MAX_SEGMENTS:
                return ""
            known.add(segment)
        return segment
