"""The command that makes a bearer token."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from enum import StrEnum
from typing import Annotated

import typer

_TOKEN_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Scope(StrEnum):
    """What a token may allow."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("new-token")
    def new_token(
        name: Annotated[str, typer.Argument(help="Whose it is, as the server's log calls it.")],
        scope: Annotated[list[Scope], typer.Option(help="What it allows; give several by repeating it.")],
    ) -> None:
        """Make a bearer token. Asks no server.

        On stdout goes the line for HEADWATER_TOKENS_FILE, which holds the token's sha256 alone; on stderr the token
        itself, once.
        """
        if not _NAME.fullmatch(name):
            raise typer.BadParameter("a name is 1 to 64 of A-Z a-z 0-9 . _ -, a letter or a digit first")
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        digest = hashlib.sha256(token.encode()).hexdigest()
        typer.echo(json.dumps({"name": name, "scopes": sorted(set(scope)), "sha256": digest}))
        typer.echo(f"the token, shown this once: {token}", err=True)
