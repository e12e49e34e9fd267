"""safetensors files of item ids and numbers about them, written once and mapped into memory by every reader.

The safetensors package copies a tensor when it hands it to numpy, so the header is read here and the tensors are
views into one read-only mapping. Every size is checked before it is used: the file may come from anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from headwater_core.errors import ArtifactError
from headwater_core.json_reading import parse_json

_MAX_HEADER_BYTES = 1 << 20
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F32": np.dtype(np.float32),
}

Layout = Mapping[str, tuple[str, int]]
"""Tensor name → (safetensors dtype, number of dimensions): exactly what a file must hold."""


def pack_ids(ids: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Ids as one UTF-8 blob (bytes,) and the offsets (n + 1,) at which each begins and ends."""
    encoded = [item_id.encode() for item_id in ids]
    offsets = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum([len(item_id) for item_id in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets


def unpack_ids(blob: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], path: Path) -> tuple[str, ...]:
    """The ids that pack_ids packed.

    Raises:
        ArtifactError: when the offsets do not cut the blob into non-empty UTF-8 pieces.
    """
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(blob) or np.any(offsets[1:] <= offsets[:-1]):
        raise ArtifactError("read", str(path), "has offsets that do not fit its ids")
    raw = blob.tobytes()
    bounds = offsets.tolist()
    try:
        return tuple(raw[start:end].decode() for start, end in itertools.pairwise(bounds))
    except UnicodeDecodeError as error:
        raise ArtifactError("read", str(path), "has an id that is not UTF-8") from error


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write arrays as safetensors; `path` must not exist yet.

    Raises:
        ArtifactError: when it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError("write", str(path), str(error)) from error


def map_tensors(path: Path, layout: Layout) -> dict[str, npt.NDArray[np.generic]]:
    """Map the tensors of a safetensors file, read-only.

    Args:
        path: the file; it must not be written over while the arrays live.
        layout: the tensors it must hold, and no others.

    Raises:
        ArtifactError: when the file is missing, damaged, or holds anything else.
    """
    try:
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise ArtifactError("map", str(path), str(error)) from error
    header_bytes = int(content[:8].view("<u8")[0]) if len(content) >= 8 else 0
    if not 2 <= header_bytes <= min(_MAX_HEADER_BYTES, len(content) - 8):
        raise ArtifactError("map", str(path), "has no safetensors header")
    try:
        header = parse_json(content[8 : 8 + header_bytes].tobytes())
        header.pop("__metadata__", None)
        described = {name: _Described(**description) for name, description in header.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError("map", str(path), "has a damaged header") from error
    if described.keys() != layout.keys():
        raise ArtifactError("map", str(path), f"holds {sorted(described)[:10]}, not {sorted(layout)}"[:500])
    data = np.asarray(content[8 + header_bytes :])
    return {name: described[name].view(data, layout[name], f"{path}: {name}") for name in layout}


class _Described:
    """One tensor as the header describes it; nothing of it is believed before `view` has checked it."""

    def __init__(self, dtype: object, shape: object, data_offsets: object) -> None:
        self.dtype, self.shape, self.offsets = dtype, shape, data_offsets

    def view(self, data: npt.NDArray[np.uint8], expected: tuple[str, int], shown: str) -> npt.NDArray[np.generic]:
        dtype_name, dimensions = expected
        dtype = _DTYPES[dtype_name]
        if self.dtype != dtype_name or not _are_sizes(self.shape, dimensions) or not _are_sizes(self.offsets, 2):
            raise ArtifactError("map", shown, f"is not a {dtype_name} tensor of {dimensions} dimensions")
        assert isinstance(self.shape, list)
        assert isinstance(self.offsets, list)
        start, end = self.offsets
        count = 1
        for size in self.shape:
            count *= size
        if not start <= end <= len(data) or end - start != count * dtype.itemsize or start % dtype.itemsize:
            raise ArtifactError("map", shown, "does not fit the file")
        tensor: npt.NDArray[np.generic] = data[start:end].view(dtype).reshape(self.shape)
        return tensor


def _are_sizes(values: object, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) is int and 0 <= value < 1 << 48 for value in values)
    )
