"""Files that are read again when they change; what cannot be used changes nothing but a log line and a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import structlog

from headwater_core.errors import ConfigurationError

Value = TypeVar("Value")
_Signature = tuple[tuple[int, int, int] | None, ...]
log = structlog.get_logger(__name__)


class KeptFiles(Generic[Value]):
    """What some files say now, or said when they could last be used. Safe to ask from any thread."""

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], Value]) -> None:
        """Read them.

        Args:
            what: they hold, as logs and metrics name it.
            paths: the files.
            read: makes of them what they say; raises ConfigurationError when they cannot be used.

        Raises:
            ConfigurationError: they cannot be used.
        """
        self.what = what
        self._paths = tuple(paths)
        self._read = read
        self._lock = Lock()
        self._signature = self._signed()
        self._value = read()
        self.is_refused = False
        """Whether the files as they are now cannot be used."""
        self._told = ""
        """Why, as the log has it already."""

    def current(self) -> Value:
        """What the files say; looks whether they have changed first."""
        signature = self._signed()
        if self._asks_to_be_read(signature):
            with self._lock:
                if self._asks_to_be_read(signature) and self._read_again():
                    self._signature = signature
        return self._value

    def _asks_to_be_read(self, signature: _Signature) -> bool:
        """What could not be read is tried again: rights may have changed, or the files of before have come back."""
        return self.is_refused or signature != self._signature

    def _read_again(self) -> bool:
        """Whether they can be used."""
        try:
            self._value = self._read()
        except ConfigurationError as error:
            self.is_refused = True
            if str(error) != self._told:
                self._told = str(error)
                log.error("files_refused", what=self.what, reason=self._told)
            return False
        self.is_refused, self._told = False, ""
        log.info("files_read_again", what=self.what)
        return True

    def _signed(self) -> _Signature:
        return tuple(map(_signature_of, self._paths))


def _signature_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None  # reading it will say why
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_file(name: str, path: Path) -> bytes:
    """A file's content. Args: name: of the setting that names it.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: {path}: {error.strerror}") from error
