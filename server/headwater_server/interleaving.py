"""Several arms in one slate: each place is drawn for one of them, which puts its best item there. Pure.

Team-draft multileaving (Schuth, Sietsma, Whiteson, Lefortier and de Rijke, CIKM 2014), with two differences: teams draw
places by shares that are known and need not be equal, and each place is drawn alone. So every arm meets every place
alike often for its share, and what an item earns says of its arm what no model of positions has to correct.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from headwater_server.fusion import K
from headwater_server.strategy import Candidate


def interleave(slates: Mapping[str, Sequence[Candidate]], turns: Sequence[str]) -> list[Candidate]:
    """The slate that arms make together: at each place the best item of its arm that is not there yet.

    Scores of different arms cannot be compared: an item has 1 / (K + place) instead, as one ranking would give it.

    Args:
        slates: of each arm whose turn comes, best first.
        turns: by place, whose it is. One of an arm that has nothing left goes to the next that has, in the order of
            `slates`, and counts for nobody: it was not drawn.
    """
    rest: dict[str, Iterator[Candidate]] = {arm: iter(slate) for arm, slate in slates.items()}
    present: set[str] = set()
    placed: list[Candidate] = []

    def best(arm: str) -> Candidate | None:
        return next((each for each in rest[arm] if each.item_id not in present), None)

    for arm in turns:
        found = best(arm)
        owner = arm if found else ""
        found = found or next((other for name in rest if (other := best(name))), None)
        if found is None:
            break
        present.add(found.item_id)
        placed.append(replace(found, score=1.0 / (K + len(placed) + 1), arm=owner))
    return placed
