"""The settings that server and updater share; each process subclasses CoreSettings with its own.

Command line > environment (`HEADWATER_…`) > default. Values are checked once, at start.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headwater_core.logs import LogIds, configure_logs


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
    database_pool_size: int = Field(default=16, ge=2, le=1000)
    """Connections of one process to PostgreSQL, at most; one more listens for what others write."""
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
    log_ids: LogIds = LogIds.HASHED
    """How ids of users, visitors and sessions are logged: hashed, clear or withheld."""
    log_ids_key: SecretStr | None = Field(default=None, min_length=16)
    """What the hashes are made with; none: each process makes a key, and hashes of different runs do not compare."""

    def configure_logs(self) -> None:
        """Let this process log as these settings say."""
        key = self.log_ids_key.get_secret_value() if self.log_ids_key is not None else None
        configure_logs(self.log_level, self.log_format, self.log_ids, key)
