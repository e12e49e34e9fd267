"""What the strategy layer costs: its share of the time that a server takes to make an answer, sources apart.

`python benchmarks/strategy/cost.py FOLDER` opens the installation that `make demo` or the simulator left in FOLDER
(`headwater.db` and `artifacts`), in this process, and makes answers for its users by the default strategy, one at a
time, without the wire: a call over gRPC takes longer, so the share of it is smaller. Counted to the layer are choosing
the strategy and the arm, the filter, everything after ranking, and what asking the sources takes beyond their own time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headwater.v1 import recommendation_service_pb2 as pb
from headwater_server.recommender import Recommender
from headwater_server.rooms import Rooms
from headwater_server.services.recommendation_service import RecommendationService
from headwater_server.settings import ServerSettings
from headwater_server.slate_maker import SlateMaker
from headwater_server.sources.gathering import Gathering

_LAYER = (
    (Recommender, "_assigned"),
    (Recommender, "_strategy"),
    (Recommender, "_basis"),
    (Recommender, "_filter"),
    (SlateMaker, "_disliked"),
    (SlateMaker, "_composed"),
)
_spent_s: defaultdict[str, float] = defaultdict(float)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The strategy layer's share")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calls", type=int, default=2_000)
    arguments = parser.parse_args()
    for owner, name in _LAYER:
        setattr(owner, name, _timed(getattr(owner, name), "layer"))
    setattr(Gathering, "_timed", _timed(Gathering._timed, "sources"))  # noqa: B010 - mypy refuses the plain form
    total_s = asyncio.run(_answer(arguments.folder, arguments.calls))
    asking_s = _spent_s["asking"] - _spent_s["sources"]
    layer_s = _spent_s["layer"] + asking_s
    sources, asking, layer = (100 * spent_s / total_s for spent_s in (_spent_s["sources"], asking_s, layer_s))
    sys.stdout.write(f"{arguments.calls} answers, {1000 * total_s / arguments.calls:.2f} ms each: ")
    sys.stdout.write(
        f"sources {sources:.1f} %, the strategy layer {layer:.1f} % (asking the sources: {asking:.1f} %)\n"
    )
    return 0


async def _answer(folder: Path, n_calls: int) -> float:
    settings = ServerSettings(
        database_url=f"sqlite:///{folder / 'headwater.db'}", store_url=str(folder / "artifacts"), port=0
    )
    rooms = Rooms(settings)
    await rooms.open()
    await rooms.generations.refresh()
    service = RecommendationService(rooms)
    requests = [pb.RecommendRequest(user_id=str(1 + number % 600)) for number in range(n_calls)]
    for request in requests[:600]:  # histories into memory, sources known to be quick
        await service._recommend(request)
    for state in rooms.states.newest(n_calls):
        state.slates.clear()
    ask = rooms.gathering.ask

    async def asking(*given: Any) -> Any:
        began_s = time.perf_counter()
        try:
            return await ask(*given)
        finally:
            _spent_s["asking"] += time.perf_counter() - began_s

    setattr(rooms.gathering, "ask", asking)  # noqa: B010
    _spent_s.clear()
    began_s = time.perf_counter()
    for request in requests:
        await service._recommend(request)
        for state in rooms.states.newest(1):
            state.slates.clear()  # every answer is made anew
    total_s = time.perf_counter() - began_s
    await rooms.close()
    return total_s


def _timed(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        began_s = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            _spent_s[what] += time.perf_counter() - began_s

    return timed


if __name__ == "__main__":
    sys.exit(main())
