"""What can become of a file: every way in which bytes, numbers and JSON go wrong, at places of every class."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

_NUMBERS = [0, 1, 255, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
_FLOATS = [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f"]  # NaN, minus infinity, the largest
_ODD_JSON: list[Any] = [
    None, True, -1, 0, 1 << 63, 10**400, -0.5, 1e308, float("nan"), float("-inf"), "", "x", "\ud800", "1" * 5000,
    [], {}, [[]], {"x": 1},
]  # fmt: skip
TOO_DEEP = b"[" * 100_000


class Damaged(NamedTuple):
    """A file after something happened to it."""

    what: str
    content: bytes


def damages(content: bytes, tries: int) -> Iterator[Damaged]:
    """At first, last and middle bytes, at every length field near the beginning, at the end, and anywhere.

    Args:
        content: of the whole file.
        tries: how many of the endless ways are tried; those at the ends are tried whatever it says.
    """
    chance = random.Random(len(content) * 31 + tries)
    size = len(content)
    for length in sorted({0, 1, 4, 7, 8, 9, 37, 45, size // 3, size // 2, size - 9, size - 8, size - 1}):
        yield Damaged(f"cut at {length}", content[: max(0, length)])
    for more in (b"\0", b"\xff" * 8, b"\0" * 4096, content):
        yield Damaged(f"{len(more)} bytes longer", content + more)
    yield Damaged("all ones", b"\xff" * size)
    yield Damaged("another file", TOO_DEEP[:4096])
    yield Damaged("nested", (4096).to_bytes(8, "little") + TOO_DEEP[:4096])
    of_class = {0, 1, 2, 3, 4, 7, 8, 9, 12, 20, 28, 36, 37, 45, 53, size // 4, size // 2, size - 8, size - 4, size - 1}
    for at in sorted(place for place in of_class if 0 <= place < size):
        yield Damaged(f"bit {at % 8} of byte {at}", _with(content, at, bytes([content[at] ^ 1 << at % 8])))
    for _ in range(tries):
        at = chance.choice([chance.randrange(size), chance.randrange(min(size, 400))])
        new = chance.choice(
            [
                bytes([content[at] ^ 1 << chance.randrange(8)]),
                chance.choice(_NUMBERS).to_bytes(8, "little"),
                chance.choice(_NUMBERS[:4]).to_bytes(8, "little")[:4],
                chance.choice(_FLOATS),
                chance.randbytes(chance.randint(1, 16)),
                content[chance.randrange(size) :][:8],
            ]
        )
        at -= at % chance.choice([1, 4, 8])
        yield Damaged(f"{new.hex()} at {at}", _with(content, at, new)[:size])


def json_damages(content: bytes, tries: int) -> Iterator[Damaged]:
    """A JSON document with one value another, one missing or one more, at every place; then as bytes."""
    document = json.loads(content)
    changes = [(path, odd) for path in _paths(document) for odd in [*_ODD_JSON, _GONE]]
    random.Random(tries).shuffle(changes)
    for path, odd in changes[: 3 * tries]:
        yield Damaged(f"{path}: {str(odd)[:40]}", json.dumps(_changed(document, path, odd)).encode())
    yield Damaged("too deep", TOO_DEEP)
    for path in [path for path in _paths(document) if path][:5]:
        deep = json.dumps(_changed(document, path, "DEEP")).replace('"DEEP"', "[" * 5000 + "]" * 5000)
        yield Damaged(f"{path}: too deep", deep.encode())
    yield from damages(content, tries)


_GONE = object()


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, each in entries:
        yield from _paths(each, (*path, key))


def _changed(document: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return None if odd is _GONE else odd
    changed = copy.deepcopy(document)
    at = changed
    for key in path[:-1]:
        at = at[key]
    if odd is _GONE:
        del at[path[-1]]
    else:
        at[path[-1]] = odd
    return changed


def _with(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]
