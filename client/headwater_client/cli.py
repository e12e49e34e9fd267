"""The command `headwater`."""

from __future__ import annotations

import typer

from headwater_client._commands import admin, experiments, imports, profile, serving, strategies, tokens

app = typer.Typer(
    name="headwater",
    help="Ask a Headwater server what to show next, tell it what users do, look after it.",
    epilog="Exit codes: 0 done; 1 the server refused or failed, or is not serving; 2 wrong usage or an unusable file; "
    "3 the server does not answer; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
serving.register(app)
profile.register(app)
imports.register(app)
admin.register(app)
strategies.register(app)
experiments.register(app)
tokens.register(app)


def main() -> None:
    """Run the command line."""
    app()
