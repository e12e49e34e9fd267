"""A file is hashed once for all processes that share it, and anew when another took its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headwater_core.artifact_store import ArtifactStore
from headwater_core.errors import ArtifactError
from headwater_core.verified_files import VerifiedFiles


@pytest.fixture
def verified(tmp_path: Path) -> VerifiedFiles:
    folder = tmp_path / "notes"
    folder.mkdir()
    return VerifiedFiles(folder)


def test_one_of_many_verifies(verified: VerifiedFiles, tmp_path: Path) -> None:
    """The others wait for it, and take its word."""
    file = tmp_path / "file"
    file.write_text("content")
    times: list[int] = []

    def verify() -> Path:
        times.append(1)
        return file

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: verified.once("a", verify, file), range(32)))
    assert (found, times) == ([file] * 32, [1])
    assert verified.once("b", verify, file) == file
    assert len(times) == 2


def test_what_could_not_be_verified_is_tried_again(verified: VerifiedFiles, tmp_path: Path) -> None:
    """No note is left of a failure."""
    file = tmp_path / "file"
    file.write_text("content")

    def fail() -> Path:
        raise ArtifactError("read", str(file), "is damaged")

    for _ in range(2):
        with pytest.raises(ArtifactError):
            verified.once("a", fail, file)
    assert verified.once("a", lambda: file, file) == file


def test_another_file_in_its_place_is_verified(verified: VerifiedFiles, tmp_path: Path) -> None:
    """A blob that is damaged after it was verified, or put there anew, does not pass for the one that was."""
    url = str(tmp_path / "store")
    entry = ArtifactStore(url).put_blob(b"the right content")
    store = ArtifactStore(url, verified=verified)
    path = store.open_blob(entry)
    assert store.open_blob(entry) == path
    path.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        store.open_blob(entry)
    path.write_bytes(b"the wrong content")
    with pytest.raises(ArtifactError, match="hashes to"):
        store.open_blob(entry)


def test_copies_of_a_remote_store_are_shared(verified: VerifiedFiles, tmp_path: Path) -> None:
    """Fetched once; fetched again when the copy is gone."""
    url = f"memory://verified-{tmp_path.name}"
    entry = ArtifactStore(url, cache_dir=tmp_path / "writer").put_blob(b"content")
    stores = [ArtifactStore(url, cache_dir=tmp_path / "cache", verified=verified) for _ in range(2)]
    copies = [store.open_blob(entry) for store in stores]
    assert copies[0] == copies[1]
    inode = copies[0].stat().st_ino
    assert stores[1].open_blob(entry).stat().st_ino == inode
    copies[0].unlink()
    assert stores[0].open_blob(entry).read_bytes() == b"content"
