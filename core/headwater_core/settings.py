"""The settings that server and updater share; each process subclasses CoreSettings with its own.

Command line > environment (`HEADWATER_…`) > default. Values are checked once, at start.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class LogFormat(StrEnum):
    """How a log line is written."""

    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least severe line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class CoreSettings(BaseSettings):
    """Where the data is and how a process speaks; the same for every process of one installation."""

    model_config = SettingsConfigDict(env_prefix="HEADWATER_", env_parse_none_str="", frozen=True, extra="forbid")

    database_url: str = Field(default="sqlite:///headwater.db", min_length=1)
    """SQLite (`sqlite:///file`) or PostgreSQL (`postgresql://user:password@host/name`)."""
    store_url: str = Field(default="./artifacts", min_length=1)
    """The artifact store: a local folder or any fsspec URL (`s3://bucket/prefix`)."""
    store_cache_dir: Path | None = None
    """Where copies of a remote store's files are kept; none: a folder of this process, gone at its end."""
    tenant: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    """Whose events, items and generations this process works on."""
    text_encoder_path: str | None = None
    """A local folder holding another text encoder; none: the packaged all-MiniLM-L6-v2."""
    log_level: LogLevel = LogLevel.INFO
    """The least severe line that is written: debug, info, warning, error."""
    log_format: LogFormat = LogFormat.JSON
    """json, or console for a person."""
