"""Tokens: how they are written down, who holds them, what is refused, and that none is ever shown."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from headwater_core.errors import ConfigurationError
from headwater_server.access import Access, check_scope
from headwater_server.errors import ForbiddenError, OverloadedError, UnknownCallerError
from headwater_server.scopes import Scope
from headwater_server.settings import ServerSettings

SECRET = "S3cr3t" * 6
OTHER = "An0ther" * 6


def line(token: str = SECRET, name: str = "shop", scopes: tuple[str, ...] = ("read",), **more: Any) -> str:
    """A token as its sha256."""
    return json.dumps({"name": name, "scopes": scopes, "sha256": hashlib.sha256(token.encode()).hexdigest(), **more})


def in_variable(text: str, **settings: Any) -> Access:
    return Access(ServerSettings(tokens=SecretStr(text), **settings))


def in_file(path: Path, text: str) -> Access:
    path.write_text(text)
    return Access(ServerSettings(tokens_file=path))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize(
    "text",
    [
        line(),
        f"\n{line(OTHER, 'other')}\n\n{line()}\n",
        f"[{line()}, {line(OTHER, 'other')}]",
        json.dumps({"name": "shop", "scopes": ["read"], "token": SECRET}),
    ],
)
def test_a_token_is_known_however_it_is_written_down(text: str, scheme: str) -> None:
    """In a list or in lines, by its sha256 or as it is; the first time and again."""
    access = in_variable(text)
    for _ in range(2):
        assert access.identify(f"{scheme} {SECRET}").name == "shop"


NOBODYS = (OTHER, f"{SECRET} ", SECRET[1:], "")


@pytest.mark.parametrize("authorization", ["", "Bearer", SECRET, f"Basic {SECRET}", *map("Bearer {}".format, NOBODYS)])
def test_everything_else_is_unknown(authorization: str) -> None:
    """And is not repeated."""
    with pytest.raises(UnknownCallerError) as caught:
        in_variable(line()).identify(authorization)
    assert SECRET[:8] not in str(caught.value)
    assert OTHER[:8] not in str(caught.value)


def test_a_sha256_is_no_token() -> None:
    """Who reads the file cannot call."""
    with pytest.raises(UnknownCallerError):
        in_variable(line()).identify(f"Bearer {hashlib.sha256(SECRET.encode()).hexdigest()}")


@pytest.mark.parametrize("scope", list(Scope))
def test_no_scope_contains_another(scope: Scope) -> None:
    """The refusal names the one that is missing."""
    caller = in_variable(line(scopes=(scope.value,))).identify(f"Bearer {SECRET}")
    check_scope(caller, scope)
    for other in set(Scope) - {scope}:
        with pytest.raises(ForbiddenError, match=f"scope {other.value}"):
            check_scope(caller, other)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("{", "not JSON"),
        (f'{{"name": "{SECRET}"', "not JSON"),
        ("[" * 100_000, "too deep"),
        (f"[{'1' * 5000}]", "digits"),
        ("[1]", "token 1"),
        (json.dumps({"name": "shop", "scopes": ["read"]}), "sha256 or token"),
        (line(token=SECRET, token_=OTHER), "token 1"),
        (json.dumps({SECRET: "shop"}), "token 1"),
        (line(scopes=("all",)), "scopes"),
        (line(scopes=()), "scopes"),
        (line(name=""), "name"),
        (line(name="a b"), "name"),
        (json.dumps({"name": "shop", "scopes": ["read"], "token": "S3cr3tshort"}), "token"),
        (json.dumps({"name": "shop", "scopes": ["read"], "sha256": SECRET}), "sha256"),
        (line(calls_per_s=0), "calls_per_s"),
        (line(max_in_flight=0), "max_in_flight"),
        (f"{line()}\n{line(OTHER)}", "same name"),
        (f"{line()}\n{line(name='other')}", "same token"),
    ],
)
def test_what_cannot_be_used_is_refused_without_repeating_it(text: str, reason: str) -> None:
    """Not in the message, nor in what a traceback would show."""
    with pytest.raises(ConfigurationError, match=reason) as caught:
        in_variable(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert "S3cr3t" not in f"{error} {error!r}"
        error = None if error.__suppress_context__ else error.__cause__ or error.__context__


def test_an_empty_list_lets_nobody_in() -> None:
    """All tokens can be taken away; a file that was cut short is something else."""
    with pytest.raises(UnknownCallerError):
        in_variable("[]").identify(f"Bearer {SECRET}")


def test_no_repr_shows_a_token() -> None:
    """Neither of the settings nor of anything made of them."""
    settings = ServerSettings(tokens=SecretStr(json.dumps({"name": "shop", "scopes": ["read"], "token": SECRET})))
    access = Access(settings)
    caller = access.identify(f"Bearer {SECRET}")
    shown = f"{settings!r} {settings} {access!r} {caller!r} {access.kept.current()!r} {settings.model_dump_json()}"
    assert "S3cr3t" not in shown
    assert hashlib.sha256(SECRET.encode()).hexdigest() not in shown


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    """New tokens are known, those that are gone are not; a call that goes on with one of these is ended."""
    path = tmp_path / "tokens"
    access = in_file(path, line())
    gone = access.identify(f"Bearer {SECRET}")
    path.write_text(f"{line(OTHER, 'other')}\n")
    access.refresh()
    assert access.identify(f"Bearer {OTHER}").name == "other"
    with pytest.raises(UnknownCallerError):
        access.identify(f"Bearer {SECRET}")
    with pytest.raises(ForbiddenError):
        check_scope(gone, Scope.READ)


def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    """Nor does one that is gone, or cannot be read; a whole one is read as soon as it is there."""
    path = tmp_path / "tokens"
    access = in_file(path, line())
    for broken in ("", "{", f"{line()}{line()}"):
        path.write_text(broken)
        access.refresh()
        assert access.kept.is_refused
        assert access.identify(f"Bearer {SECRET}").name == "shop"
    path.unlink()
    access.refresh()
    assert access.identify(f"Bearer {SECRET}").name == "shop"
    path.write_text(line(OTHER))
    access.refresh()
    assert not access.kept.is_refused
    assert access.identify(f"Bearer {OTHER}").name == "shop"


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    """At the start there is nothing earlier to go on with."""
    with pytest.raises(ConfigurationError, match="HEADWATER_TOKENS_FILE"):
        Access(ServerSettings(tokens_file=tmp_path / "tokens"))


def test_file_and_variable_add_up(tmp_path: Path) -> None:
    """An operator's own token in the variable, everybody else's in the file."""
    path = tmp_path / "tokens"
    path.write_text(line())
    access = Access(ServerSettings(tokens_file=path, tokens=SecretStr(line(OTHER, "other"))))
    assert [access.identify(f"Bearer {token}").name for token in (SECRET, OTHER)] == ["shop", "other"]


def test_limits_are_the_tokens_own_or_the_settings() -> None:
    """One call too many is refused with a hint; who leaves makes room."""
    access = in_variable(f"{line(max_in_flight=1)}\n{line(OTHER, 'other')}", token_max_in_flight=2)
    for token, places in ((SECRET, 1), (OTHER, 2)):
        caller = access.identify(f"Bearer {token}")
        for _ in range(places):
            caller.enter(70)
        with pytest.raises(OverloadedError) as caught:
            caller.enter(70)
        assert caught.value.retry_after_ms == 70
        caller.leave()
        caller.enter(70)


def test_calls_a_second_are_counted_by_token() -> None:
    """The hint says when there is room again."""
    caller = in_variable(line(calls_per_s=0.5)).identify(f"Bearer {SECRET}")
    caller.enter(70)
    caller.leave()
    with pytest.raises(OverloadedError, match=r"0\.5 calls a second") as caught:
        caller.enter(70)
    assert 1000 < caught.value.retry_after_ms <= 2000


def test_a_change_of_limits_keeps_the_count_of_calls_under_way(tmp_path: Path) -> None:
    """Those who were in stay in, and count."""
    path = tmp_path / "tokens"
    access = in_file(path, line())
    caller = access.identify(f"Bearer {SECRET}")
    for _ in range(3):
        caller.enter(70)
    path.write_text(line(max_in_flight=3, scopes=("read", "write")))
    access.refresh()
    caller = access.identify(f"Bearer {SECRET}")
    check_scope(caller, Scope.WRITE)
    with pytest.raises(OverloadedError):
        caller.enter(70)


def test_a_file_put_in_place_by_a_rename_is_noticed(tmp_path: Path) -> None:
    """Even with the same size and the same time."""
    path = tmp_path / "tokens"
    access = in_file(path, line())
    times = path.stat()
    fresh = tmp_path / "fresh"
    fresh.write_text(line(OTHER))
    os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
    fresh.replace(path)
    access.refresh()
    assert access.identify(f"Bearer {OTHER}").name == "shop"
