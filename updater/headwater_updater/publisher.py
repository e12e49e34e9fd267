"""Publishing: what was learned becomes a generation.

Blobs → manifest → record → label → mirror, in this order: a process killed at any point leaves at worst files that
nothing names, and the label on the generation before.

A fast publish shares the base shards of the generation before and carries a delta over them; when the delta has grown
past a share of the base, or there is no base, a full publish makes new base shards of all item vectors. The co-visits'
base and delta go the same way, by their own size.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog

from headwater_core.artifact_store import ArtifactStore
from headwater_core.co_visit_files import SuccessorList, SuccessorLists
from headwater_core.generation import LoadedGeneration
from headwater_core.indexes import IndexKind
from headwater_core.manifest import (
    CHECKPOINT,
    CHECKPOINT_DELTA,
    CO_VISITS,
    CO_VISITS_DELTA,
    DELTA,
    ITEM_TOWER,
    JOINT_HEADS,
    TREND,
    USER_TOWER,
    FileEntry,
    Manifest,
    MeasuredIndex,
    index_file,
    items_file,
)
from headwater_core.ranker import Ranker
from headwater_core.registry import GenerationRecord, GenerationRegistry, Lease
from headwater_core.shards import Delta
from headwater_core.towers import save_state
from headwater_core.trends import save_trend
from headwater_updater.examples import Example
from headwater_updater.index_choice import choose
from headwater_updater.learner import Learner
from headwater_updater.lease import now_us

_PART_ITEMS = 10_000
"""Items whose successors the learner is asked for at a time."""
_LOGGED_METRICS = ("prequential_hr_at_10", "prequential_ndcg_at_10", "validation_hr_at_10", "validation_ndcg_at_10")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """The generation before the next one: what a fast publish builds on."""

    manifest: Manifest
    base_items: frozenset[str]
    """The items that have a row in the base shards."""
    delta: Delta
    base_successors: int
    """How many successors the co-visits' base holds, over all items."""
    visits_delta: SuccessorLists

    @classmethod
    def of(cls, generation: LoadedGeneration) -> Published:
        """What a loaded generation leaves to the next one."""
        base_items = frozenset(item_id for shard in generation.shards for item_id in shard.item_ids)
        visits = generation.co_visits
        return cls(generation.manifest, base_items, generation.delta, len(visits.base.successors), visits.delta)


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """What is to be published."""

    learner: Learner
    text_encoder: str
    items: Collection[str]
    """All items that can be retrieved; the learner knows every one."""
    changed: Collection[str]
    """Those of them whose vectors are new or moved since the generation before."""
    moved_visits: Collection[str]
    """The items whose successors are not what they were in the generation before."""
    watermark: int
    catalogue_revision: int
    metrics: Mapping[str, float]
    training_state: Mapping[str, bytes]
    """Further files that training resumes from, by name."""
    examples: Sequence[Example] = ()
    """Users' histories: what they would ask for is what new base shards are measured by."""
    ranker: Ranker = field(default_factory=Ranker)
    """What orders candidates, if any was learned."""
    number: int | None = None
    """The generation's number, where it was allocated before learning began; None: allocate one."""


