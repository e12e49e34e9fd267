"""The artifact store, on a local folder and on an object store (fsspec's, in memory)."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headwater_core.artifact_store import ArtifactStore
from headwater_core.errors import ArtifactError
from headwater_core.manifest import REQUIRED_FILES, FileEntry, Manifest
from headwater_core.verified_files import VerifiedFiles

LONG_AGO_S = 1_000_000_000


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    url = str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}"
    store = ArtifactStore(url, cache_dir=tmp_path / "cache")
    yield store
    store.close()


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def published(store: ArtifactStore, number: int, *contents: bytes) -> Manifest:
    files = {name: store.put_blob(name.encode()) for name in REQUIRED_FILES}
    files |= {f"extra{index}.bin": store.put_blob(content) for index, content in enumerate(contents)}
    manifest = Manifest(
        tenant=store.tenant,
        number=number,
        parent=0,
        full=True,
        publish_time_us=1,
        watermark=0,
        catalogue_revision=0,
        dimension=4,
        item_count=0,
        text_encoder="x/mean",
        tower_config={},
        files=files,
    )
    store.write_manifest(number, manifest)
    return manifest


def blob_path(tmp_path: Path, entry: FileEntry) -> Path:
    return tmp_path / "store" / "default" / "blobs" / entry.sha256


def test_a_blob_comes_back_whole(store: ArtifactStore, tmp_path: Path) -> None:
    """Bytes and files are stored by their sha256 and opened as a local file."""
    entry = store.put_blob(b"abc")
    assert entry == FileEntry(sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", bytes=3)
    assert store.open_blob(entry).read_bytes() == b"abc"
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert store.put_blob(file) == entry


def test_a_blob_is_not_written_twice(local: ArtifactStore, tmp_path: Path) -> None:
    """What is there already stays the same file: a server may have it mapped."""
    path = blob_path(tmp_path, local.put_blob(b"abc"))
    inode = path.stat().st_ino
    local.put_blob(b"abc")
    assert path.stat().st_ino == inode


def test_a_blob_cut_short_by_a_crash_is_written_again(local: ArtifactStore, tmp_path: Path) -> None:
    """A blob of another length than its content is not taken for it."""
    entry = local.put_blob(b"abc")
    blob_path(tmp_path, entry).write_bytes(b"a")
    local.put_blob(b"abc")
    assert local.open_blob(entry).read_bytes() == b"abc"


def test_missing_and_damaged_blobs_are_reported(local: ArtifactStore, tmp_path: Path) -> None:
    """Opening verifies length and hash every time, and says what is wrong."""
    entry = local.put_blob(b"abc")
    assert local.open_blob(entry)
    blob_path(tmp_path, entry).write_bytes(b"abd")
    with pytest.raises(ArtifactError, match="hashes to"):
        local.open_blob(entry)
    blob_path(tmp_path, entry).write_bytes(b"abcd")
    with pytest.raises(ArtifactError, match="is 4 bytes"):
        local.open_blob(entry)
    blob_path(tmp_path, entry).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        local.open_blob(entry)


def test_a_damaged_copy_of_a_remote_blob_is_fetched_again(tmp_path: Path) -> None:
    """The cache is trusted no more than the store; it can be trimmed to what is in use."""
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path / "cache")
    entry, other = store.put_blob(b"abc"), store.put_blob(b"def")
    store.open_blob(entry).write_bytes(b"abd")
    assert store.open_blob(entry).read_bytes() == b"abc"
    store.open_blob(other)
    assert store.trim_cache([entry], grace_s=0) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [entry.sha256]
    with pytest.raises(ArtifactError):
        store.open_blob(FileEntry(sha256="0" * 64, bytes=1))


def test_processes_do_not_trim_what_others_are_loading(tmp_path: Path) -> None:
    """A copy stays for a while after it was fetched or opened again; that it was opened is no change of it."""
    url, cache = f"memory://{uuid.uuid4().hex}", tmp_path / "cache"
    verified = VerifiedFiles(tmp_path)
    loading, trimming = (ArtifactStore(url, cache_dir=cache, verified=verified) for _ in range(2))
    fetched, again, unused = (loading.put_blob(content) for content in (b"abc", b"def", b"ghi"))
    copies = [loading.open_blob(entry) for entry in (fetched, again, unused)]
    for copy in copies[1:]:
        os.utime(copy, (LONG_AGO_S, LONG_AGO_S))
    loading.open_blob(again)  # verifies it anew
    os.utime(copies[1], (LONG_AGO_S, LONG_AGO_S))
    loading.open_blob(again)  # takes its own word
    assert trimming.trim_cache([]) == 1
    assert [copy.exists() for copy in copies] == [True, True, False]
    assert copies[1].stat().st_mtime == LONG_AGO_S


def test_a_copy_of_another_user_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its use cannot be noted the generation loads all the same."""
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path / "cache")
    entry = store.put_blob(b"abc")
    store.open_blob(entry)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "utime", refused)
    assert store.open_blob(entry).read_bytes() == b"abc"


