"""What each kind of index finds and costs at 10⁴, 10⁵ and 10⁶ items, beside the choice that a publication makes.

`python benchmarks/retrieval.py --folder F`, F being an installation's with a generation, `.demo` after `make demo` for
one. Catalogues of any size are drawn from its item vectors (`synthetic_vectors`), and searched for the interests of
the first 400 users in its log: `auto` chooses by every second one's and is measured, as the others, by the rest's.
Printed is, for each kind,

    recall     the share of the hundred best by exact search that are found, mean over queries
    µs         a search for the hundred best as the server makes it, re-scoring included: one thread, median; each query
               is searched for by all kinds before the next one
    build s    the time to build the index, one thread; of `auto` to build and measure flat and IVF
    MiB        of the index file; the exact vectors lie beside it
    peak MiB   of the process that builds it, in which the vectors lie already: at 10⁶ × 64 these are 244 MiB

An inverted file searches as few lists as surely reach `--recall`. The generation's own items come first: if the
synthetic ones are like them, both need about the same share of lists. `--hnsw` measures a graph over the same codes
beside the kinds. `--requests` measures instead what a request costs: items left out, bonuses, and similar items.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import torch

from headwater_core.artifact_store import ArtifactStore
from headwater_core.co_visits import NO_BONUSES, Bonuses
from headwater_core.database import Database
from headwater_core.events import Subject, history_event
from headwater_core.feedback_log import FeedbackLog
from headwater_core.generation import LoadedGeneration
from headwater_core.indexes import IndexKind, n_lists, n_probes
from headwater_core.newcomers import NEIGHBOURS, inherit
from headwater_core.retrieval import Retriever
from headwater_core.shards import Delta, Shard, Vectors, VectorTable
from headwater_server.item_space import Found, ItemSpace
from headwater_server.serving_generation import ServingGeneration
from headwater_updater.index_choice import Recall, ShardBench, choose

SIZES = (10_000, 100_000, 1_000_000)
USERS = 400
AUTO, HNSW = "auto", "hnsw"
_SPREAD = 0.5
"""How far synthetic items lie from the one they are drawn around, in its neighbours' deviations."""
_PART = 100_000
_HNSW_LINKS, _HNSW_BUILD_DEPTH = 16, 80


def synthetic_vectors(real: Vectors, n: int, seed: int) -> Vectors:
    """Item vectors (n, d) of a catalogue of any size that keeps what searching depends on in a real one's.

    Each is drawn around a real item, from a Gaussian half as wide as the real items' ten nearest neighbours are
    scattered (their pooled covariance). So clusters stay where they are and as large as they are, the covariance keeps
    its spectrum, and lengths are then put at the quantiles of the real ones, in the order that they have. An index's
    recall by lists searched came out as on the real vectors so; with a mixture of Gaussians around 300 k-means
    centres it was reached with three quarters of the lists.

    Args:
        real: (m, d), a trained generation's item vectors.
        n: how many.
        seed: fixes them.
    """
    chance = np.random.default_rng(seed)
    neighbours = inherit(real, np.arange(len(real)), lambda rows: real[rows]).neighbours  # (m, NEIGHBOURS), itself too
    away = (real[neighbours] - real[:, None]).reshape(-1, real.shape[1])
    # Two draws differ by twice the covariance of one.
    covariance = away.T @ away / (2 * len(real) * (NEIGHBOURS - 1))
    factor = (_SPREAD * np.linalg.cholesky(covariance)).astype(np.float32)
    vectors = real[chance.integers(len(real), size=n)]
    for start in range(0, n, _PART):
        part = vectors[start : start + _PART]
        part += chance.standard_normal(part.shape, dtype=np.float32) @ factor.T
    lengths = np.linalg.norm(vectors, axis=1)
    wanted = np.empty_like(lengths)
    wanted[np.argsort(lengths)] = np.quantile(np.linalg.norm(real, axis=1), (np.arange(n) + 0.5) / n)
    vectors *= (wanted / lengths)[:, None]
    return vectors


def real_vectors(loaded: LoadedGeneration) -> Vectors:
    """The item vectors (m, d) of a generation."""
    return loaded.table.vectors(np.flatnonzero(loaded.table.alive))


