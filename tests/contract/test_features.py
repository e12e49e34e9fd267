"""Text features are stored once for each text and encoder."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from headwater_core.database import Database
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
