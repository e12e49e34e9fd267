"""The settings that processes share, and the updater's own."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from headwater_core.indexes import IndexKind
from headwater_core.settings import CoreSettings
from headwater_updater.settings import UpdaterSettings


def test_the_environment_is_read_and_an_empty_variable_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """HEADWATER_… variables set values; an empty one switches off what may be off."""
    monkeypatch.setenv("HEADWATER_DATABASE_URL", "postgresql://db/headwater")
    monkeypatch.setenv("HEADWATER_INDEX_KIND", "flat")
    monkeypatch.setenv("HEADWATER_UPDATER_METRICS_PORT", "")
    settings = UpdaterSettings()
    assert settings.database_url == "postgresql://db/headwater"
    assert settings.index_kind is IndexKind.FLAT
    assert settings.updater_metrics_port is None


def test_what_the_caller_gives_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line > environment."""
    monkeypatch.setenv("HEADWATER_TENANT", "environment")
    assert UpdaterSettings(tenant="given").tenant == "given"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADWATER_TENANT", "../up"),
        ("HEADWATER_LOG_LEVEL", "loud"),
        ("HEADWATER_DATABASE_URL", ""),
        ("HEADWATER_KEEP_GENERATIONS", "1"),
        ("HEADWATER_POLL_INTERVAL_S", "0"),
        ("HEADWATER_FOLD_SHARE", "nan"),
        ("HEADWATER_HISTORY_LENGTH", "1001"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong value stops the start, and the error names the setting."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("HEADWATER_").lower()):
        UpdaterSettings()


def test_settings_do_not_change() -> None:
    """Settings are fixed once they are read."""
    with pytest.raises(ValidationError, match="frozen"):
        CoreSettings().tenant = "other"
