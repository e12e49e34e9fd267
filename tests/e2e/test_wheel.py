"""The wheel as a user gets it: the base install is the client alone."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_FOR_CLIENTS = ("torch", "faiss", "numpy", "sqlalchemy", "transformers", "pydantic_settings", "fsspec")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree."""
    directory = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory))
    (built,) = directory.glob("headwater-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that has the wheel and what its base install asks for."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    interpreter = environment / "bin" / "python"
    _run(str(interpreter), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    return interpreter


def test_the_wheel_holds_every_package_at_its_root(wheel: Path) -> None:
    """The source roots of the repository do not show in the wheel, and every package says that it is typed."""
    names = zipfile.ZipFile(wheel).namelist()
    packages = {"headwater_core", "headwater_server", "headwater_updater", "headwater_client", "headwater"}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == packages
    assert {f"{package}/py.typed" for package in packages - {"headwater"}} <= set(names)
    assert "headwater/v1/event_pb2.pyi" in names


def test_a_base_install_can_import_the_client_and_carries_no_model_code(python: Path) -> None:
    """`pip install headwater` gives the client without PyTorch, FAISS, NumPy, SQLAlchemy and the like."""
    program = f"""
import importlib.util
import headwater_client
import headwater.v1.event_pb2
found = [name for name in {NOT_FOR_CLIENTS!r} if importlib.util.find_spec(name)]
assert not found, found
print(headwater_client.Client.__name__, headwater_client.AsyncClient.__name__)
"""
    assert _run(str(python), "-c", program).split() == ["Client", "AsyncClient"]


def test_a_base_install_brings_the_command(python: Path) -> None:
    """`headwater --help` works with the client's dependencies alone."""
    assert "recommend" in _run(str(python.parent / "headwater"), "--help")


@pytest.mark.parametrize("command", ["headwater-server", "headwater-updater"])
def test_a_process_without_its_extra_does_not_start(python: Path, command: str) -> None:
    """The commands of the processes are there, and end with an error when their extra is not installed."""
    completed = subprocess.run([python.parent / command, "--help"], capture_output=True, text=True, timeout=60)
    assert completed.returncode != 0
    assert "ModuleNotFoundError" in completed.stderr or "pip install" in completed.stderr


def _run(*command: str) -> str:
    """Standard output of the command; fails with what it said on standard error."""
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout
