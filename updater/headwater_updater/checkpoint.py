"""A learner as one safetensors file: weights, optimizers, random state, items, configuration, watermark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from headwater_core.co_visits import Blend
from headwater_core.errors import ArtifactError, InvalidFieldError
from headwater_core.histories import TextFeatures
from headwater_core.towers import TowerConfig
from headwater_updater.learner_config import LearnerConfig

if TYPE_CHECKING:
    from headwater_updater.learner import Learner

SCHEMA_VERSION = 4
_METADATA = "learner"


def dense_parameters(learner: Learner) -> Iterator[tuple[str, nn.Parameter]]:
    """Every trained parameter but the id table, with its name, always in the same order."""
    modules = {"user_tower": learner.user_tower, "item_shared": learner.item_tower.shared, "heads": learner.heads}
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            yield f"{prefix}.{name}", parameter


def weights(learner: Learner) -> dict[str, Tensor]:
    """Every trained tensor, by name."""
    return {**dict(dense_parameters(learner)), "id_embedding": learner.item_tower.id_embedding}


def save(learner: Learner) -> bytes:
    """The learner as a file; the search for text features (`text_features`) is not part of it."""
    tensors = {name: tensor.detach() for name, tensor in weights(learner).items()}
    for name, parameter in dense_parameters(learner):
        for key, moment in learner.adam.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = moment
    tensors["id_adam.mean"] = learner.id_adam.mean
    tensors["id_adam.square"] = learner.id_adam.square
    tensors["id_adam.steps"] = learner.id_adam.steps
    tensors["item_features"] = learner.item_features
    tensors["calibration"] = learner.heads.calibration
    tensors["counts"] = torch.from_numpy(learner.counts)
    encoded = [item_id.encode() for item_id in learner.item_ids]
    tensors["item_ids"] = torch.from_numpy(np.frombuffer(b"".join(encoded), np.uint8).copy())
    tensors["item_id_ends"] = torch.from_numpy(np.cumsum([len(part) for part in encoded], dtype=np.int64))
    removed = [row for row, item_id in enumerate(learner.item_ids, start=1) if not learner.row(item_id)]
    tensors["removed_rows"] = torch.tensor(removed, dtype=torch.int64)
    tensors |= {f"successors.{name}": tensor for name, tensor in learner.successors.state().items()}
    tensors["trends.weights"] = torch.from_numpy(learner.trends.weights)
    tensors["trends.scale"] = torch.from_numpy(learner.trends.scale)
    content = {
        "schema_version": SCHEMA_VERSION,
        "config": {**asdict(learner.config), "tower": learner.config.tower.to_dict()},
        "rng": learner.rng.bit_generator.state,
        "watermark": learner.watermark,
        "blend": learner.blend.to_dict(),
    }
    return safetensors.torch.save(tensors, {_METADATA: json.dumps(content, sort_keys=True)})


def load(kind: type[Learner], source: bytes, text_features: TextFeatures | None) -> Learner:
    """The learner that `save` wrote.

    Raises:
        ArtifactError: when the file is damaged or of another schema.
    """
    try:
        content = metadata(source, _METADATA)
        if content["schema_version"] != SCHEMA_VERSION:
            raise _damaged(f"schema version {content['schema_version']} is not {SCHEMA_VERSION}")
        settings = content["config"]
        settings["tower"] = TowerConfig.from_dict(settings["tower"])
        learner = kind.create(LearnerConfig(**settings), 0, text_features)
        learner.rng.bit_generator.state = content["rng"]
        learner.watermark = int(content["watermark"])
        learner.blend = Blend.from_dict(content["blend"])
        _fill(learner, safetensors.torch.load(source))
    except (SafetensorError, InvalidFieldError, LookupError, TypeError, ValueError) as error:
        raise _damaged(f"{type(error).__name__}: {error}") from error
    return learner


def _fill(learner: Learner, tensors: dict[str, Tensor]) -> None:
    blob, ends = tensors["item_ids"].numpy().tobytes(), tensors["item_id_ends"].tolist()
    item_ids = [blob[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
    features = tensors["item_features"]
    _expect("item_features", features, learner.item_features.expand(len(item_ids) + 1, -1))
    learner.add_items(item_ids, features[1:].numpy())
    learner.remove_items([item_ids[row - 1] for row in tensors["removed_rows"].tolist()])
    for name, tensor in weights(learner).items():
        _expect(name, tensors[name], tensor)
        tensor.data.copy_(tensors[name])
    for name, parameter in dense_parameters(learner):
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"adam.{key}.{name}" in tensors]
        learner.adam.state[parameter] = {key: tensors[f"adam.{key}.{name}"] for key in keys}
    for key in ("mean", "square", "steps"):
        _expect(key, tensors[f"id_adam.{key}"], getattr(learner.id_adam, key))
        setattr(learner.id_adam, key, tensors[f"id_adam.{key}"])
    _expect("calibration", tensors["calibration"], learner.heads.calibration)
    learner.heads.calibration.copy_(tensors["calibration"])
    _expect("counts", tensors["counts"], torch.from_numpy(learner.counts))
    learner.counts = tensors["counts"].numpy()
    for key in ("weights", "scale"):
        _expect(f"trends.{key}", tensors[f"trends.{key}"], torch.from_numpy(getattr(learner.trends, key)))
        setattr(learner.trends, key, tensors[f"trends.{key}"].numpy())
    learner.successors.load_state({name: tensors[f"successors.{name}"] for name in ("lengths", "rows", "counts")})


def _expect(name: str, found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise _damaged(f"{name} is {tuple(found.shape)} {found.dtype}, not {tuple(wanted.shape)} {wanted.dtype}")


def metadata(source: bytes, name: str) -> dict[str, Any]:
    """A JSON object from the metadata of a safetensors file in memory; the library reads metadata from paths only.

    Raises:
        ValueError, KeyError: when there is none.
    """
    length = int.from_bytes(source[:8], "little")
    header = json.loads(source[8 : 8 + length])
    content: dict[str, Any] = json.loads(header["__metadata__"][name])
    return content


def _damaged(reason: str) -> ArtifactError:
    return ArtifactError("load checkpoint", "<bytes>", reason)
