"""Following the catalogue: new and changed items get their vectors, deleted ones lose their place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from headwater_core import item_features
from headwater_core.catalogue import Catalogue, Item
from headwater_core.text import CachedTextEncoder
from headwater_updater.learner import Learner


@dataclass(frozen=True, slots=True)
class CatalogueStep:
    """What a part of the catalogue's changes meant for the learner."""

    revision: int
    """Up to where the changes are followed."""
    seen: int = 0
    """How many changes there were."""
    present: list[str] = field(default_factory=list)
    """Items that exist."""
    added: list[str] = field(default_factory=list)
    """Those that the learner had not known."""
    moved: list[str] = field(default_factory=list)
    """Those whose vectors are new or another than before."""
    deleted: list[str] = field(default_factory=list)
    n_vectors_unread: int = 0
    """How many items have a vector of the caller's that is not of the length the learner reads."""


def follow(catalogue: Catalogue, text: CachedTextEncoder, learner: Learner, revision: int, limit: int) -> CatalogueStep:
    """Bring the learner's items up to date by at most `limit` changes after `revision`.

    Texts whose features nobody computed yet (a bulk import's) are encoded here.
    """
    changes = catalogue.changes_after(revision, limit)
    if not changes:
        return CatalogueStep(revision)
    items = [change.item for change in changes if change.item is not None]
    ids = [item.item_id for item in items]
    added = [item_id for item_id in ids if not learner.knows(item_id)]
    before = _vectors(learner, ids)
    _add(text, learner, items)
    after = _vectors(learner, ids)
    # Most changes (availability, attributes) leave the features as they are: then nothing has to be published.
    moved = [item_id for item_id in ids if not np.array_equal(before.get(item_id, np.nan), after[item_id])]
    deleted = [change.item_id for change in changes if change.item is None]
    learner.remove_items(deleted)
    length = learner.config.tower.vector_dimension
    n_unread = sum(item.embedding is not None and len(item.embedding) != length for item in items)
    return CatalogueStep(changes[-1].revision, len(changes), ids, added, moved, deleted, n_unread)


def _add(text: CachedTextEncoder, learner: Learner, items: list[Item]) -> None:
    if items:
        text_features = text.features([item.text() for item in items])
        vectors = [item.embedding for item in items]
        features = item_features.join(text_features, vectors, learner.config.tower.vector_dimension)
        learner.add_items([item.item_id for item in items], features)


def _vectors(learner: Learner, item_ids: list[str]) -> dict[str, np.ndarray]:
    known = [item_id for item_id in item_ids if learner.row(item_id)]
    if not known:
        return {}
    rows = np.array([learner.row(item_id) for item_id in known], dtype=np.int64)
    return dict(zip(known, learner.item_vectors(rows), strict=True))
