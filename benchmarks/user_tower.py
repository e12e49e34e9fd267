"""What one reading of histories by the user tower takes, by the ways in which torch can run it on a CPU.

`python benchmarks/user_tower.py --folder F` takes the served generation of an installation and reads the histories of
users in its log, one and sixteen at a time, one thread: as it is served (float32, plain torch), in bfloat16, with its
linear layers' weights in int8 (dynamic quantisation), and exported (`torch.export`) and run by its graph module. Each
batch goes through all of them before the next. Printed are the median time beside float32's, and how far the interests
turn: 1 less the cosine, at most.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from retrieval import first_subjects, no_texts

from headwater_core.artifact_store import ArtifactStore
from headwater_core.database import Database
from headwater_core.events import HistoryEvent, history_event
from headwater_core.feedback_log import FeedbackLog
from headwater_core.generation import LoadedGeneration
from headwater_core.histories import tokens
from headwater_core.registry import STABLE, GenerationRegistry
from headwater_server.serving_generation import ServingGeneration, item_vectors

_ROUNDS = 30
Way = Callable[[Any, torch.Tensor], torch.Tensor]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Ways to run the user tower")
    parser.add_argument("--folder", type=Path, required=True, help="an installation with a published generation")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    database = Database(f"sqlite:///{arguments.folder / 'headwater.db'}")
    number = GenerationRegistry(database).labels()[STABLE]
    generation = ServingGeneration(
        LoadedGeneration.load(ArtifactStore(str(arguments.folder / "artifacts")), number), no_texts
    )
    log = FeedbackLog(database)
    length = generation.config.history_length
    histories = [[history_event(each) for each in log.history(subject, length)] for subject in first_subjects(log)]
    histories = [history for history in histories if len(history) >= length]  # of one shape: exports are of one shape
    for size in (1, 16):
        batches = [histories[start : start + size] for start in range(0, _ROUNDS * size, size)]
        _measure(generation, [batch for batch in batches if len(batch) == size], size)
    return 0


@torch.inference_mode()
def _measure(generation: ServingGeneration, batches: Sequence[Sequence[Sequence[HistoryEvent]]], size: int) -> None:
    inputs = []
    for batch in batches:
        sequences = [
            tokens(events, generation.config, lambda item_id: 1 + (generation.items.row(item_id) or 0))
            for events in batch
        ]
        collated = generation._collated(sequences)
        inputs.append((collated, item_vectors(generation.items, collated)))
    ways = _ways(generation._user_tower, inputs[0])
    taken: dict[str, list[float]] = {name: [] for name in ways}
    away = dict.fromkeys(ways, 0.0)
    for each in inputs:
        exact = None
        for name, way in ways.items():
            began_s = time.perf_counter()
            found = way(*each)
            taken[name].append(time.perf_counter() - began_s)
            exact = found if exact is None else exact
            cosines = torch.nn.functional.cosine_similarity(found.float(), exact.float(), dim=-1)
            away[name] = max(away[name], float(1 - cosines.min()))
    base = statistics.median(taken["float32"][2:])
    for name in ways:
        median = statistics.median(taken[name][2:])
        sys.stdout.write(
            f"{size} at a time, {name}: {1e6 * median / size:.0f} µs a history, {median / base:.2f} of float32, "
            f"turned by at most {away[name]:.1e}\n"
        )


def _ways(tower: torch.nn.Module, example: Any) -> dict[str, Way]:
    half = copy.deepcopy(tower).bfloat16()

    def bfloat16(batch: Any, vectors: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            found: torch.Tensor = half(batch, vectors)
            return found

    ways: dict[str, Way] = {"float32": tower, "bfloat16": bfloat16}
    for name, make in (
        ("int8", lambda: _int8(tower)),
        ("exported", lambda: torch.export.export(tower, example).module()),
    ):
        try:
            way = make()
            way(*example)
        except Exception as error:  # noqa: BLE001 - a way that does not work here is a result, and is told
            sys.stdout.write(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}\n")
        else:
            ways[name] = way
    return ways


def _int8(tower: torch.nn.Module) -> Any:
    quantised: Any = torch.ao.quantization.quantize_dynamic(copy.deepcopy(tower), {torch.nn.Linear}, torch.qint8)  # type: ignore[no-untyped-call]
    return quantised


if __name__ == "__main__":
    sys.exit(main())
