"""The manifest: a generation's index card, naming every file with its bytes and sha256. Written last, never changed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from headwater_core.errors import ArtifactError

SCHEMA_VERSION = 2
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
MAX_DIMENSION = 4096
MAX_INT64 = (1 << 63) - 1
"""What the wire and the database can hold of a number."""

USER_TOWER = "user_tower.safetensors"
ITEM_TOWER = "item_tower.safetensors"
"""The item tower's shared weights alone; the id embeddings are already in the item vectors."""
JOINT_HEADS = "joint_heads.safetensors"
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_DELTA = "checkpoint_delta.safetensors"
"""What of the training state is not as the checkpoint has it."""
DELTA = "delta"
CO_VISITS = "co_visits.safetensors"
CO_VISITS_DELTA = "co_visits_delta.safetensors"
TREND = "trend.json"
REQUIRED_FILES = (USER_TOWER, ITEM_TOWER, JOINT_HEADS)

_FILE_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)?(\.[a-z]+)*")


def index_file(shard: str) -> str:
    """The name of a base shard's FAISS index."""
    return f"{shard}.faiss"


def items_file(shard: str) -> str:
    """The name of a base shard's or the delta's item ids and exact vectors."""
    return f"{shard}.items.safetensors"


def _check_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"{name[:64]!r} is not a file name of a generation")
    return name


FileName = Annotated[str, AfterValidator(_check_name)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Frozen):
    """One blob: what it must hash to and how long it must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0, le=MAX_INT64)


class MeasuredIndex(_Frozen):
    """What was measured of a base shard's index before it was published. Told, not obeyed: the file says what it is."""

    kind: str = Field(min_length=1)
    recall: float = Field(ge=0, le=1)
    """The share of the hundred best items that a search finds."""
    search_us: float = Field(ge=0)
    """What a search took there, in microseconds."""


class Manifest(_Frozen):
    """All that is needed to load one generation and to know where it comes from."""

    schema_version: int = Field(default=SCHEMA_VERSION)
    tenant: str = Field(default="default", min_length=1)
    number: int = Field(ge=1, le=MAX_INT64)
    parent: int = Field(ge=0, le=MAX_INT64)
    """The generation it was made from; 0 for the first."""
    full: bool
    """Whether all item vectors were computed anew; else a delta over the parent's base shards."""
    publish_time_us: int = Field(ge=0, le=MAX_INT64)
    watermark: int = Field(ge=0, le=MAX_INT64)
    """The highest log position it has learned from."""
    catalogue_revision: int = Field(ge=0, le=MAX_INT64)
    """The catalogue revision up to which items and deletions are in it."""
    dimension: int = Field(ge=1, le=MAX_DIMENSION)
    item_count: int = Field(ge=0, le=MAX_INT64)
    """How many items can be retrieved: base and delta, less what is superseded or deleted."""
    text_encoder: str = Field(min_length=1)
    """The id of the text encoder whose features the towers read."""
    tower_config: dict[str, Any]
    files: dict[FileName, FileEntry] = Field(max_length=MAX_FILES)
    shards: tuple[FileName, ...] = ()
    """The base shards' names, in row order; each has an index file and an items file."""
    indexes: dict[FileName, MeasuredIndex] = Field(default_factory=dict, max_length=MAX_FILES)
    """By base shard, where it was measured."""
    delta: FileName | None = None
    co_visits: FileName | None = None
    """The file of what follows each item."""
    co_visits_delta: FileName | None = None
    """The file of what follows some items now, in place of what `co_visits` says."""
    trend: FileName | None = None
    """The file of what everybody came to of late."""
    blend: dict[str, float] = Field(default_factory=dict)
    """How co-visits and the trend join the towers' scores; without it, not at all."""
    ranker: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    """The learned ranker by feature: the weight, and between which values it holds; empty: none was learned yet."""
    metrics: dict[str, float] = Field(default_factory=dict)
    checkpoint_items: int = Field(default=0, ge=0, le=MAX_INT64)
    """How many items the checkpoint, without its delta, holds."""
    refusal: str = ""
    """Why it was never published; empty for what was."""

    @model_validator(mode="after")
    def _names_its_files(self) -> Self:
        if len(set(self.shards)) != len(self.shards):
            raise ValueError("a shard is listed twice")
        missing = [name for name in self.served_files if name not in self.files]
        if missing:
            raise ValueError(f"files lacks {', '.join(missing[:5])}")
        return self

    @property
    def served_files(self) -> list[str]:
        """The names of the files that serving needs; what else there is, training resumes from."""
        needed = [*REQUIRED_FILES]
        for shard in self.shards:
            needed += [index_file(shard), items_file(shard)]
        if self.delta is not None:
            needed.append(items_file(self.delta))
        return needed + [name for name in (self.co_visits, self.co_visits_delta, self.trend) if name is not None]

    @property
    def total_bytes(self) -> int:
        """The bytes of all files."""
        return sum(entry.bytes for entry in self.files.values())

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, path: str) -> Manifest:
        """Read a stored manifest.

        Args:
            content: what was stored.
            path: where, for the error.

        Raises:
            ArtifactError: when it is too large, no manifest, or of another schema version.
        """
        if len(content) > MAX_MANIFEST_BYTES:
            raise ArtifactError("read", path, f"is over {MAX_MANIFEST_BYTES} bytes")
        try:
            manifest = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArtifactError("read", path, f"{where or 'manifest'}: {first['msg']}") from error
        if manifest.schema_version != SCHEMA_VERSION:
            reason = f"has schema version {manifest.schema_version}; this version reads {SCHEMA_VERSION}"
            raise ArtifactError("read", path, reason)
        return manifest
