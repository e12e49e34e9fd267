"""Tokens that callers give back: nothing in them can make the server take much memory."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from headwater_core.attribution import attributed_slate
from headwater_core.errors import InvalidFieldError
from headwater_core.sealing import MAX_BYTES, open_sealed, seal
from headwater_server.tokens import ConsistencyToken, ListToken, PageToken

MIB = 1024 * 1024


def forged(content: bytes) -> str:
    """A token as `seal` would make it of any content."""
    packed = zlib.compress(content, 9)
    return base64.urlsafe_b64encode(zlib.crc32(packed).to_bytes(4, "big") + packed).decode().rstrip("=")


def test_a_forged_token_is_opened_like_ours() -> None:
    """Else the tests below would test something else."""
    assert open_sealed("K", seal("K", ["a", 1]), "f", (str, int)) == ["a", 1]
    assert open_sealed("K", forged(b'K["a", 1]'), "f", (str, int)) == ["a", 1]


def test_a_token_that_is_too_long_is_not_even_decoded() -> None:
    """However well made."""
    token = forged(b"K" + json.dumps(["a"]).encode()) + "=" * 2 * MAX_BYTES
    with pytest.raises(InvalidFieldError, match="malformed"):
        open_sealed("K", token, "f", (str,))


def test_a_token_that_would_unpack_to_much_more_than_it_is_does_not() -> None:
    """A short one of 64 MiB of blanks costs what the limit is, not what it says."""
    packer = zlib.compressobj()
    blanks = b" " * MIB
    packed = b"".join([packer.compress(b'K["a"'), *(packer.compress(blanks) for _ in range(64)), packer.flush()])
    token = base64.urlsafe_b64encode(zlib.crc32(packed).to_bytes(4, "big") + packed).decode().rstrip("=")
    assert len(token) < MIB
    assert_costs_little(lambda: open_sealed("K", token, "f", (str,)))


def assert_costs_little(open_it: Callable[[], object]) -> None:
    """It is refused, and the objects of what it unpacks to were never there."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidFieldError, match="malformed"):
            open_it()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


MANY = {
    "lists": b"[]," * 1_900_000,
    "lists that a page token has room for": b"[]," * 500_000,
    "texts": b'"aa",' * 300_000,
    "texts, each another": b"".join(b'"%x",' % number for number in range(170_000)),
    "nested": b"[" * 1_000_000,
    "objects": b"{}," * 500_000,
}


@pytest.mark.parametrize("values", MANY)
def test_nothing_is_made_of_more_values_than_a_token_has(values: str) -> None:
    """As objects they would take forty times what they take as text, and seconds."""
    many = MANY[values].rstrip(b",")
    of_event, of_page = forged(b'a["default",' + many + b"]"), forged(b'p["default",1,"home",[' + many + b"]]")
    of_log, of_list = forged(b'c["default",' + many + b"]"), forged(b"l[" + many + b"]")
    assert_costs_little(lambda: attributed_slate(of_event, "default"))
    assert_costs_little(lambda: PageToken.open(of_page, "f", "default"))
    assert_costs_little(lambda: ConsistencyToken.open(of_log, "f", "default"))
    assert_costs_little(lambda: ListToken.open(of_list, "f"))


def test_what_would_not_be_opened_is_not_given_out() -> None:
    """Whoever seals is told by an empty token."""
    longest = "x" * (MAX_BYTES - len('K[""]'))
    assert open_sealed("K", seal("K", [longest]), "f", (str,)) == [longest]
    assert not seal("K", [longest + "x"])


@pytest.mark.parametrize("character", ["x", ",", '"', "\x1f", "\\", "é", "😀"])
def test_small_tokens_hold_the_longest_ids(character: str) -> None:
    """Whatever they are made of."""
    longest = character * (256 // len(character.encode()))
    assert ListToken.open(ListToken(longest).seal(), "f") == ListToken(longest)


def test_a_page_token_carries_what_may_be_served_and_no_more() -> None:
    """As many ids, of the allowed length."""
    served = tuple(f"{number:0256}" for number in range(5000))
    token = PageToken("default", 1 << 62, "s" * 64, served)
    assert PageToken.open(token.seal(), "f", "default") == token
    assert not PageToken("default", 1, "home", (*served, "x")).seal()
    one_more = json.dumps(["default", 1, "home", ["x"] * 5001], separators=(",", ":")).encode()
    with pytest.raises(InvalidFieldError, match="5001 served items"):
        PageToken.open(forged(b"p" + one_more), "f", "default")
