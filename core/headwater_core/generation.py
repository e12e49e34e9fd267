"""Loading a generation: every hash verified, every file mapped, the parts checked against the manifest."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from headwater_core.artifact_store import ArtifactStore
from headwater_core.co_visit_files import CoVisits, SuccessorLists
from headwater_core.co_visits import Blend, Successors
from headwater_core.errors import ArtifactError, InvalidFieldError
from headwater_core.manifest import ITEM_TOWER, JOINT_HEADS, USER_TOWER, Manifest, index_file, items_file
from headwater_core.ranker import Ranker
from headwater_core.retrieval import Retriever
from headwater_core.shards import Delta, Shard, VectorTable
from headwater_core.trends import NO_TREND, load_trend

Shards = MutableMapping[tuple[str, str, int], Shard]
"""Loaded shards by the hashes of their two files and the vectors' length."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedGeneration:
    """A generation ready to be searched; the modules' weights are left to the caller, as files."""

    manifest: Manifest
    files: dict[str, Path]
    """Verified local paths of the files that serving needs, those of the shards left out."""
    shards: tuple[Shard, ...]
    delta: Delta
    table: VectorTable
    retriever: Retriever
    co_visits: CoVisits
    trend: Successors
    """What everybody came to of late, by row."""
    blend: Blend
    ranker: Ranker

    @property
    def number(self) -> int:
        """Which generation it is."""
        return self.manifest.number

    @property
    def user_tower(self) -> Path:
        """The user tower's weights."""
        return self.files[USER_TOWER]

    @property
    def item_tower(self) -> Path:
        """The item tower's shared weights."""
        return self.files[ITEM_TOWER]

    @property
    def joint_heads(self) -> Path:
        """The joint heads' weights."""
        return self.files[JOINT_HEADS]

    @classmethod
    def load(cls, store: ArtifactStore, number: int, known: Shards | None = None) -> LoadedGeneration:
        """Load a generation; nothing of it is used before its hash is verified.

        Args:
            store: where its files are.
            number: which one.
            known: shards of other generations: those that this one shares are not read again, and its own join them.

        Raises:
            ArtifactError: when a file is missing or damaged, or the parts do not fit together.
        """
        manifest = store.read_manifest(number)
        shards = load_shards(store, manifest, {} if known is None else known)
        of_shards = {file(name) for name in manifest.shards for file in (index_file, items_file)}
        files = {name: store.open_blob(manifest.files[name]) for name in manifest.served_files if name not in of_shards}
        if manifest.delta is None:
            delta = Delta.empty(manifest.dimension)
        else:
            delta = Delta.load(files[items_file(manifest.delta)], manifest.dimension)
        table = VectorTable(shards, delta)
        if table.item_count != manifest.item_count:
            reason = f"has {table.item_count} items; the manifest says {manifest.item_count}"
            raise ArtifactError("load", f"generation {number}", reason)
        retriever, co_visits = Retriever(shards, delta, table), _co_visits(manifest, files, table)
        trend = NO_TREND if manifest.trend is None else load_trend(files[manifest.trend], table.row)
        return cls(
            manifest, files, shards, delta, table, retriever, co_visits, trend, _blend(manifest), _ranker(manifest)
        )


def load_shards(store: ArtifactStore, manifest: Manifest, known: Shards) -> tuple[Shard, ...]:
    """A generation's base: what is known of it, and the rest verified, mapped, and known from here on.

    Raises:
        ArtifactError: when a file is missing or damaged.
    """
    found: list[Shard] = []
    for name in manifest.shards:
        index, items = manifest.files[index_file(name)], manifest.files[items_file(name)]
        key = index.sha256, items.sha256, manifest.dimension
        shard = known.get(key)
        if shard is None:
            shard = Shard.load(store.open_blob(index), store.open_blob(items), manifest.dimension)
            shard.row_of  # noqa: B018 - worked out, and checked, while nobody waits for it
            known[key] = shard
        found.append(shard)
    return tuple(found)


def _co_visits(manifest: Manifest, files: dict[str, Path], table: VectorTable) -> CoVisits:
    base = SuccessorLists.empty()
    if manifest.co_visits is not None:
        base = SuccessorLists.load(files[manifest.co_visits])
    delta = SuccessorLists.empty(base)
    if manifest.co_visits_delta is not None:
        delta = SuccessorLists.load(files[manifest.co_visits_delta], base)
    return CoVisits(base, delta, table)


def _blend(manifest: Manifest) -> Blend:
    try:
        return Blend.from_dict(manifest.blend)
    except InvalidFieldError as error:
        raise ArtifactError("load", f"generation {manifest.number}", f"blend.{error}") from error


def _ranker(manifest: Manifest) -> Ranker:
    try:
        return Ranker.from_dict(manifest.ranker)
    except InvalidFieldError as error:
        raise ArtifactError("load", f"generation {manifest.number}", f"ranker.{error}") from error