def test_what_a_killed_process_was_fetching_is_trimmed(tmp_path: Path) -> None:
    """What another fetches now is not, nor is a file that is none of the store's."""
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path)
    old, young, other = (tmp_path / name for name in ("partial-old", "partial-young", "other"))
    for path in (old, young, other):
        path.write_bytes(b"ab")
    for path in (old, other):
        os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    assert store.trim_cache([]) == 1
    assert sorted(tmp_path.iterdir()) == [other, young]


def test_copies_of_what_is_collected_go_too(tmp_path: Path) -> None:
    """Whoever retires generations may be the only one who uses the folder; what a generation names stays."""
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path)
    kept, gone = (list(published(store, number).files.values()) for number in (2, 1))
    for entry in (*kept, *gone):
        store.open_blob(entry)
    store.collect_garbage({2}, grace_s=0)
    assert {path.name for path in tmp_path.iterdir()} == {entry.sha256 for entry in kept}


def test_a_generation_exists_once_its_manifest_does(store: ArtifactStore) -> None:
    """Manifests are listed in order, read back as written, and never changed."""
    second, first = published(store, 10), published(store, 9)
    assert store.list_generations() == [9, 10]
    assert (store.read_manifest(9), store.read_manifest(10)) == (first, second)
    with pytest.raises(ArtifactError, match="never changed"):
        store.write_manifest(9, first)


def test_a_manifest_cannot_come_before_its_blobs(store: ArtifactStore) -> None:
    """A generation whose file is not stored does not come into being."""
    manifest = published(store, 1)
    absent = FileEntry(sha256="0" * 64, bytes=1)
    broken = manifest.model_copy(update={"number": 2, "files": {**manifest.files, "extra.bin": absent}})
    with pytest.raises(ArtifactError, match=r"extra\.bin"):
        store.write_manifest(2, broken)
    assert store.list_generations() == [1]


def test_a_manifest_in_the_wrong_place_is_refused(local: ArtifactStore, tmp_path: Path) -> None:
    """A manifest that says another number or tenant than where it lies is damage; so is a missing one."""
    published(local, 1)
    folder = tmp_path / "store" / "default" / "generations"
    (folder / "1").rename(folder / "2")
    with pytest.raises(ArtifactError, match="is generation 1"):
        local.read_manifest(2)
    with pytest.raises(ArtifactError, match="missing"):
        local.read_manifest(1)


def test_garbage_is_what_no_kept_generation_names(store: ArtifactStore) -> None:
    """Generations not kept go, with the blobs that only they used; shared blobs stay."""
    old = published(store, 1, b"only old", b"shared")
    new = published(store, 2, b"shared", b"only new")
    assert store.collect_garbage({2}, grace_s=0) == 1
    assert store.list_generations() == [2]
    for entry in new.files.values():
        assert store.open_blob(entry)
    with pytest.raises(ArtifactError):
        store.open_blob(old.files["extra0.bin"])


def test_young_files_are_not_garbage(store: ArtifactStore) -> None:
    """Within the grace neither a blob without a manifest nor a fresh manifest is touched."""
    manifest = published(store, 1, b"published")
    waiting = store.put_blob(b"its manifest comes next")
    assert store.collect_garbage(set(), grace_s=60) == 0
    assert store.read_manifest(1) == manifest
    assert store.open_blob(waiting)