def real_interests(folder: Path, loaded: LoadedGeneration) -> Vectors:
    """The interests (q, d) of the first users in an installation's log."""
    torch.set_num_threads(1)
    log = FeedbackLog(Database(f"sqlite:///{folder / 'headwater.db'}"))
    generation = ServingGeneration(loaded, no_texts)
    histories = [
        [history_event(logged) for logged in log.history(subject, generation.config.history_length)]
        for subject in first_subjects(log)
    ]
    return np.concatenate(generation.embed(histories))


def first_subjects(log: FeedbackLog) -> list[Subject]:
    """The first users in a log."""
    found: dict[Subject, None] = {}
    position = 0
    while len(found) < USERS and (events := log.read_after(position, 10_000)):
        found.update((logged.event.subject, None) for logged in events)
        position = events[-1].position
    return list(found)[:USERS]


def no_texts(_: Sequence[str]) -> npt.NDArray[np.float32]:
    """Stands in for the text encoder: no history that is read here needs it."""
    raise RuntimeError("searches in histories are read without their texts here")


class Built(NamedTuple):
    """An index that a process of its own has built."""

    kind: str
    seconds: float
    peak_mib: int
    index_path: str
    items_path: str


def main() -> int:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description="Retrieval at size")
    parser.add_argument("--folder", type=Path, required=True, help="an installation with a published generation")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="items, separated by commas")
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--hnsw", action="store_true", help="measure a graph, too; it takes minutes to build")
    parser.add_argument("--requests", action="store_true", help="measure what requests cost beside the search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="for JSON")
    arguments = parser.parse_args()
    store = ArtifactStore(str(arguments.folder / "artifacts"))
    loaded = LoadedGeneration.load(store, store.list_generations()[0])
    real, interests = real_vectors(loaded), real_interests(arguments.folder, loaded)
    catalogues = [("real", real)] + [
        (f"{n:,}", synthetic_vectors(real, n, arguments.seed)) for n in map(int, arguments.sizes.split(","))
    ]
    rows: list[dict[str, Any]] = []
    for name, vectors in catalogues:
        if arguments.requests:
            rows += _requests(name, vectors, interests)
        else:
            kinds = [*IndexKind, *([HNSW] if arguments.hnsw else []), AUTO]
            rows += _kinds(name, vectors, interests, kinds, arguments.recall)
    _show(rows)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _kinds(
    name: str, vectors: Vectors, interests: Vectors, kinds: Sequence[str], recall: float
) -> Iterator[dict[str, Any]]:
    """A row for each kind."""
    ids = [str(row) for row in range(len(vectors))]
    flat = Shard.build(ids, vectors, IndexKind.FLAT)
    bench = ShardBench(flat, interests[1::2])
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/vectors.npy", vectors)
        np.save(f"{folder}/interests.npy", interests[::2])
        built = [_built_apart(folder, kind, recall) for kind in kinds]
        shards = [_opened(each, flat, vectors.shape[1]) for each in built]
        recalls = [
            (bench.recall(shard) if each.kind == AUTO else _tuned(bench, each.kind, shard, recall)).mean
            for each, shard in zip(built, shards, strict=True)
        ]
        took_us = bench.search_us(shards)
        for each, shard, reached, search_us in zip(built, shards, recalls, took_us, strict=True):
            lists = f" {n_probes(shard.index)}/{n_lists(shard.index)}" if n_lists(shard.index) > 1 else ""
            yield {
                "items": name,
                "kind": each.kind + lists,
                "recall": round(reached, 4),
                "µs": round(search_us),
                "build s": round(each.seconds, 1),
                "MiB": round(Path(each.index_path).stat().st_size / 2**20, 1),
                "peak MiB": each.peak_mib,
            }


def _tuned(bench: ShardBench, kind: str, shard: Shard, recall: float) -> Recall:
    if kind != HNSW:
        return bench.tune(shard, recall)
    reached = Recall(0.0, 0.0)
    for depth in (100, 150, 200, 300, 400, 600, 800):
        shard.index.hnsw.efSearch = depth
        reached = bench.recall(shard)
        if reached.at_least >= recall:
            break
    return reached


def _opened(built: Built, flat: Shard, dimension: int) -> Shard:
    """The shard, mapped as a server maps it; a graph, which servers do not read, from memory."""
    if built.kind == HNSW:
        return Shard(faiss.read_index(built.index_path), flat.item_ids, flat.vectors)
    return Shard.load(Path(built.index_path), Path(built.items_path), dimension)


def _built_apart(folder: str, kind: str, recall: float) -> Built:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_build, folder, kind, recall).result()


