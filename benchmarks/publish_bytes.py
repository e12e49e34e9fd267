"""What a fast publish writes and loads: 100 touched items in a catalogue of 100,000.

`python benchmarks/publish_bytes.py` makes a learner of so many items with random vectors, texts and co-visits and
publishes it in full to a temporary store. Then events touch 100 items, it publishes again, and the files are compared:
all that is written, and of it what a server loads (the rest is what training resumes from).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from headwater_core.artifact_store import ArtifactStore
from headwater_core.database import Database
from headwater_core.events import HistoryEvent
from headwater_core.indexes import IndexKind
from headwater_core.manifest import Manifest
from headwater_core.registry import STABLE, GenerationRegistry
from headwater_core.towers import TowerConfig
from headwater_updater.examples import Example
from headwater_updater.learner import Learner
from headwater_updater.learner_config import LearnerConfig
from headwater_updater.lease import Leadership
from headwater_updater.publisher import Draft, Publisher

TEXT_DIMENSION = 384


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--touched", type=int, default=100)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    tower = TowerConfig(text_dimension=TEXT_DIMENSION, event_types=("click",), value_mean=(0.0,), value_std=(1.0,))
    learner = Learner.create(LearnerConfig(tower, {"click": 1.0}), 0)
    item_ids = [f"item-{number}" for number in range(arguments.items)]
    learner.add_items(item_ids, rng.normal(size=(arguments.items, TEXT_DIMENSION)).astype(np.float16))
    learner.counts[1:] = rng.integers(1, 50, arguments.items)
    _learn(learner, rng, arguments.items, n_histories=arguments.items // 10)
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/headwater.db")
        database.migrate()
        registry = GenerationRegistry(database)
        store = ArtifactStore(str(Path(folder) / "artifacts"))
        publisher = Publisher(store, registry, index_kind=IndexKind.FLAT)
        leadership = Leadership.acquire(registry, "benchmark", 600.0)
        assert leadership is not None
        with leadership:
            full = publisher.publish(
                _draft(learner, set(), set()), None, label=STABLE, expected=0, lease=leadership.lease
            )
            touched, sources = _learn(learner, rng, arguments.touched, n_histories=arguments.touched // 4)
            draft = _draft(learner, touched, sources)
            number = full.manifest.number
            fast = publisher.publish(draft, full, label=STABLE, expected=number, lease=leadership.lease)
        _show(full.manifest, fast.manifest)
        database.close()
    return 0


def _learn(learner: Learner, rng: np.random.Generator, n_items: int, *, n_histories: int) -> tuple[set[str], set[str]]:
    """A round of histories of twelve events on the first `n_items`; what moved: vectors, successors."""
    examples = [
        Example(
            [HistoryEvent(k + 1, (k + 1) * 1_000_000, "click", f"item-{i}") for k, i in enumerate(chosen.tolist())], 4
        )
        for chosen in rng.integers(0, n_items, (n_histories, 12))
    ]
    result = learner.step(examples)
    return (
        {learner.item_ids[row - 1] for row in result.touched_rows},
        {learner.item_ids[row - 1] for row in result.touched_sources},
    )


def _draft(learner: Learner, changed: set[str], moved_visits: set[str]) -> Draft:
    return Draft(
        learner=learner,
        text_encoder="none",
        items=learner.item_ids,
        changed=changed,
        moved_visits=moved_visits,
        watermark=0,
        catalogue_revision=0,
        metrics={},
        training_state={},
    )


def _show(full: Manifest, fast: Manifest) -> None:
    """Bytes of the full publish, and of the fast one what it did not share with it."""
    old = {entry.sha256 for entry in full.files.values()}
    written = {name: entry.bytes for name, entry in fast.files.items() if entry.sha256 not in old}
    served = set(fast.served_files)
    loaded = sum(size for name, size in written.items() if name in served)
    whole = sum(entry.bytes for name, entry in full.files.items() if name in set(full.served_files))
    rows = [
        ("full publish, written", full.total_bytes, ""),
        ("full publish, of it loaded by servers", whole, ""),
        ("fast publish, written", sum(written.values()), f"{sum(written.values()) / full.total_bytes:.2%}"),
        ("fast publish, of it loaded by servers", loaded, f"{loaded / whole:.2%}"),
    ]
    rows += [(f"  {name}", size, "") for name, size in sorted(written.items(), key=lambda each: -each[1])]
    for name, size, share in rows:
        sys.stdout.write(f"{name:<42}{size:>14,} {share}\n")


if __name__ == "__main__":
    sys.exit(main())
