"""What the commands about documents share: reading them from files, and telling their versions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from headwater.v1.experiment_service_pb2 import ExperimentVersion
from headwater.v1.strategy_service_pb2 import StrategyVersion
from headwater_client._commands.frame import Session
from headwater_client._commands.output import show_json, show_lines

File = Annotated[str, typer.Argument(help="A JSON file; `-` reads stdin.")]
Expected = Annotated[int | None, typer.Option(help="Only if this is its newest version; 0: only if there is none.")]


def read_document(file: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(sys.stdin.read() if file == "-" else Path(file).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must hold a JSON object")
    return content


def plain_version(version: StrategyVersion | ExperimentVersion) -> dict[str, Any]:
    """A version with only what is said, as a file may say it."""
    return MessageToDict(version, preserving_proto_field_name=True)


def written(version: StrategyVersion | ExperimentVersion) -> str:
    """When it was written; "" for what is built in."""
    return version.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if version.HasField("create_time") else ""


def show_version(session: Session, name: str, version: int, said: str) -> None:
    """Tell which version a change made."""
    if session.as_json:
        show_json({"name": name, "version": version})
        return
    show_lines([f"{name}: {said}version {version}"])
