"""What Headwater is made of, as far as it can be checked without asking anybody: exact pins, permissive licences."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|CC0|BSL|CNRI|Unlicense|HPND)\b"
)
COPYLEFT = re.compile(r"\b[AL]?GPL|\bMPL|Mozilla|EUPL|SSPL|Commons Clause|Proprietary", re.IGNORECASE)
NAMED_IN_CONTRIBUTING = {"psycopg", "psycopg-binary", "tqdm", "hypothesis", "pathspec"}


def licence(name: str) -> str:
    """What a distribution says of its licence."""
    said = metadata.metadata(name)
    if "License-Expression" in said:
        return str(said["License-Expression"])
    said_freely = said["License"][:200] if "License" in said else ""
    classifiers = [each for each in said.get_all("Classifier") or [] if each.startswith("License ::")]
    return ", ".join(classifiers) or said_freely


def installed() -> list[str]:
    """Those of the pinned that are here: the environment of the tests has no need of the benchmarks' plots."""
    return [name for name in (line.split("==")[0] for line in LINES) if _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def test_every_pin_is_exact() -> None:
    """A name and one version: no range, no address, no marker, nobody twice."""
    assert [line for line in LINES if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9A-Za-z.]*", line)] == []
    names = [line.split("==")[0] for line in LINES]
    assert len(set(names)) == len(names) > 50


def test_every_licence_is_permissive_or_named() -> None:
    """CONTRIBUTING.md names those that are not; nothing that does not say its licence gets in."""
    names = installed()
    assert len(names) > 50
    strict = {name for name in names if COPYLEFT.search(licence(name)) or not PERMISSIVE.search(licence(name))}
    assert strict == NAMED_IN_CONTRIBUTING & set(names), {name: licence(name) for name in strict}
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(name in text for name in NAMED_IN_CONTRIBUTING - {"psycopg-binary"})
