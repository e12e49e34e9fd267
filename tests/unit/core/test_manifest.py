"""The manifest: what it must name, and what is refused when one is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from headwater_core.errors import ArtifactError
from headwater_core.manifest import (
    CO_VISITS,
    CO_VISITS_DELTA,
    MAX_MANIFEST_BYTES,
    REQUIRED_FILES,
    FileEntry,
    Manifest,
    index_file,
    items_file,
)

ENTRY = FileEntry(sha256="0" * 64, bytes=7)


def manifest(**changes: Any) -> Manifest:
    shards = ("shards/0000", "shards/0001")
    names = [*REQUIRED_FILES, items_file("delta"), CO_VISITS, CO_VISITS_DELTA, "checkpoint.safetensors"]
    names += [name for shard in shards for name in (index_file(shard), items_file(shard))]
    content: dict[str, Any] = {
        "number": 3,
        "parent": 2,
        "full": False,
        "publish_time_us": 5,
        "watermark": 6,
        "catalogue_revision": 7,
        "dimension": 64,
        "item_count": 9,
        "text_encoder": "abc/mean",
        "tower_config": {"dimension": 64},
        "files": dict.fromkeys(names, ENTRY),
        "shards": shards,
        "indexes": {shards[0]: {"kind": "ivf", "recall": 0.98, "search_us": 250.0}},
        "delta": "delta",
        "co_visits": CO_VISITS,
        "co_visits_delta": CO_VISITS_DELTA,
        "blend": {"strength": 1.5},
        "metrics": {"prequential_hr_at_10": 0.25},
    }
    return Manifest(**{**content, **changes})


def test_a_manifest_comes_back_as_it_was_written() -> None:
    """JSON and back changes nothing, and the bytes of all files are summed."""
    written = manifest()
    assert Manifest.from_json(written.to_json(), "m") == written
    assert written.total_bytes == 7 * len(written.files)


def test_a_manifest_from_before_indexes_were_measured_is_read() -> None:
    """It says nothing of them."""
    content = json.loads(manifest().to_json())
    del content["indexes"]
    assert Manifest.from_json(json.dumps(content).encode(), "m").indexes == {}


@pytest.mark.parametrize(
    "missing",
    [*REQUIRED_FILES, "shards/0001.faiss", "shards/0000.items.safetensors", CO_VISITS, CO_VISITS_DELTA],
)
def test_a_file_that_is_needed_but_not_named_is_refused(missing: str) -> None:
    """A manifest that does not name what loading needs is no manifest."""
    files = {name: entry for name, entry in manifest().files.items() if name != missing}
    with pytest.raises(ValueError, match=missing):
        manifest(files=files)


@pytest.mark.parametrize("name", ["../etc/passwd", "/abs", "a/b/c", "A", "", "a b", "a\x00", "a" + "/..", "ü"])
def test_file_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    """A file name is one or two plain words; nothing that climbs out of a folder."""
    with pytest.raises(ValueError, match="file name"):
        manifest(files={**manifest().files, name: ENTRY})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.update(number=0), "number"),
        (lambda content: content.update(watermark=-1), "watermark"),
        (lambda content: content.update(dimension=10**9), "dimension"),
        (lambda content: content.update(watermark=1 << 63), "watermark"),
        (lambda content: content.update(publish_time_us=10**30), "publish_time_us"),
        (lambda content: content.update(unheard_of=1), "unheard_of"),
        (lambda content: content.update(co_visits="../x"), "co_visits"),
        (lambda content: content["blend"].update(strength="much"), "blend"),
        (lambda content: content.pop("files"), "files"),
        (lambda content: content.update(shards=["shards/0000", "shards/0000"]), "twice"),
        (lambda content: content["files"]["user_tower.safetensors"].update(sha256="../x"), "sha256"),
        (lambda content: content["files"]["user_tower.safetensors"].update(bytes=-1), "bytes"),
        (lambda content: content.update(schema_version=3), "schema version 3"),
    ],
)
def test_damaged_content_is_reported_with_the_field(change: Callable[[dict[str, Any]], None], named: str) -> None:
    """The error of a manifest that cannot be read says which file and which field."""
    content = json.loads(manifest().to_json())
    change(content)
    with pytest.raises(ArtifactError, match=named) as caught:
        Manifest.from_json(json.dumps(content).encode(), "generations/3/manifest.json")
    assert caught.value.path == "generations/3/manifest.json"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b" " * (MAX_MANIFEST_BYTES + 1)])
def test_what_is_no_manifest_is_refused(content: bytes) -> None:
    """Neither an empty, a cut, a foreign nor a huge file is taken for a manifest."""
    with pytest.raises(ArtifactError):
        Manifest.from_json(content, "m")
