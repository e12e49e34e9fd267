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
from headwater_core.json_reading import parse_json
from headwater_core.towers import TowerConfig, check_size
from headwater_updater.learner_config import LearnerConfig

if TYPE_CHECKING:
    from headwater_updater.learner import Learner

SCHEMA_VERSION = 5
_METADATA = "learner"
_SHOWN = "<bytes>"
_UNREADABLE = (
    SafetensorError,
    InvalidFieldError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
)
"""What comes of content that is not what `save` writes."""


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
    every_row = np.arange(len(learner.item_ids) + 1)
    return _file(learner, {**_dense(learner), **_of_rows(learner, every_row), **_ids(learner, 0)})


def save_delta(learner: Learner, n_base_items: int) -> bytes:
    """What a file that `save` wrote of this learner, when it knew so many items, does not hold: the rows that moved.

    Between full trainings few rows do, so a delta is small where a whole file is not: at 100,000 items a whole one is
    some 170 MB, most of it features and moments that stayed as they were.
    """
    rows = np.flatnonzero(learner.moved)
    tensors = {**_dense(learner), **_of_rows(learner, rows), **_ids(learner, n_base_items)}
    return _file(learner, {**tensors, "rows": torch.from_numpy(rows)}, n_base_items=n_base_items)


def load(kind: type[Learner], source: bytes, text_features: TextFeatures | None, delta: bytes | None = None) -> Learner:
    """The learner that `save` wrote, or `save_delta` over it.

    Raises:
        ArtifactError: when a file is damaged or of another schema, or they do not belong together.
    """
    try:
        content = _content(source)
        settings = {**content["config"], "tower": TowerConfig.from_dict(content["config"]["tower"])}
        check_size(settings["tower"], len(source), _SHOWN)
        tensors = _tensors(source)
        learner = kind.create(LearnerConfig(**settings), 0, text_features)
        _fill(learner, content, tensors, np.arange(len(tensors["counts"])))
        learner.moved[:] = False
        if delta is not None:
            content, tensors = _content(delta), _tensors(delta)
            if content["n_base_items"] != len(learner.item_ids):
                raise _damaged(f"the delta is over {content['n_base_items']} items, not {len(learner.item_ids)}")
            _fill(learner, content, tensors, tensors["rows"].numpy())
            learner.moved[:] = False
            learner.moved[tensors["rows"].numpy()] = True
    except _UNREADABLE as error:
        raise _damaged(f"{type(error).__name__}: {error}") from error
    return learner


def _file(learner: Learner, tensors: dict[str, Tensor], **more: int) -> bytes:
    content = {
        "schema_version": SCHEMA_VERSION,
        "config": {**asdict(learner.config), "tower": learner.config.tower.to_dict()},
        "rng": learner.rng.bit_generator.state,
        "watermark": learner.watermark,
        "blend": learner.blend.to_dict(),
        "beside_trend": learner.beside_trend,
        "value_counts": learner.value_counts.tolist(),
        **more,
    }
    return safetensors.torch.save(tensors, {_METADATA: json.dumps(content, sort_keys=True)})


def _content(source: bytes) -> dict[str, Any]:
    content = metadata(source, _METADATA)
    if content["schema_version"] != SCHEMA_VERSION:
        raise _damaged(f"schema version {content['schema_version']} is not {SCHEMA_VERSION}")
    return content


def _tensors(source: bytes) -> dict[str, Tensor]:
    tensors = safetensors.torch.load(source)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise _damaged(f"{name} has a number that is not finite")
    return tensors


def _dense(learner: Learner) -> dict[str, Tensor]:
    """What belongs to no item: the dense weights, their moments, and the small rest."""
    tensors = {name: parameter.detach() for name, parameter in dense_parameters(learner)}
    for name, parameter in dense_parameters(learner):
        for key, moment in learner.adam.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = moment
    tensors["calibration"] = learner.heads.calibration
    tensors["trends.scale"] = torch.from_numpy(learner.trends.scale)
    removed = [row for row, item_id in enumerate(learner.item_ids, start=1) if not learner.row(item_id)]
    tensors["removed_rows"] = torch.tensor(removed, dtype=torch.int64)
    return tensors


