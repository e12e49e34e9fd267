"""Text features are stored once for each text and encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from headwater_core.catalogue import Catalogue, Item, ItemChange
from headwater_core.database import Database
from headwater_core.feature_pruning import FeaturePruning
from headwater_core.features import FeatureStore


def key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_what_was_put_is_found(database: Database) -> None:
    """Features come back bit for bit, float16; texts nobody put are left out."""
    store = FeatureStore(database)
    features = {key(str(n)): np.linspace(-1, n, 384).astype(np.float16) for n in range(3)}
    store.put("sha/mean", features)
    found = store.get("sha/mean", [*features, key("unknown")])
    assert found.keys() == features.keys()
    for text_hash, values in found.items():
        assert values.dtype == np.float16
        assert values.shape == (384,)
        np.testing.assert_array_equal(values, features[text_hash])


def test_encoders_and_tenants_are_kept_apart(database: Database) -> None:
    """Features of another encoder or tenant are not found."""
    FeatureStore(database).put("sha/mean", {key("a"): np.ones(4, np.float16)})
    assert FeatureStore(database).get("sha/cls", [key("a")]) == {}
    assert FeatureStore(database, "other").get("sha/mean", [key("a")]) == {}


def test_what_is_stored_stays(database: Database) -> None:
    """Two replicas that compute the same text's features at once do not collide."""
    store = FeatureStore(database)
    store.put("sha/mean", {key("a"): np.ones(4, np.float16)})
    store.put("sha/mean", {key("a"): np.zeros(4, np.float16), key("b"): np.zeros(4, np.float16)})
    found = store.get("sha/mean", [key("a"), key("b")])
    assert found[key("a")].tolist() == [1.0] * 4
    assert found[key("b")].tolist() == [0.0] * 4


@pytest.mark.parametrize("count", [0, 2_500])
def test_any_number_of_texts(database: Database, count: int) -> None:
    """Nothing asks for nothing; more than one statement's worth of parameters works."""
    store = FeatureStore(database)
    features = {key(str(n)): np.full(2, n % 100, np.float16) for n in range(count)}
    store.put("sha/mean", features)
    assert len(store.get("sha/mean", features.keys())) == count


# --- pruning


ENCODERS = "new/mean", "old/mean"


def stored(database: Database, *texts: str) -> None:
    for encoder in ENCODERS:
        FeatureStore(database).put(encoder, {key(text): np.ones(2, np.float16) for text in texts})


def left(database: Database, encoder: str, *texts: str) -> list[str]:
    """Those of the texts whose features are still stored."""
    found = FeatureStore(database).get(encoder, [key(text) for text in texts])
    return [text for text in texts if key(text) in found]


def pruned(pruning: FeaturePruning, limit: int) -> int:
    """How many rows a whole pass deletes."""
    gone = 0
    while True:
        step = pruning.step(limit)
        gone += step.gone
        if step.is_last:
            return gone


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_features_that_no_item_needs_go(database: Database, limit: int) -> None:
    """Of texts before the last, and of deleted items; in steps of any size, and again as items change."""
    catalogue, pruning = Catalogue(database), FeaturePruning(database)
    texts = [f"Film {n}" for n in range(6)]
    catalogue.upsert([Item(text, text) for text in texts], None, 1)
    stored(database, *texts, "of nobody")
    stored(database, *texts)
    assert pruned(pruning, limit) == 2
    assert all(left(database, encoder, *texts, "of nobody") == texts for encoder in ENCODERS)
    catalogue.upsert([Item("Film 1", "Film one"), Item("Film 2", "Film 0", categories=("a",))], None, 2)
    catalogue.delete(["Film 5"])
    stored(database, "Film one", "Film 0. a")
    assert pruned(pruning, limit) == 6
    now = ["Film 0", "Film 3", "Film 4", "Film one", "Film 0. a"]
    assert all(left(database, encoder, *texts, "Film one", "Film 0. a") == now for encoder in ENCODERS)


def test_features_of_another_tenant_stay(database: Database) -> None:
    """Whose items are others."""
    FeatureStore(database, "other").put("sha/mean", {key("a"): np.ones(4, np.float16)})
    assert pruned(FeaturePruning(database), 10) == 0
    assert len(FeatureStore(database, "other").get("sha/mean", [key("a")])) == 1


@pytest.mark.parametrize("n_steps", range(8))
def test_a_text_that_comes_back_meanwhile_keeps_its_features(database: Database, n_steps: int) -> None:
    """However far a pass has come when an item has the text again: they stay, or were gone before the item had it."""
    catalogue, pruning = Catalogue(database), FeaturePruning(database)
    texts = [f"Film {n}" for n in range(5)]
    catalogue.upsert([Item(text, text) for text in texts], None, 1)
    stored(database, *texts, "back again")
    for _ in range(n_steps):
        pruning.step(3)
    was_left = {encoder: left(database, encoder, "back again") for encoder in ENCODERS}
    catalogue.upsert([Item("Film 0", "back again")], None, 2)
    pruned(pruning, 3)
    pruned(pruning, 3)  # the pass before may have seen Film 0 with its first text
    for encoder in ENCODERS:
        assert left(database, encoder, "back again", *texts) == was_left[encoder] + texts[1:]


def test_a_text_that_comes_back_at_the_last_moment_keeps_its_features(database: Database) -> None:
    """Between reading what items have become and deleting."""

    class LateCatalogue(Catalogue):
        def changes_after(self, revision: int, limit: int) -> Sequence[ItemChange]:
            changes = super().changes_after(revision, limit)
            self.upsert([Item("film", "back again")], None, 2)
            return changes

    pruning = FeaturePruning(database)
    pruning._catalogue = LateCatalogue(database)
    Catalogue(database).upsert([Item("film", "Film")], None, 1)
    stored(database, "Film", "back again")
    assert pruned(pruning, 10) == 0
    assert all(left(database, encoder, "Film", "back again") == ["Film", "back again"] for encoder in ENCODERS)