def _build(folder: str, kind: str, recall: float) -> Built:
    """Runs in a process of its own, whose memory is the build's."""
    vectors, interests = np.load(f"{folder}/vectors.npy"), np.load(f"{folder}/interests.npy")
    ids = [str(row) for row in range(len(vectors))]
    began_s = time.perf_counter()
    if kind == AUTO:
        shard = choose(ids, vectors, interests, recall).shard
    elif kind == HNSW:
        shard = Shard(_graph(vectors), tuple(ids), vectors)
    else:
        shard = Shard.build(ids, vectors, IndexKind(kind))
    seconds = time.perf_counter() - began_s
    [peak_kib] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    paths = shard.save(Path(folder), kind)
    return Built(kind, seconds, int(peak_kib) // 1024, *map(str, paths))


def _graph(vectors: Vectors) -> Any:
    faiss.omp_set_num_threads(1)
    codes: Any = faiss.ScalarQuantizer.QT_8bit
    index: Any = faiss.IndexHNSWSQ(vectors.shape[1], codes, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _HNSW_BUILD_DEPTH
    index.train(vectors)
    index.add(vectors)
    return index


def _requests(name: str, vectors: Vectors, interests: Vectors) -> Iterator[dict[str, Any]]:
    """What retrieving and comparing costs with a delta of 500 items, by flat and by what `choose` takes."""
    n = len(vectors)
    ids = [str(row) for row in range(n)]
    delta = Delta(tuple(ids[:500]), vectors[:500] * np.float32(1.01))
    chance = np.random.default_rng(0)
    excluded = [[ids[row] for row in chance.choice(n, 100)] for _ in interests]
    gaining = [np.sort(chance.choice(n, 1500, replace=False)) for _ in interests]
    bonuses = [Bonuses(rows, np.full(1500, 0.1, np.float32)) for rows in gaining]
    for kind in (IndexKind.FLAT, None):
        chosen = choose(ids, vectors, interests, 0.98, kind)
        table = VectorTable([chosen.shard], delta)
        space = ItemSpace(table, Retriever([chosen.shard], delta, table))
        retrieve = partial(_retrieve, space, interests)
        calls: dict[str, Callable[[int], object]] = {
            "retrieve 100": retrieve,
            "… 100 left out": partial(retrieve, excluded=excluded),
            "… and 1,500 bonuses": partial(retrieve, excluded=excluded, bonuses=bonuses),
            "10 similar": partial(_similar, space, ids),
        }
        for call, run in calls.items():
            run(0)
            took_s = []
            for at in range(50):
                began_s = time.perf_counter()
                run(at)
                took_s.append(time.perf_counter() - began_s)
            yield {"items": name, "kind": chosen.kind.value, "call": call, "µs": round(float(np.median(took_s)) * 1e6)}


def _retrieve(
    space: ItemSpace,
    interests: Vectors,
    at: int,
    excluded: Sequence[Sequence[str]] | None = None,
    bonuses: Sequence[Bonuses] | None = None,
) -> list[Found]:
    left_out = excluded[at] if excluded is not None else ()
    gains = bonuses[at] if bonuses is not None else NO_BONUSES
    return space.retrieve(interests[at, None], 100, _anything, None, left_out, gains)


def _similar(space: ItemSpace, ids: Sequence[str], at: int) -> list[Found]:
    return space.similar(ids[1000 + at], 10, _anything)


def _anything(_: str) -> bool:
    return True


def _show(rows: Sequence[dict[str, Any]]) -> None:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    sys.stdout.write("".join(f"| {' | '.join(line)} |\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