def _tables(learner: Learner) -> dict[str, Tensor]:
    """What belongs to the items, by row; the tensors are the learner's own."""
    return {
        "id_embedding": learner.item_tower.id_embedding.data,
        "id_adam.mean": learner.id_adam.mean,
        "id_adam.square": learner.id_adam.square,
        "id_adam.steps": learner.id_adam.steps,
        "item_features": learner.item_features,
        "counts": torch.from_numpy(learner.counts),
        "trends.weights": torch.from_numpy(learner.trends.weights),
    }


def _of_rows(learner: Learner, rows: np.ndarray) -> dict[str, Tensor]:
    tensors = {name: table[torch.from_numpy(rows)] for name, table in _tables(learner).items()}
    return tensors | {f"successors.{name}": tensor for name, tensor in learner.successors.state(rows).items()}


def _ids(learner: Learner, start: int) -> dict[str, Tensor]:
    encoded = [item_id.encode() for item_id in learner.item_ids[start:]]
    return {
        "item_ids": torch.from_numpy(np.frombuffer(b"".join(encoded), np.uint8).copy()),
        "item_id_ends": torch.from_numpy(np.cumsum([len(part) for part in encoded], dtype=np.int64)),
    }


def _fill(learner: Learner, content: dict[str, Any], tensors: dict[str, Tensor], rows: np.ndarray) -> None:
    """Take over what a file holds: new items, the rows' parts of the tables, and all that belongs to no item."""
    blob, ends = tensors["item_ids"].numpy().tobytes(), tensors["item_id_ends"].tolist()
    item_ids = [blob[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
    learner.add_items(item_ids, np.zeros((len(item_ids), learner.config.tower.feature_dimension), np.float16))
    learner.restore_items()
    removed = tensors["removed_rows"].tolist()
    if not all(1 <= row <= len(learner.item_ids) for row in removed):
        raise _damaged("removed_rows has one that no item has")
    learner.remove_items([learner.item_ids[row - 1] for row in removed])
    for name, named in (("rows", rows), ("successors.rows", tensors["successors.rows"].numpy())):
        if len(named) and not 0 <= named.min() <= named.max() <= len(learner.item_ids):
            raise _damaged(f"{name} has one that none of its {len(learner.item_ids)} items has")
    at = torch.from_numpy(rows)
    for name, table in _tables(learner).items():
        _expect(name, tensors[name], table[at])
        table[at] = tensors[name]
    learner.successors.load_state({name: tensors[f"successors.{name}"] for name in ("lengths", "rows", "counts")}, rows)
    for name, parameter in dense_parameters(learner):
        _expect(name, tensors[name], parameter)
        parameter.data.copy_(tensors[name])
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"adam.{key}.{name}" in tensors]
        learner.adam.state[parameter] = {key: tensors[f"adam.{key}.{name}"] for key in keys}
    _expect("calibration", tensors["calibration"], learner.heads.calibration)
    learner.heads.calibration.copy_(tensors["calibration"])
    _expect("trends.scale", tensors["trends.scale"], torch.from_numpy(learner.trends.scale))
    learner.trends.scale = tensors["trends.scale"].numpy()
    learner.rng.bit_generator.state = content["rng"]
    learner.watermark = int(content["watermark"])
    learner.blend = Blend.from_dict(content["blend"])
    learner.beside_trend = bool(content["beside_trend"])
    learner.value_counts = np.array(content["value_counts"], np.int64)
    learner.take_tower_config(TowerConfig.from_dict(content["config"]["tower"]))
    learner.drop_table()


def _expect(name: str, found: Tensor, wanted: Tensor) -> None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise _damaged(f"{name} is {tuple(found.shape)} {found.dtype}, not {tuple(wanted.shape)} {wanted.dtype}")


def metadata(source: bytes, name: str) -> dict[str, Any]:
    """A JSON object from the metadata of a safetensors file in memory; the library reads metadata from paths only.

    Raises:
        ValueError, KeyError: when there is none.
    """
    length = int.from_bytes(source[:8], "little")
    header = parse_json(source[8 : 8 + length])
    content: dict[str, Any] = parse_json(header["__metadata__"][name])
    return content


def _damaged(reason: str) -> ArtifactError:
    return ArtifactError("load checkpoint", _SHOWN, reason)