class Publisher:
    """Writes generations of one tenant."""

    def __init__(
        self,
        store: ArtifactStore,
        registry: GenerationRegistry,
        *,
        index_kind: IndexKind | None = None,
        index_recall: float = 0.98,
        shard_items: int = 1_000_000,
        fold_share: float = 0.2,
    ) -> None:
        """Publish to this store and registry.

        Args:
            store: where the files go.
            registry: where the numbers and the label are.
            index_kind: of base shards; None: of each the fastest that reaches the recall.
            index_recall: the share of the hundred best items that a search is to find.
            shard_items: items in one base shard, at most.
            fold_share: the share of the base that a delta may reach.
        """
        self._store = store
        self._registry = registry
        self._index_kind, self._index_recall = index_kind, index_recall
        self._shard_items = shard_items
        self._fold_share = fold_share

    def publish(self, draft: Draft, before: Published | None, *, label: str, expected: int, lease: Lease) -> Published:
        """Publish a generation and point a label at it.

        Args:
            draft: what was learned.
            before: the generation that it was learned on top of; None: it was learned from nothing.
            label: `stable`, or `canary`.
            expected: the generation that the label must still name; 0: none.
            lease: under which this process leads.

        Raises:
            LeaseLostError: another updater leads; the label has not moved.
            ConflictError: the label does not name `expected` any more; it has not moved.
            ArtifactError: a file could not be written.
        """
        published, delta_items = self._write(draft, before, "")
        manifest = published.manifest
        self._registry.set_label(label, manifest.number, expected=expected, lease=lease)
        self._store.mirror_label(label, manifest.number)
        _log.info(
            "generation_published",
            label=label,
            generation=manifest.number,
            full=manifest.full,
            watermark=manifest.watermark,
            items=manifest.item_count,
            delta_items=delta_items,
            delta_successors=len(published.visits_delta.successors),
            bytes=manifest.total_bytes,
            **{name: round(value, 4) for name, value in draft.metrics.items() if name in _LOGGED_METRICS},
        )
        return published

    def keep_aside(self, draft: Draft, before: Published | None, refusal: str) -> int:
        """Write a generation that no label will name, with the reason for that; its number.

        Raises:
            ArtifactError: a file could not be written.
        """
        published, _ = self._write(draft, before, refusal)
        return published.manifest.number

    def _write(self, draft: Draft, before: Published | None, refusal: str) -> tuple[Published, int]:
        """A generation's files, manifest and record; it, and how many items its delta holds."""
        number = self._registry.allocate() if draft.number is None else draft.number
        delta = None if before is None else _next_delta(draft, before)
        full = before is None or delta is None or self._outgrown(delta, before)
        with tempfile.TemporaryDirectory(prefix="headwater-publish-") as folder:
            if full:
                files, shards, indexes = self._base(draft, Path(folder))
                base_items, delta = frozenset(draft.items), Delta.empty(draft.learner.user_tower.config.dimension)
            else:
                assert before is not None
                assert delta is not None
                shards, base_items = before.manifest.shards, before.base_items
                indexes = before.manifest.indexes
                names = [name for shard in shards for name in (index_file(shard), items_file(shard))]
                files = {name: before.manifest.files[name] for name in names}
                files[items_file(DELTA)] = self._store.put_blob(delta.save(Path(folder), DELTA))
            visits, base_successors, visits_delta = self._visits(draft, None if full else before, Path(folder))
        training, checkpoint_items = self._training_state(draft, None if full else before)
        files |= visits | self._weights(draft) | training
        manifest = Manifest(
            tenant=self._store.tenant,
            number=number,
            parent=0 if before is None else before.manifest.number,
            full=full,
            publish_time_us=now_us(),
            watermark=draft.watermark,
            catalogue_revision=draft.catalogue_revision,
            dimension=draft.learner.user_tower.config.dimension,
            item_count=len(draft.items),
            text_encoder=draft.text_encoder,
            tower_config=draft.learner.user_tower.config.to_dict(),
            files=files,
            shards=tuple(shards),
            indexes=indexes,
            delta=None if full else DELTA,
            co_visits=CO_VISITS,
            co_visits_delta=CO_VISITS_DELTA if CO_VISITS_DELTA in visits else None,
            trend=TREND,
            blend=draft.learner.blend.to_dict(),
            ranker=draft.ranker.to_dict(),
            metrics={**draft.metrics, **_index_metrics(indexes)},
            checkpoint_items=checkpoint_items,
            refusal=refusal,
        )
        self._store.write_manifest(number, manifest)
        self._registry.record(_record(manifest))
        published = Published(manifest, base_items, delta, base_successors, visits_delta)
        return published, len(delta.item_ids)

    def _outgrown(self, delta: Delta, before: Published) -> bool:
        return len(delta.item_ids) + len(delta.tombstones) > self._fold_share * len(before.base_items)

    def _base(self, draft: Draft, folder: Path) -> tuple[dict[str, FileEntry], Sequence[str], dict[str, MeasuredIndex]]:
        """New base shards of all items, in the order in which the learner met them, and what was measured of them."""
        wanted = frozenset(draft.items)
        ids = [item_id for item_id in draft.learner.item_ids if item_id in wanted]
        files: dict[str, FileEntry] = {}
        shards: list[str] = []
        indexes: dict[str, MeasuredIndex] = {}
        interests = draft.learner.interests(draft.examples)
        for start in range(0, len(ids), self._shard_items):
            part = ids[start : start + self._shard_items]
            name = f"shards/{len(shards):04d}"
            vectors = vectors_of(draft.learner, part)
            chosen = choose(part, vectors, interests, self._index_recall, self._index_kind)
            if chosen.recall is not None and chosen.search_us is not None:
                indexes[name] = MeasuredIndex(kind=chosen.kind, recall=chosen.recall, search_us=chosen.search_us)
                _log.info("index_chosen", shard=name, items=len(part), **indexes[name].model_dump())
            index_path, items_path = chosen.shard.save(folder, name)
            files[index_file(name)] = self._store.put_blob(index_path)
            files[items_file(name)] = self._store.put_blob(items_path)
            shards.append(name)
        return files, shards, indexes

    def _visits(
        self, draft: Draft, before: Published | None, folder: Path
    ) -> tuple[dict[str, FileEntry], int, SuccessorLists]:
        """The co-visits' files, how many successors their base holds, and the delta over it."""
        if before is not None and before.manifest.co_visits is not None:
            delta = _next_visits(draft, before)
            if len(delta.successors) <= self._fold_share * before.base_successors:
                base_entry = before.manifest.files[before.manifest.co_visits]
                delta_entry = self._store.put_blob(delta.save(folder / CO_VISITS_DELTA))
                return {CO_VISITS: base_entry, CO_VISITS_DELTA: delta_entry}, before.base_successors, delta
        lists = (each for each in _successor_lists(draft, sorted(draft.items)) if each.successors)
        base = SuccessorLists.empty().updated(lists)
        entry = self._store.put_blob(base.save(folder / CO_VISITS))
        return {CO_VISITS: entry}, len(base.successors), SuccessorLists.empty(base)

    def _weights(self, draft: Draft) -> dict[str, FileEntry]:
        learner = draft.learner
        contents = {
            USER_TOWER: save_state(learner.user_tower),
            ITEM_TOWER: save_state(learner.item_tower.shared),
            JOINT_HEADS: save_state(learner.heads),
            TREND: _trend(draft),
        }
        return {name: self._store.put_blob(content) for name, content in contents.items()}

    def _training_state(self, draft: Draft, before: Published | None) -> tuple[dict[str, FileEntry], int]:
        """What training resumes from: the checkpoint of the generation before with a delta, or a whole one.

        Also how many items the checkpoint holds.
        """
        learner = draft.learner
        files = {name: self._store.put_blob(content) for name, content in draft.training_state.items()}
        entry = None if before is None else before.manifest.files.get(CHECKPOINT)
        if before is not None and entry is not None and float(learner.moved.mean()) <= self._fold_share:
            n_items = before.manifest.checkpoint_items
            return files | {
                CHECKPOINT: entry,
                CHECKPOINT_DELTA: self._store.put_blob(learner.state_delta(n_items)),
            }, n_items
        files[CHECKPOINT] = self._store.put_blob(learner.state())
        learner.moved[:] = False
        return files, len(learner.item_ids)


