"""Which files some process of this machine has verified: no other needs to read all of them to hash them again."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Container
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
_ENDING = ".verified"


class VerifiedFiles:
    """Notes in a folder that the processes of one server have to themselves.

    A note tells which file it was (inode, size, time of the last change), so one that was put in its place is verified
    anew.
    """

    def __init__(self, folder: Path) -> None:
        """Args: folder: exists, and nobody else may write to it."""
        self._folder = folder

    def once(self, name: str, verified: Callable[[], Path], unread: Path) -> Path:
        """The file, verified by this process or by another; while one does it, the others wait.

        Where no note can be opened or written (the folder was cleared away, its disk is full) each verifies for itself.

        Args:
            name: the file's, among all.
            verified: gets and verifies it, and raises where it cannot.
            unread: where it is if it was verified before.
        """
        with ExitStack() as held:
            try:
                note = held.enter_context(Path(self._folder, f"{name}{_ENDING}").open("a+b", buffering=0))
                fcntl.flock(note, fcntl.LOCK_EX)
                note.seek(0)
                noted = note.read()
            except OSError as error:
                _log.warning("verified_without_note", file=name, reason=str(error))
                return verified()
            if not noted or noted != _identity(unread):
                unread = verified()
                try:
                    note.truncate(0)
                    note.write(_identity(unread))
                except OSError as error:
                    _log.warning("verified_without_note", file=name, reason=str(error))
        return unread

    def forget(self, keep: Container[str], before_s: float) -> None:
        """Remove the notes on files that are not in `keep`.

        Whoever waits for one that is being removed has it open and takes its word; who comes later verifies once more.

        Args:
            keep: names of files.
            before_s: notes that were written later stay, in seconds since the epoch.

        Raises:
            OSError: when one cannot be removed.
        """
        for note in self._folder.glob(f"*{_ENDING}"):
            with suppress(FileNotFoundError):  # another process was faster
                if note.name.removesuffix(_ENDING) not in keep and note.stat().st_mtime <= before_s:
                    note.unlink()


def _identity(path: Path) -> bytes:
    try:
        found = path.stat()
    except OSError:
        return b""
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns}".encode()
