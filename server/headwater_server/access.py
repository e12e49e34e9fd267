"""Who calls, by bearer token, and what that token allows.

Of a token only the sha256 is kept in files; here, beside it, the tokens that were used, so that each is hashed once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from headwater_core.errors import ConfigurationError
from headwater_core.json_reading import parse_json
from headwater_server.errors import ForbiddenError, OverloadedError, UnknownCallerError
from headwater_server.kept_files import KeptFiles, read_file
from headwater_server.scopes import Scope
from headwater_server.settings import ServerSettings
from headwater_server.token_bucket import TokenBucket

_BEARER = "bearer "
_MIN_TOKEN_CHARS = 32
_MAX_TOKEN_CHARS = 1024


class _Line(BaseModel):
    """One token, as an operator writes it down."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Whose it is, as logs and metrics call it."""
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    sha256: Annotated[str | None, Field(pattern=r"^[0-9a-fA-F]{64}$", repr=False)] = None
    """Of the token, in hexadecimal; or …"""
    token: Annotated[SecretStr | None, Field(min_length=_MIN_TOKEN_CHARS, max_length=_MAX_TOKEN_CHARS)] = None
    """… the token itself."""
    calls_per_s: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    max_in_flight: Annotated[int | None, Field(ge=1)] = None

    @model_validator(mode="after")
    def _is_one_of_both(self) -> _Line:
        if (self.sha256 is None) == (self.token is None):
            raise ValueError("give sha256 or token, one of them")
        return self

    def digest(self) -> bytes:
        """The token's sha256 (shape: 32 bytes)."""
        if self.token is not None:
            return _digest(self.token.get_secret_value())
        assert self.sha256 is not None  # _is_one_of_both
        return bytes.fromhex(self.sha256)


class Caller:
    """The holder of a token: what it allows, and how much of it."""

    def __init__(self, name: str) -> None:
        """Allow nothing yet. Args: name: whose token it is."""
        self.name = name
        self.scopes: frozenset[Scope] = frozenset()
        self._calls_per_s: float | None = None
        self._bucket: TokenBucket | None = None
        self._max_in_flight: int | None = None
        self._in_flight = 0

    def allow(self, scopes: frozenset[Scope], calls_per_s: float | None, max_in_flight: int | None) -> None:
        """From now on, this. Args: calls_per_s, max_in_flight: None: without a limit."""
        self.scopes = scopes
        self._max_in_flight = max_in_flight
        if calls_per_s != self._calls_per_s:
            self._calls_per_s = calls_per_s
            self._bucket = TokenBucket(calls_per_s) if calls_per_s is not None else None

    def wait_s(self) -> float:
        """Count a call against the rate. 0: it may go on; else it is not counted; seconds until it would be."""
        return self._bucket.take() if self._bucket is not None else 0.0

    def enter(self, retry_after_ms: int) -> None:
        """Count a call as under way, until it does `leave`. Args: retry_after_ms: the hint where none is better.

        Raises:
            OverloadedError: the token's limit is reached.
        """
        if self._max_in_flight is not None and self._in_flight >= self._max_in_flight:
            raise OverloadedError(
                f"{self._max_in_flight} calls with the token of {self.name} are under way already", retry_after_ms
            )
        if wait_s := self.wait_s():
            reason = f"more than {self._calls_per_s:g} calls a second came with the token of {self.name}"
            raise OverloadedError(reason, max(1, round(1000 * wait_s)))
        self._in_flight += 1

    def leave(self) -> None:
        """A call that entered has ended."""
        self._in_flight -= 1