def test_a_blob_put_again_is_young_again(local: ArtifactStore, tmp_path: Path) -> None:
    """A blob that lay unnamed for long and is about to be named by a new manifest survives the collector."""
    entry = local.put_blob(b"abc")
    os.utime(blob_path(tmp_path, entry), (0, 0))
    local.put_blob(b"abc")
    assert local.collect_garbage(set(), grace_s=60) == 0
    os.utime(blob_path(tmp_path, entry), (0, 0))
    assert local.collect_garbage(set(), grace_s=60) == 1


def test_an_unreadable_manifest_stops_the_collector(local: ArtifactStore, tmp_path: Path) -> None:
    """When it is not known what a kept generation names, no blob is deleted."""
    published(local, 1)
    orphan = local.put_blob(b"abc")
    (tmp_path / "store" / "default" / "generations" / "1" / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError):
        local.collect_garbage({1}, grace_s=0)
    assert local.open_blob(orphan)


def test_what_a_crash_leaves_behind_is_collected(local: ArtifactStore, tmp_path: Path) -> None:
    """Half-written files lie apart from the blobs, are never read, and go when they are old."""
    local.put_blob(b"abc")
    half = tmp_path / "store" / "default" / "tmp" / "half"
    half.write_bytes(b"ab")
    os.utime(half, (0, 0))
    local.collect_garbage(set(), grace_s=60)
    assert not half.exists()


def test_labels_are_mirrored(store: ArtifactStore) -> None:
    """The mirror says where a label pointed last; of a label never mirrored it says nothing."""
    assert store.read_label("stable") is None
    store.mirror_label("stable", 1)
    store.mirror_label("stable", 2)
    assert store.read_label("stable") == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"generation": "1"}', '{"generation": 0}', '{"generation": true}', "[" * 4000]
)
def test_a_damaged_mirror_is_reported(local: ArtifactStore, tmp_path: Path, content: str) -> None:
    """A mirror that cannot be read is an error, not generation nothing."""
    local.mirror_label("stable", 1)
    (tmp_path / "store" / "default" / "labels" / "stable.json").write_text(content)
    with pytest.raises(ArtifactError):
        local.read_label("stable")


def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    """Each tenant has generations of its own in one store."""
    published(ArtifactStore(str(tmp_path), "one"), 1)
    assert ArtifactStore(str(tmp_path), "two").list_generations() == []


OPERATIONS: dict[str, Callable[[ArtifactStore], object]] = {
    "put_blob": lambda store: store.put_blob(b"content"),
    "write_manifest": lambda store: published(store, 2),
    "read_manifest": lambda store: store.read_manifest(1),
    "list_generations": lambda store: store.list_generations(),
    "delete_generation": lambda store: store.delete_generation(1),
    "collect_garbage": lambda store: store.collect_garbage(set(), 0.0),
    "mirror_label": lambda store: store.mirror_label("stable", 1),
    "read_label": lambda store: store.read_label("stable"),
}


class Broken:
    """A file system in which everything fails in the same way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> object:
        raise self.error


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("error", [PermissionError("not yours"), TimeoutError("late"), RuntimeError("no credentials")])
def test_whatever_a_remote_store_raises_is_an_artifact_error(tmp_path: Path, name: str, error: Exception) -> None:
    """Clients of object stores have errors of their own; callers see one kind, with the reason."""
    store = ArtifactStore(f"memory://{uuid.uuid4().hex}", cache_dir=tmp_path)
    store._fs = Broken(error)
    with pytest.raises(ArtifactError, match=str(error)):
        OPERATIONS[name](store)


@pytest.mark.parametrize("name", OPERATIONS.keys() - {"list_generations", "collect_garbage", "read_label"})
def test_a_local_folder_that_cannot_be_used_is_an_artifact_error(tmp_path: Path, name: str) -> None:
    """Where the store should be is a file: no operation answers with an error of the system."""
    (tmp_path / "store").write_bytes(b"in the way")
    with pytest.raises(ArtifactError):
        OPERATIONS[name](ArtifactStore(str(tmp_path / "store")))
