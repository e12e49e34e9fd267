"""Rules of the repository that are cheap to check by reading its files."""

from __future__ import annotations

import ast
import gzip
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from headwater_core.settings import CoreSettings
from headwater_server.settings import ServerSettings
from headwater_updater.settings import UpdaterSettings

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("protos", "core", "server", "updater", "client", "tests", "examples", "benchmarks")
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs/adr/README.md")
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
PICKLING_CALLS = {"torch.load", "torch.save"}
PROTOS = sorted((ROOT / "protos").glob("headwater/**/*.proto"))


def python_files() -> Iterator[tuple[str, str]]:
    """Path in the repository and text of every Python file that a person wrote, this one excepted."""
    for source_root in SOURCE_ROOTS:
        for path in sorted((ROOT / source_root).rglob("*.py")):
            generated = "_pb2" in path.name or "node_modules" in path.parts
            if not generated and path != Path(__file__):
                yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def with_text(pattern: str) -> list[str]:
    """The Python files whose text the pattern matches."""
    return [path for path, text in python_files() if re.search(pattern, text)]


def with_code(is_wrong: Callable[[ast.AST], bool]) -> list[str]:
    """The Python files with a syntax node that is wrong."""
    return [path for path, text in python_files() if any(map(is_wrong, ast.walk(ast.parse(text))))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_documents_exist(document: str) -> None:
    """A newcomer finds every document that others refer to."""
    assert (ROOT / document).stat().st_size > 200


def test_links_in_the_documents_lead_somewhere() -> None:
    """Every relative link of a Markdown file names a file or folder of the repository."""
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    links = [(path, link) for path in documents for link in re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8"))]
    assert [
        f"{path.name}: {link}" for path, link in links if ":" not in link and not (path.parent / link).exists()
    ] == []


def test_no_code_reads_or_writes_pickles() -> None:
    """Files from outside are data, never code: no pickle, nor anything that unpickles under another name."""
    assert with_code(_imports_a_pickler) == []
    assert with_code(lambda node: isinstance(node, ast.Attribute) and ast.unparse(node) in PICKLING_CALLS) == []
    assert with_code(lambda node: isinstance(node, ast.keyword) and node.arg == "allow_pickle") == []


def test_no_error_is_swallowed() -> None:
    """No `except` of everything, or of every Exception, does nothing."""
    assert with_code(_swallows_everything) == []


def test_nothing_is_left_for_later_in_the_code() -> None:
    """What is not done is said in the README or in an issue, not in a comment."""
    assert with_text(r"\b(TODO|FIXME|XXX|HACK)\b") == []


def test_no_test_is_skipped_or_expected_to_fail() -> None:
    """A test that does not run says nothing."""
    assert with_text(r"pytest\.(skip|xfail|importorskip)\(|@?pytest\.mark\.(skip|skipif|xfail)\b") == []


def test_every_module_says_what_it_is_for() -> None:
    """Every Python file begins with a docstring, unless it is empty."""
    assert [path for path, text in python_files() if text and not ast.get_docstring(ast.parse(text))] == []


def test_make_help_names_every_target() -> None:
    """`make help` lists all that make can do, and .PHONY too."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    documented = set(re.findall(r"^([a-z-]+):.*## \S.*\.$", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    assert targets == documented == set(phony[1].split())


def test_every_dependency_is_pinned_within_its_range() -> None:
    """constraints.txt holds one exact version of everything that pyproject.toml asks for, inside the asked range."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, wanted):
        if requirement.name != "headwater":
            pin = pins.get(canonicalize_name(requirement.name))
            assert pin is not None, f"{requirement} has no pin"
            assert requirement.specifier.contains(pin), f"{requirement} does not allow {pin}"
    assert not [pin for pin in pins.values() if "+" in pin], "a local version is not to be had elsewhere"


def test_every_part_of_the_contract_is_commented(tmp_path: Path) -> None:
    """Every service, method, message, field, enum and enum value in protos/ has a comment above it."""
    output = tmp_path / "descriptors"
    names = [str(path.relative_to(ROOT / "protos")) for path in PROTOS]
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'protos'}", f"-I{well_known}", "--include_source_info"]
    assert protoc.main([*arguments, f"--descriptor_set_out={output}", *names]) == 0
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())
    assert len(descriptors.file) == len(PROTOS) > 0
    silent = [part for file in descriptors.file for part in _uncommented(file)]
    assert silent == []


def test_the_example_data_comes_with_its_terms() -> None:
    """The MovieLens files are whole, and their licence note stands beside them."""
    folder = ROOT / "examples" / "movielens"
    assert "GroupLens" in (folder / "LICENSE.md").read_text(encoding="utf-8")
    for name, rows in (("events.csv.gz", 100_836), ("items.csv.gz", 9_742)):
        with gzip.open(folder / name, "rt", encoding="utf-8") as lines:
            assert sum(1 for _ in lines) == rows + 1


def _imports_a_pickler(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in PICKLERS for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLERS


def _swallows_everything(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    catches_all = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
    return catches_all and all(isinstance(statement, ast.Pass) for statement in node.body)


def _uncommented(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """The parts of one proto file that have no comment, as file: path of descriptor indexes, named."""
    comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    for path, name in _parts(file):
        if not comments.get(path):
            yield f"{file.name}: {name}"


def _parts(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Every part that must be commented: its path as SourceCodeInfo counts it, and its name."""
    messages, enums, services = (
        descriptor_pb2.FileDescriptorProto.DESCRIPTOR.fields_by_name[name].number
        for name in ("message_type", "enum_type", "service")
    )
    for index, message in enumerate(file.message_type):
        yield from _message_parts(message, (messages, index), message.name)
    for index, enum in enumerate(file.enum_type):
        yield from _enum_parts(enum, (enums, index), enum.name)
    for index, service in enumerate(file.service):
        yield (services, index), service.name
        methods = descriptor_pb2.ServiceDescriptorProto.DESCRIPTOR.fields_by_name["method"].number
        for place, method in enumerate(service.method):
            yield (services, index, methods, place), f"{service.name}.{method.name}"


def _message_parts(
    message: descriptor_pb2.DescriptorProto, path: tuple[int, ...], name: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    numbers = descriptor_pb2.DescriptorProto.DESCRIPTOR.fields_by_name
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, numbers["field"].number, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message_parts(nested, (*path, numbers["nested_type"].number, index), f"{name}.{nested.name}")
    for index, enum in enumerate(message.enum_type):
        yield from _enum_parts(enum, (*path, numbers["enum_type"].number, index), f"{name}.{enum.name}")


def _enum_parts(
    enum: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...], name: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    values = descriptor_pb2.EnumDescriptorProto.DESCRIPTOR.fields_by_name["value"].number
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, values, index), f"{name}.{value.name}"


def test_the_readme_shows_the_quickstart_as_it_runs() -> None:
    """The example in the README is the file that the tests run."""
    assert (ROOT / "examples" / "quickstart.py").read_text().strip() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("settings", [ServerSettings, UpdaterSettings])
def test_the_readme_lists_every_setting_with_its_default(settings: type[CoreSettings]) -> None:
    """An operator finds each environment variable in the README, with the default that the code has."""
    readme = (ROOT / "README.md").read_text()
    for name, field in settings.model_fields.items():
        default = "none" if field.default is None else str(getattr(field.default, "value", field.default))
        assert f"| `HEADWATER_{name.upper()}` | `{default}` |" in readme, name
