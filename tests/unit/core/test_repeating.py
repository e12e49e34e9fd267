"""Every method that writes is one that repeats what a conflict undid."""

from __future__ import annotations

import ast
from pathlib import Path

import headwater_core


def _writes(node: ast.AST) -> bool:
    return any(
        isinstance(each, ast.Attribute)
        and each.attr == "write"
        and isinstance(each.value, ast.Attribute)
        and each.value.attr == "_database"
        for each in ast.walk(node)
    )


def test_every_method_that_writes_is_repeated() -> None:
    """Without the decorator a deadlock would reach callers."""
    found, forgotten = 0, []
    for path in Path(headwater_core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and _writes(node):
                found += 1
                if not any(isinstance(each, ast.Name) and each.id == "repeated" for each in node.decorator_list):
                    forgotten.append(f"{path.name}: {node.name}")
    assert found > 20
    assert forgotten == []
