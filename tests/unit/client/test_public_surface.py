"""What the package shows: names, docstrings, imports."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.models import CommandInfo
from typer.testing import CliRunner

import headwater_client
from headwater_client import _config, _results, _writer_state, cli, errors, testing

HEAVY = ("typer", "rich", "torch", "faiss", "numpy", "headwater_core", "google.rpc", "grpc_status")


def test_all_is_what_there_is() -> None:
    """`__all__` names every public name of the package, sorted, and nothing else."""
    public = {
        name
        for name, value in vars(headwater_client).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(headwater_client.__all__) == public
    assert set(testing.__all__) == {"FakeServer", "RecordedCall"}


def test_every_public_module_is_meant() -> None:
    """Only the errors, the fake server and the command are modules for users; the rest is private."""
    folder = Path(headwater_client.__file__).parent
    public = {path.stem for path in folder.iterdir() if not path.name.startswith(("_", "."))}
    assert public == {"errors", "testing", "cli", "py"}  # py.typed


@pytest.mark.parametrize("module", [headwater_client, testing])
def test_every_exported_name_is_documented(module: ModuleType) -> None:
    """Exported functions, classes and their public methods have docstrings of their own."""
    for name in module.__all__:
        value = getattr(module, name)
        if value.__module__.startswith("headwater.v1"):
            continue  # documented in the protos
        assert inspect.getdoc(value), name
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert member.__doc__, f"{name}.{attribute}"


@pytest.mark.parametrize("module", [_config, _results, _writer_state, errors])
def test_every_field_is_documented(module: ModuleType) -> None:
    """Under every field of a dataclass there is a docstring."""
    for value in vars(module).values():
        if inspect.isclass(value) and dataclasses.is_dataclass(value) and value.__module__ == module.__name__:
            source = inspect.getsource(value)
            for field in dataclasses.fields(value):
                assert re.search(rf'^    {field.name}: .*\n    """', source, re.MULTILINE), f"{value}.{field.name}"


def test_every_error_is_in_the_tree() -> None:
    """The tree at the top of errors.py draws every error class."""
    tree = errors.__doc__ or ""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__:
            assert f" {name} " in tree or tree.count(f"\n{name}\n"), name


def test_every_command_is_documented() -> None:
    """Every command, argument and option of `headwater`, those of its groups too, says what it is."""
    commands: list[tuple[tuple[str | None, ...], CommandInfo]] = [
        ((command.name,), command) for command in cli.app.registered_commands
    ]
    for group in cli.app.registered_groups:
        assert group.typer_instance is not None and group.typer_instance.info.help, group.name
        commands += [((group.name, command.name), command) for command in group.typer_instance.registered_commands]
    assert {" ".join(map(str, name)) for name, _ in commands} == {
        "recommend", "similar", "search", "write", "import-events", "import-items", "generations", "rollback",
        "set-label", "delete-user", "health", "outcomes", "strategies list", "strategies show", "strategies put",
        "strategies delete", "strategies versions", "strategies preview", "experiments list", "experiments show",
        "experiments put", "experiments delete", "profile", "new-token",
    }  # fmt: skip
    for name, command in commands:
        assert command.callback is not None and command.callback.__doc__, name
        for parameter in inspect.signature(command.callback, eval_str=True).parameters.values():
            (info,) = parameter.annotation.__metadata__
            assert info.help, f"{name} {parameter.name}"
        assert CliRunner().invoke(cli.app, [*map(str, name), "--help"]).exit_code == 0


def test_importing_the_library_loads_nothing_heavy() -> None:
    """`import headwater_client` and its fake server need grpcio and protobuf only."""
    program = (
        "import sys, headwater_client, headwater_client.testing\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