def _index_metrics(indexes: Mapping[str, MeasuredIndex]) -> dict[str, float]:
    return {"index_recall_at_100": min(index.recall for index in indexes.values())} if indexes else {}


def _trend(draft: Draft) -> bytes:
    items = frozenset(draft.items)
    present = [(item_id, weight) for item_id, weight in draft.learner.trending() if item_id in items]
    return save_trend([item_id for item_id, _ in present], [weight for _, weight in present])


def vectors_of(learner: Learner, item_ids: Sequence[str]) -> np.ndarray:
    """The item vectors (n, d) float32 of items that the learner knows."""
    rows = np.fromiter((learner.row(item_id) for item_id in item_ids), dtype=np.int64, count=len(item_ids))
    return learner.item_vectors(rows)


def _next_delta(draft: Draft, before: Published) -> Delta:
    items = frozenset(draft.items)
    known = before.base_items.union(before.delta.item_ids)
    changed = sorted(items.intersection(draft.changed) | _arrived(draft, before))
    # A tombstone speaks against a base row; an item that only the delta had is left out of it.
    delta = before.delta.updated(changed, vectors_of(draft.learner, changed), known - items)
    return Delta(delta.item_ids, delta.vectors, delta.tombstones & before.base_items)


def _next_visits(draft: Draft, before: Published) -> SuccessorLists:
    moved = frozenset(draft.items).intersection(draft.moved_visits) | _arrived(draft, before)
    # An empty list supersedes an earlier one; where there can be none, it says nothing.
    earlier = before.visits_delta.numbers
    lists = (each for each in _successor_lists(draft, sorted(moved)) if each.successors or each.item_id in earlier)
    return before.visits_delta.updated(lists)


def _arrived(draft: Draft, before: Published) -> frozenset[str]:
    """The items that could not be retrieved in the generation before."""
    items = frozenset(draft.items)
    return items.difference(before.base_items, before.delta.item_ids) | (items & before.delta.tombstones)


def _successor_lists(draft: Draft, item_ids: Sequence[str]) -> Iterator[SuccessorList]:
    """What follows each of these items, of what can be retrieved."""
    items = frozenset(draft.items)
    for start in range(0, len(item_ids), _PART_ITEMS):
        part = item_ids[start : start + _PART_ITEMS]
        for item_id, (successors, weights) in zip(part, draft.learner.successors_of(part), strict=True):
            present = np.fromiter((successor in items for successor in successors), np.bool_, len(successors))
            yield SuccessorList(item_id, list(itertools.compress(successors, present)), weights[present])


def _record(manifest: Manifest) -> GenerationRecord:
    return GenerationRecord(
        number=manifest.number,
        parent=manifest.parent,
        full=manifest.full,
        publish_time_us=manifest.publish_time_us,
        watermark=manifest.watermark,
        catalogue_revision=manifest.catalogue_revision,
        item_count=manifest.item_count,
        dimension=manifest.dimension,
        total_bytes=manifest.total_bytes,
        metrics=manifest.metrics,
    )
