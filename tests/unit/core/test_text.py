"""The text encoder: local, checked, cached."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from headwater_core import text
from headwater_core.errors import ArtifactError, ConfigurationError
from headwater_core.text import PACKAGED_SHA256, CachedTextEncoder, FeatureMemory, TextEncoder, text_hash


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(max_tokens=32)


def test_like_texts_are_near(encoder: TextEncoder) -> None:
    """Features have length 1, follow the order of the texts, and put like texts nearer than unlike ones."""
    features = encoder.encode(["Toy Story, animation", "a murder in Chicago, crime", "Finding Nemo, animation", " "])
    assert features.shape == (4, 384)
    assert features.dtype == np.float16
    full = features.astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(full, axis=1), [1, 1, 1, 0], atol=1e-2)
    assert full[0] @ full[2] > full[0] @ full[1]


def test_a_texts_features_do_not_depend_on_its_neighbours(encoder: TextEncoder) -> None:
    """A text gets the same features alone and in a batch with longer ones."""
    texts = ["short", "a very much longer text about nothing in particular, going on and on", "other"]
    seen: list[int] = []
    together = encoder.encode(texts, batch_size=2, on_progress=seen.append)
    alone = np.concatenate([encoder.encode([each]) for each in texts])
    np.testing.assert_allclose(together.astype(np.float32), alone.astype(np.float32), atol=2e-3)
    assert seen == [2, 3]


def test_the_id_names_weights_and_pooling(encoder: TextEncoder) -> None:
    """The id holds the sha256 of the weights in use."""
    assert encoder.id == f"{PACKAGED_SHA256}/mean"
    assert encoder.dimension == 384


def test_changed_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The packaged model's weights must be the original's."""
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(text, "packaged_model_path", lambda: tmp_path)
    with pytest.raises(ArtifactError, match="sha256"):
        TextEncoder()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """A configured path must hold a model."""
    with pytest.raises(ConfigurationError, match=r"model\.safetensors"):
        TextEncoder(tmp_path)


def test_importing_costs_no_transformers() -> None:
    """Whoever only reads features does not pay for importing the model library."""
    code = "import sys, headwater_core.text; sys.exit('transformers' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class CountingEncoder:
    """Encodes a text as its length, and remembers what it was asked."""

    id = "length/none"
    dimension = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[len(text)] * 2 for text in texts], np.float16)


class MemoryCache:
    """A feature store in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, bytes], np.ndarray] = {}

    def get(self, encoder: str, hashes: Collection[bytes]) -> dict[bytes, np.ndarray]:
        return {key: self.kept[encoder, key] for key in hashes if (encoder, key) in self.kept}

    def put(self, encoder: str, features: Mapping[bytes, np.ndarray]) -> None:
        self.kept.update({(encoder, key): value for key, value in features.items()})


def test_no_text_is_encoded_twice() -> None:
    """Known texts come from the cache, equal ones are encoded once, empty ones never."""
    inner, cache = CountingEncoder(), MemoryCache()
    encoder = CachedTextEncoder(inner, cache)
    assert encoder.features(["aa", "b", "aa", ""])[:, 0].tolist() == [2, 1, 2, 0]
    assert encoder.features(["b", "ccc"])[:, 0].tolist() == [1, 3]
    assert inner.asked == ["aa", "b", "ccc"]
    assert set(cache.kept) == {("length/none", text_hash(each)) for each in ("aa", "b", "ccc")}
    assert encoder.features([]).shape == (0, 2)


def test_a_memory_keeps_what_was_used_last() -> None:
    """It is bounded: the features used longest ago go, and are simply computed again; encoders are kept apart."""
    inner, memory = CountingEncoder(), FeatureMemory(capacity=2)
    encoder = CachedTextEncoder(inner, memory)
    for each in ("a", "bb", "a", "ccc", "a", "bb"):
        assert encoder.features([each])[0, 0] == len(each)
    assert inner.asked == ["a", "bb", "ccc", "bb"]
    assert len(memory) == 2
    assert memory.get("another/mean", [text_hash("a")]) == {}
