"""Where its text alone places an item: ridge regression beside the mean of the nearest texts.

`python benchmarks/text_placement.py FOLDER`, FOLDER being an installation's, for example `.demo` after `make demo`.
Items that were learned are held out of the regression; printed is how far down the list of nearest items, by cosine
with the prediction, an item's true vector lies (median share of the catalogue; lower is better).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headwater_core.artifact_store import ArtifactStore
from headwater_core.manifest import CHECKPOINT
from headwater_updater.learner import Learner

HELD_OUT = 300
MIN_TARGETS = 10
Matrix = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def main() -> int:
    """Print a line of JSON per way of placing items."""
    parser = argparse.ArgumentParser(description="Where texts place items")
    parser.add_argument("folder", type=Path, help="an installation with a published generation")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    store = ArtifactStore(str(arguments.folder / "artifacts"))
    manifest = store.read_manifest(store.list_generations()[0])
    learner = Learner.load_state(store.open_blob(manifest.files[CHECKPOINT]).read_bytes())
    vectors = learner.item_vectors().astype(np.float64)  # (n, d)
    features = learner.item_features[1:].double().numpy()  # (n, F)
    counts = learner.counts[1:]
    chance = np.random.default_rng(arguments.seed)
    held = chance.choice(np.flatnonzero(counts >= MIN_TARGETS), HELD_OUT, replace=False)
    rest = np.setdiff1d(np.flatnonzero(counts), held)
    ways = {"ridge": _ridge(features, vectors, np.log1p(counts), rest, held, learner.config.text_ridge)}
    for k in (1, 10, 20):
        ways[f"mean of the {k} nearest texts"] = _nearest(features, vectors, rest, held, k)
    for name, predicted in ways.items():
        share = _median_share(predicted, vectors[held], vectors[rest])
        sys.stdout.write(json.dumps({"placed_by": name, "median_share": round(share, 4)}) + "\n")
    return 0


def _ridge(features: Matrix, vectors: Matrix, weights: Matrix, rest: Rows, held: Rows, strength: float) -> Matrix:
    """As `Learner` fits it, without the held-out items."""
    weighted = features[rest] * weights[rest, None]
    gram = features[rest].T @ weighted + strength * weights[rest].mean() * np.eye(features.shape[1])
    predicted: Matrix = features[held] @ np.linalg.solve(gram, weighted.T @ vectors[rest])
    return predicted


def _nearest(features: Matrix, vectors: Matrix, rest: Rows, held: Rows, k: int) -> Matrix:
    nearest = np.argsort(-(features[held] @ features[rest].T), axis=1)[:, :k]  # (h, k)
    mean: Matrix = vectors[rest][nearest].mean(axis=1)
    return mean


def _median_share(predicted: Matrix, true: Matrix, others: Matrix) -> float:
    """The share of the other items that lie nearer to the prediction than the true vector, median over items."""
    predicted, true, others = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (predicted, true, others))
    own = (predicted * true).sum(axis=1, keepdims=True)  # (h, 1)
    return float(np.median((predicted @ others.T > own).mean(axis=1)))


if __name__ == "__main__":
    sys.exit(main())
