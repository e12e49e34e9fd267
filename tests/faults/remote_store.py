"""A remote artifact store that hangs or answers errors when it is told to."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

PROTOCOL = "unreliable"


class UnreliableFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """In memory, for every process of its own; what is told is told to all of them."""

    protocol = PROTOCOL
    answers = threading.Event()
    """Cleared: every question hangs."""
    fails = threading.Event()
    """Set: every question is answered by an error."""
    asked = threading.Event()
    """Set by every question."""

    def _meet(self) -> None:
        self.asked.set()
        self.answers.wait()
        if self.fails.is_set():
            raise ConnectionError("503 Service Unavailable")

    def exists(self, path: str, **options: Any) -> bool:
        """See fsspec."""
        self._meet()
        return bool(super().exists(path, **options))

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        """See fsspec."""
        self._meet()
        super().get_file(rpath, lpath, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._meet()
        return super()._open(path, mode, **options)


def upload(folder: Path) -> str:
    """Put a local store's files into the remote one, which answers; its URL."""
    fsspec.register_implementation(PROTOCOL, UnreliableFileSystem, clobber=True)
    UnreliableFileSystem.answers.set()
    UnreliableFileSystem.fails.clear()
    url = f"{PROTOCOL}://{folder}"
    store, root = fsspec.core.url_to_fs(url)
    for file in folder.rglob("*"):
        if file.is_file():
            store.pipe_file(f"{root}/{file.relative_to(folder)}", file.read_bytes())
    return url
