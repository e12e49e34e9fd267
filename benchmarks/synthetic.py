"""An installation of any size: a real one whose catalogue and served generation are grown by synthetic items.

`python benchmarks/synthetic.py --from F --to G --items 1000000` copies the installation in F (MovieLens, as
`serving.py` makes it) and publishes a generation whose base holds the real items and as many more as are asked for,
drawn around them (`retrieval.synthetic_vectors`), the index chosen as a publication would choose it. Towers, co-visits,
users and events stay the real ones. The new items have one of a thousand texts (a title and two categories of the real
items), whose features are stored, and an attribute.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from retrieval import real_interests, real_vectors, synthetic_vectors

from headwater_core.artifact_store import ArtifactStore
from headwater_core.catalogue import Catalogue, Item
from headwater_core.database import Database
from headwater_core.features import FeatureStore
from headwater_core.generation import LoadedGeneration
from headwater_core.manifest import FileEntry, index_file, items_file
from headwater_core.registry import STABLE, GenerationRecord, GenerationRegistry
from headwater_core.text import CachedTextEncoder, TextEncoder
from headwater_updater.index_choice import choose

RECALL = 0.98
_AT_ONCE = 1_000
_SHARD = "shards/0000"


def main() -> int:
    """Make it."""
    parser = argparse.ArgumentParser(description="An installation of any size")
    parser.add_argument("--from", type=Path, required=True, dest="source", help="an installation made by serving.py")
    parser.add_argument("--to", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--items", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    grow(arguments.source, arguments.to, arguments.items)
    return 0


def grow(source: Path, folder: Path, n_items: int) -> None:
    """Copy an installation and let it have so many items."""
    shutil.copytree(source, folder)
    database = Database(f"sqlite:///{folder / 'headwater.db'}")
    database.migrate()
    store, registry = ArtifactStore(str(folder / "artifacts")), GenerationRegistry(database)
    number = registry.labels()[STABLE]
    loaded = LoadedGeneration.load(store, number)
    began_s = time.perf_counter()
    encoder = CachedTextEncoder(TextEncoder(), FeatureStore(database))
    new = _written(Catalogue(database), encoder, n_items - loaded.table.item_count)
    _say(f"{len(new)} items written in {time.perf_counter() - began_s:.0f} s")
    real = real_vectors(loaded)
    vectors = np.concatenate([real, synthetic_vectors(real, len(new), seed=1)])
    item_ids = [*loaded.table.item_ids(), *new]
    began_s = time.perf_counter()
    chosen = choose(item_ids, vectors, real_interests(folder, loaded), RECALL)
    _say(f"{chosen.kind} of {len(item_ids)} items built in {time.perf_counter() - began_s:.0f} s")
    manifest = loaded.manifest
    files: dict[str, FileEntry] = {
        name: manifest.files[name]
        for name in manifest.files
        if name not in {file(shard) for shard in manifest.shards for file in (index_file, items_file)}
    }
    with tempfile.TemporaryDirectory() as temporary:
        index_path, items_path = chosen.shard.save(Path(temporary), _SHARD)
        files |= {index_file(_SHARD): store.put_blob(index_path), items_file(_SHARD): store.put_blob(items_path)}
    grown = manifest.model_copy(
        update={
            "number": registry.allocate(),
            "parent": number,
            "files": files,
            "shards": (_SHARD,),
            "delta": None,
            "item_count": len(item_ids),
            "catalogue_revision": Catalogue(database).revision(),
        }
    )
    store.write_manifest(grown.number, grown)
    copied = grown.model_dump(include=GenerationRecord.__dataclass_fields__.keys() - {"total_bytes"})
    registry.record(GenerationRecord(total_bytes=grown.total_bytes, **copied))
    registry.set_label(STABLE, grown.number)
    database.close()


def _written(catalogue: Catalogue, encoder: CachedTextEncoder, count: int) -> Sequence[str]:
    """Write so many items; their ids."""
    categories = sorted({category for each in catalogue.list("", _AT_ONCE) for category in each.categories})
    item_ids = [f"synthetic-{number}" for number in range(count)]
    for start in range(0, count, _AT_ONCE):
        items = [
            Item(
                item_id,
                f"Synthetic item {number}",
                categories=(categories[number % len(categories)], categories[number // 2 % len(categories)]),
                attributes={"shelf": str(number % 100)},
            )
            for number, item_id in enumerate(item_ids[start : start + _AT_ONCE])
        ]
        catalogue.upsert(items, None, 1_700_000_000_000_000)
        encoder.features([item.text() for item in items])
    return item_ids


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