class Access:
    """The table of tokens."""

    def __init__(self, settings: ServerSettings) -> None:
        """Read it.

        Raises:
            ConfigurationError: the file or the variable cannot be used.
        """
        self._settings = settings
        self._callers: dict[bytes, Caller] = {}
        """By the token's sha256."""
        self._met: dict[str, Caller] = {}
        """By the token; those that were used."""
        self._read_from: Sequence[_Line] | None = None
        paths = [settings.tokens_file] if settings.tokens_file is not None else []
        self.kept = KeptFiles("tokens", paths, lambda: _read(settings))
        self.refresh()

    def refresh(self) -> None:
        """Look whether the file has changed."""
        self.take(self.kept.current())

    def take(self, lines: Sequence[_Line]) -> None:
        """Go by what the file says now. Calls that are under way go on, and count, while their token is in it."""
        if lines is self._read_from:
            return
        before = self._callers
        self._callers = {digest: self._caller(line, before.get(digest)) for line in lines for digest in [line.digest()]}
        for digest, caller in before.items():
            if self._callers.get(digest) is not caller:
                caller.allow(frozenset(), None, None)
        self._met = {}
        self._read_from = lines

    def identify(self, authorization: str) -> Caller:
        """Whose call it is. Args: authorization: the metadata of that name, empty when there is none.

        Raises:
            UnknownCallerError: there is no token, or nobody's.
        """
        if authorization[: len(_BEARER)].lower() != _BEARER:
            raise UnknownCallerError("no token: send the metadata `authorization: Bearer …`")
        token = authorization[len(_BEARER) :]
        caller = self._met.get(token)
        if caller is None:
            caller = self._met[token] = self._find(token)
        return caller

    def _find(self, token: str) -> Caller:
        digest = _digest(token)
        found: Caller | None = None
        for known, caller in self._callers.items():  # all of them: how long it takes tells nothing
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise UnknownCallerError("the token is not known here")
        return found

    def _caller(self, line: _Line, known: Caller | None) -> Caller:
        caller = known if known is not None and known.name == line.name else Caller(line.name)
        caller.allow(
            line.scopes,
            line.calls_per_s if line.calls_per_s is not None else self._settings.token_calls_per_s,
            line.max_in_flight if line.max_in_flight is not None else self._settings.token_max_in_flight,
        )
        return caller


def check_scope(caller: Caller, scope: Scope) -> None:
    """Refuse what the token does not allow.

    Raises:
        ForbiddenError: naming the scope that is missing.
    """
    if scope not in caller.scopes:
        raise ForbiddenError(f"the token of {caller.name} does not have the scope {scope.value}, which this needs")


def access(settings: ServerSettings) -> Access | None:
    """The table of tokens; None where the settings name none.

    Raises:
        ConfigurationError: the file or the variable cannot be used.
    """
    return Access(settings) if settings.tokens_file is not None or settings.tokens is not None else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _read(settings: ServerSettings) -> tuple[_Line, ...]:
    lines: list[_Line] = []
    if settings.tokens_file is not None:
        content = read_file("HEADWATER_TOKENS_FILE", settings.tokens_file)
        lines += _parse(f"HEADWATER_TOKENS_FILE: {settings.tokens_file}", content.decode(errors="replace"))
    if settings.tokens is not None:
        lines += _parse("HEADWATER_TOKENS", settings.tokens.get_secret_value())
    for what, of in (("name", lambda line: line.name), ("token", _Line.digest)):
        _check_unique(what, lines, of)
    return tuple(lines)


def _check_unique(what: str, lines: Sequence[_Line], of: Callable[[_Line], object]) -> None:
    if len({of(line) for line in lines}) < len(lines):
        raise ConfigurationError(f"tokens: two of them have the same {what}")


def _parse(source: str, text: str) -> list[_Line]:
    """A JSON list of tokens, or a JSON object in each line. What is wrong is said without repeating any of it."""
    try:
        values = list(_values(text))
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{source}: is not JSON: {error.msg} at line {error.lineno}") from None
    except ValueError as error:  # too deep, or a number of thousands of digits
        raise ConfigurationError(f"{source}: cannot be read: {error}") from None
    if not values and text.strip() != "[]":
        raise ConfigurationError(f"{source}: is empty; a list of no tokens is written []")
    lines: list[_Line] = []
    for number, value in enumerate(values, 1):
        try:
            lines.append(_Line.model_validate(value))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            # A field that nobody knows may be a token in the wrong place.
            where = ".".join(str(part) for part in first["loc"] if part in _Line.model_fields) or "as a whole"
            raise ConfigurationError(f"{source}: token {number}: {where}: {first['msg']}") from None
    return lines


def _values(text: str) -> Iterator[Any]:
    if text.lstrip().startswith("["):
        yield from parse_json(text)
        return
    for line in text.splitlines():
        if line.strip():
            yield parse_json(line)
