"""A file is hashed once for all processes that share it, and anew when another took its place."""

from __future__ import annotations

import errno
import fcntl
import io
import math
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headwater_core.artifact_store import ArtifactStore
from headwater_core.errors import ArtifactError
from headwater_core.verified_files import VerifiedFiles

LONG_AGO_S = 1_000_000_000
DEADLINE_S = 20


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


def test_without_the_folder_each_verifies_for_itself(verified: VerifiedFiles, tmp_path: Path) -> None:
    """What clears temporary folders away does not keep generations from being loaded; notes are taken again after."""
    file = tmp_path / "file"
    file.write_text("content")
    times: list[int] = []

    def verify() -> Path:
        times.append(1)
        return file

    (tmp_path / "notes").rmdir()
    assert [verified.once("a", verify, file) for _ in range(2)] == [file, file]
    assert len(times) == 2
    (tmp_path / "notes").mkdir()
    assert [verified.once("a", verify, file) for _ in range(2)] == [file, file]
    assert len(times) == 3


class FullNote(io.FileIO):
    """On a disk that takes nothing more."""

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_each_verifies_for_itself(
    verified: VerifiedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note can be opened and not written."""
    file = tmp_path / "file"
    file.write_text("content")
    times: list[int] = []

    def verify() -> Path:
        times.append(1)
        return file

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda path, *_, **__: FullNote(path, "a+"))
        assert [verified.once("a", verify, file) for _ in range(2)] == [file, file]
    assert len(times) == 2


def test_a_file_that_cannot_be_read_is_read_once(verified: VerifiedFiles, tmp_path: Path) -> None:
    """An error of its own disk is told, not taken for one of the note's."""
    times: list[int] = []

    def fail() -> Path:
        times.append(1)
        raise OSError("the store's disk fails")

    with pytest.raises(OSError, match="the store's disk fails"):
        verified.once("a", fail, tmp_path / "file")
    assert len(times) == 1


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


@pytest.mark.parametrize("is_local", [True, False])
def test_what_serves_no_more_leaves_no_note(verified: VerifiedFiles, tmp_path: Path, *, is_local: bool) -> None:
    """A server of many generations has notes on what is loaded, and for a while on what was or is about to be."""
    url = str(tmp_path / "store") if is_local else f"memory://{uuid.uuid4().hex}"
    store = ArtifactStore(url, cache_dir=tmp_path / "cache", verified=verified)
    kept, gone, young = entries = [store.put_blob(content) for content in (b"kept", b"gone", b"young")]
    for entry in entries:
        store.open_blob(entry)
    notes = tmp_path / "notes"
    for entry in (kept, gone):
        os.utime(notes / f"{entry.sha256}.verified", (LONG_AGO_S, LONG_AGO_S))
    store.trim_cache([kept])
    assert {note.stem for note in notes.iterdir()} == {kept.sha256, young.sha256}
    assert store.open_blob(gone).read_bytes() == b"gone"


def test_a_note_that_goes_while_others_wait_for_it_costs_a_verification(
    verified: VerifiedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits takes its word; who comes later verifies, and writes the note that stays."""
    file = tmp_path / "file"
    file.write_text("content")
    has_opened, may_end = threading.Semaphore(0), threading.Event()
    lock, times = fcntl.flock, []

    def locked(*arguments: Any) -> None:
        has_opened.release()
        lock(*arguments)

    def verify_slowly() -> Path:
        times.append("slowly")
        assert may_end.wait(DEADLINE_S)
        return file

    def verify() -> Path:
        times.append("at once")
        return file

    monkeypatch.setattr(fcntl, "flock", locked)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(verified.once, "a", verify_slowly, file) for _ in range(2)]
        for _ in waiting:
            assert has_opened.acquire(timeout=DEADLINE_S)
        verified.forget((), math.inf)
        assert verified.once("a", verify, file) == file
        may_end.set()
        assert [each.result(DEADLINE_S) for each in waiting] == [file, file]
    assert verified.once("a", verify, file) == file
    assert sorted(times) == ["at once", "slowly"]
