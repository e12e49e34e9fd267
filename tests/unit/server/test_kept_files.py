"""Files that are read again when they change."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater_core.errors import ConfigurationError
from headwater_server.kept_files import KeptFiles, read_file


def test_what_could_not_be_read_is_tried_again_though_nothing_in_it_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rights that were wrong and are mended leave the content as it is; the reason is told once."""
    path, is_readable = tmp_path / "tokens", True
    path.write_text("first")

    def read() -> str:
        if not is_readable:
            raise ConfigurationError("tokens_file: permission denied")
        return path.read_text()

    kept = KeptFiles("tokens", [path], read)
    path.write_text("the second")
    is_readable = False
    assert [kept.current(), kept.current(), kept.is_refused] == ["first", "first", True]
    is_readable = True
    assert (kept.current(), kept.is_refused) == ("the second", False)


def test_files_that_come_back_unchanged_are_refused_no_more(tmp_path: Path) -> None:
    """Moved away and back, they are again what was last read."""
    path = tmp_path / "tokens"
    path.write_text("first")
    kept = KeptFiles("tokens", [path], lambda: read_file("tokens_file", path).decode())
    path.rename(tmp_path / "away")
    assert (kept.current(), kept.is_refused) == ("first", True)
    (tmp_path / "away").rename(path)
    assert (kept.current(), kept.is_refused) == ("first", False)
