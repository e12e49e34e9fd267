"""The artifact store: immutable files by content, manifests that name them, and a mirror of the labels.

    <url>/<tenant>/blobs/<sha256>                        a file, once, however many generations share it
    <url>/<tenant>/generations/<number>/manifest.json    written after every blob it names
    <url>/<tenant>/labels/<name>.json                    a mirror; the labels themselves live in SQL

A local folder by default, any fsspec URL else. Nothing is ever written over: a process may have a file mapped, and
writing into it would kill the reader with a bus error. Locally every file is written beside, synced and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from headwater_core.errors import ArtifactError
from headwater_core.json_reading import parse_json
from headwater_core.manifest import MAX_INT64, MAX_MANIFEST_BYTES, FileEntry, Manifest
from headwater_core.verified_files import VerifiedFiles

DEFAULT_GRACE_S = 600.0
_PARTIAL = "partial-"
"""So begin the names of copies that are being fetched."""
_CHUNK_BYTES = 1 << 20
_MAX_LABEL_BYTES = 4096

_log = structlog.get_logger(__name__)


class ArtifactStore:
    """One tenant's generations, in a folder or an object store. Safe for many readers beside one writer."""

    def __init__(
        self,
        url: str,
        tenant: str = "default",
        cache_dir: Path | None = None,
        verified: VerifiedFiles | None = None,
    ) -> None:
        """Open the store at `url`; a local folder is made when the first file is written.

        Args:
            url: a local path or an fsspec URL.
            tenant: whose generations.
            cache_dir: where verified copies of a remote store's blobs are kept, also for other processes; None: a
                temporary folder.
            verified: what processes that share these files have verified; None: every blob is verified when opened.
        """
        self._fs: Any
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = f"{root.rstrip('/')}/{tenant}"
        self._tenant = tenant
        self._verified = verified
        self._local = isinstance(self._fs, LocalFileSystem)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if cache_dir is None and not self._local:
            self._temporary = tempfile.TemporaryDirectory(prefix="headwater-cache-", ignore_cleanup_errors=True)
            cache_dir = Path(self._temporary.name)
        self._cache_dir = cache_dir

    @property
    def tenant(self) -> str:
        """Whose generations these are."""
        return self._tenant

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self._local

    def close(self) -> None:
        """Remove the temporary copies, if any."""
        if self._temporary is not None:
            self._temporary.cleanup()

    # --- blobs

    def put_blob(self, content: Path | bytes) -> FileEntry:
        """Store a file under its sha256; a blob that is there already is not written again.

        Args:
            content: the bytes, or the local file that holds them.

        Raises:
            ArtifactError: when it cannot be written.
        """
        if isinstance(content, Path):
            entry = _describe(content)
        else:
            entry = FileEntry(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        path = self._blob_path(entry)
        if self._present(path, entry.bytes):
            self._refresh(path, content)
        else:
            self._write(path, content)
        return entry

    def open_blob(self, entry: FileEntry) -> Path:
        """A local path of the blob, its length and sha256 checked: now, or before by one with whom that is shared.

        Raises:
            ArtifactError: when it is missing or damaged.
        """
        if not self._local:
            self._mark(self._copy_path(entry))
        if self._verified is None:
            return self._checked(entry)
        path = self._blob_path(entry) if self._local else self._copy_path(entry)
        return self._verified.once(entry.sha256, lambda: self._checked(entry), Path(path))

    def _checked(self, entry: FileEntry) -> Path:
        path = self._blob_path(entry)
        if self._local:
            _verify(Path(path), entry)
            return Path(path)
        return self._fetch(path, entry)

    def _copy_path(self, entry: FileEntry) -> Path:
        assert self._cache_dir is not None
        return self._cache_dir / entry.sha256

    def _mark(self, copy: Path) -> None:
        """Note that a copy is in use again: as its last access, since its last change tells which file was verified.

        One that is not there is about to be fetched; one of another user is read without.
        """
        with self._failures("mark", str(copy)), suppress(FileNotFoundError, PermissionError):
            os.utime(copy, ns=(time.time_ns(), copy.stat().st_mtime_ns))

    def trim_cache(self, keep: Iterable[FileEntry], grace_s: float = DEFAULT_GRACE_S) -> int:
        """Forget the local copies of a remote store's blobs that are not in `keep`, and what was never fetched whole.

        What was fetched or opened within the grace stays: it may belong to a generation that another process, which has
        the same folder, is loading. A copy that is still mapped stays readable to whoever mapped it. Notes on what was
        verified go as well, of any store's blobs.

        Args:
            keep: the blobs whose copies must stay.
            grace_s: how long ago a copy must have been used last, or a blob verified, before it may go.

        Returns:
            how many copies went.

        Raises:
            ArtifactError: when one cannot be removed.
        """
        kept = {entry.sha256 for entry in keep}
        unused_since_s = time.time() - grace_s
        if self._verified is not None:
            with self._failures("trim", "what was verified"):
                self._verified.forget(kept, unused_since_s)
        if self._local or self._cache_dir is None or not self._cache_dir.is_dir():
            return 0
        gone = 0
        with self._failures("trim", str(self._cache_dir)):
            for path in self._cache_dir.iterdir():
                is_ours = len(path.name) == 64 or path.name.startswith(_PARTIAL)
                if is_ours and path.name not in kept and _is_unused(path, unused_since_s):
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone

    # --- manifests

    def write_manifest(self, number: int, manifest: Manifest) -> None:
        """Make a generation exist; every blob it names must be stored before.

        Raises:
            ArtifactError: when a blob is missing, the number is taken or nothing can be written.
        """
        path = self._manifest_path(number)
        if manifest.number != number or manifest.tenant != self._tenant:
            raise ArtifactError("write", path, f"is generation {manifest.number} of tenant {manifest.tenant}")
        if self._exists(path):
            raise ArtifactError("write", path, "exists; a generation is never changed")
        for name, entry in manifest.files.items():
            if not self._present(self._blob_path(entry), entry.bytes):
                raise ArtifactError("write", path, f"names {name}, whose blob {entry.sha256} is not stored")
        self._write(path, manifest.to_json())

    def read_manifest(self, number: int) -> Manifest:
        """The manifest of one generation.

        Raises:
            ArtifactError: when it is missing, damaged, of an unknown schema or not of this tenant and number.
        """
        path = self._manifest_path(number)
        manifest = Manifest.from_json(self._read(path, MAX_MANIFEST_BYTES + 1), path)
        if manifest.number != number or manifest.tenant != self._tenant:
            raise ArtifactError("read", path, f"is generation {manifest.number} of tenant {manifest.tenant}")
        return manifest

    def list_generations(self) -> list[int]:
        """The numbers of all stored generations, ascending."""
        folders = (Path(path).name for path in self._list("generations"))
        numbers = sorted(int(name) for name in folders if name.isascii() and name.isdigit())
        return [number for number in numbers if self._exists(self._manifest_path(number))]

    def delete_generation(self, number: int) -> None:
        """Remove a generation's manifest; its blobs go with the next collect_garbage."""
        self._remove(f"{self._root}/generations/{number}")

    def collect_garbage(
        self,
        keep: set[int],
        grace_s: float = DEFAULT_GRACE_S,
        last_seen: int = MAX_INT64,
        seen_s: float | None = None,
    ) -> int:
        """Delete the generations not in `keep` and the blobs that no remaining manifest names, local copies as well.

        Whatever was written or put again within the grace, or since, stays: it may belong to a generation being
        published.

        Args:
            keep: the generations that must stay.
            grace_s: how old a manifest or a blob must be before it may go.
            last_seen: the newest generation that `keep` was chosen from; later ones stay.
            seen_s: when it was chosen, in seconds since 1970 UTC; None: now.

        Returns:
            how many blobs were deleted.

        Raises:
            ArtifactError: when a remaining manifest cannot be read; then no blob is deleted.
        """
        old_before_s = (time.time() if seen_s is None else seen_s) - grace_s
        named: dict[str, FileEntry] = {}
        for number in self.list_generations():
            stays = number in keep or number > last_seen
            if stays or not self._is_older(self._manifest_path(number), old_before_s):
                named |= {entry.sha256: entry for entry in self.read_manifest(number).files.values()}
            else:
                self.delete_generation(number)
        unnamed = [path for path in self._list("blobs") if Path(path).name not in named]
        gone = 0
        for path in [*unnamed, *self._list("tmp")]:
            if self._is_older(path, old_before_s):  # asked right before: another process may have put it again
                self._remove(path)
                gone += 1
        self.trim_cache(named.values(), grace_s)
        return gone

    # --- labels' mirror

    def mirror_label(self, label: str, number: int) -> None:
        """Note beside the generations where a label points, for readers who find the database down."""
        content = json.dumps({"label": label, "generation": number}).encode()
        self._write(self._label_path(label), content)

    def read_label(self, label: str) -> int | None:
        """Where the mirror says a label points; None when it was never mirrored.

        Raises:
            ArtifactError: when the mirror is damaged.
        """
        path = self._label_path(label)
        if not self._exists(path):
            return None
        try:
            number = parse_json(self._read(path, _MAX_LABEL_BYTES))["generation"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError("read", path, "is no label") from error
        if type(number) is not int or not 1 <= number <= MAX_INT64:
            raise ArtifactError("read", path, "is no label")
        return number

    # --- paths and files

    def _blob_path(self, entry: FileEntry) -> str:
        return f"{self._root}/blobs/{entry.sha256}"

    def _manifest_path(self, number: int) -> str:
        return f"{self._root}/generations/{number}/manifest.json"

    def _label_path(self, label: str) -> str:
        return f"{self._root}/labels/{label}.json"

    @contextmanager
    def _failures(self, operation: str, path: str) -> Iterator[None]:
        """The one place where a file system's errors become ours; FileNotFoundError is for the caller to judge."""
        try:
            yield
        except (ArtifactError, FileNotFoundError):
            raise
        except OSError as error:
            raise ArtifactError(operation, path, str(error)) from error
        except Exception as error:
            # A remote store's client has errors of its own: no credentials, no such endpoint, a request refused.
            if self._local:
                raise
            raise ArtifactError(operation, path, f"{type(error).__name__}: {error}") from error

    def _exists(self, path: str) -> bool:
        with self._failures("look for", path):
            return bool(self._fs.exists(path))

    def _present(self, path: str, size: int) -> bool:
        try:
            with self._failures("look for", path):
                return bool(self._fs.info(path)["size"] == size)
        except FileNotFoundError:
            return False

    def _refresh(self, path: str, content: Path | bytes) -> None:
        """Make a blob young again, so that no collector takes it before its new manifest is written."""
        if self._local:
            try:
                with self._failures("touch", path):
                    os.utime(path)
            except FileNotFoundError:  # a collector was faster
                self._write(path, content)
        elif self._is_older(path, time.time() - DEFAULT_GRACE_S / 2):
            self._write(path, content)

    def _write(self, path: str, content: Path | bytes) -> None:
        try:
            with self._failures("write", path):
                if self._local:
                    _write_durably(Path(self._root, "tmp"), Path(path), content)
                elif isinstance(content, Path):
                    self._fs.put_file(str(content), path)
                else:
                    self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                    self._fs.pipe_file(path, content)
        except FileNotFoundError as error:
            raise ArtifactError("write", path, str(error)) from error

    def _read(self, path: str, max_bytes: int) -> bytes:
        try:
            with self._failures("read", path), self._fs.open(path, "rb") as file:
                return bytes(file.read(max_bytes))
        except FileNotFoundError as error:
            raise ArtifactError("read", path, "is missing") from error

    def _list(self, folder: str) -> list[str]:
        path = f"{self._root}/{folder}"
        try:
            with self._failures("list", path):
                self._fs.invalidate_cache()
                return [str(each) for each in self._fs.ls(path, detail=False)]
        except FileNotFoundError:
            return []

    def _is_older(self, path: str, than_s: float) -> bool:
        try:
            with self._failures("look at", path):
                return bool(self._fs.modified(path).timestamp() <= than_s)
        except FileNotFoundError:
            return False

    def _remove(self, path: str) -> None:
        try:
            with self._failures("remove", path):
                self._fs.rm(path, recursive=True)
        except FileNotFoundError:
            _log.debug("artifact_gone_already", path=path)

    def _fetch(self, path: str, entry: FileEntry) -> Path:
        assert self._cache_dir is not None
        with self._failures("make", str(self._cache_dir)):
            self._cache_dir.mkdir(parents=True, exist_ok=True)
        copy = self._copy_path(entry)
        if copy.exists():
            try:
                _verify(copy, entry)
            except ArtifactError:
                _log.warning("cached_copy_damaged", path=str(copy))
            else:
                return copy
        partial = self._cache_dir / f"{_PARTIAL}{uuid.uuid4().hex}"
        try:
            with self._failures("read", path):
                self._fs.get_file(path, str(partial))
                _verify(partial, entry, shown=path)
                partial.replace(copy)
        except FileNotFoundError as error:
            raise ArtifactError("read", path, "is missing") from error
        finally:
            partial.unlink(missing_ok=True)
        return copy


def _is_unused(path: Path, since_s: float) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:  # another process was faster
        return False
    return max(found.st_atime, found.st_mtime) <= since_s


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_sha256).hexdigest()


_new_sha256: Callable[[], Any] = hashlib.sha256


def _describe(path: Path) -> FileEntry:
    try:
        return FileEntry(sha256=_hash_file(path), bytes=path.stat().st_size)
    except OSError as error:
        raise ArtifactError("read", str(path), str(error)) from error


def _verify(path: Path, entry: FileEntry, shown: str | None = None) -> None:
    where = shown or str(path)
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise ArtifactError("read", where, f"is {size} bytes; the manifest says {entry.bytes}")
        found = _hash_file(path)
    except OSError as error:
        raise ArtifactError("read", where, "is missing" if not path.exists() else str(error)) from error
    if found != entry.sha256:
        raise ArtifactError("read", where, f"hashes to {found}; the manifest says {entry.sha256}")


def _write_durably(tmp_dir: Path, path: Path, content: Path | bytes) -> None:
    """Temp file → fsync → rename → fsync of the folder: after a power cut the file is whole or absent."""
    tmp_dir.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = tmp_dir / uuid.uuid4().hex
    try:
        with temporary.open("xb") as target:
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)
            else:
                target.write(content)
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
