"""The sentences of reasons, by locale: templates in `locales/`, one TOML file for each language.

What comes from outside (titles, queries, attributes) is only ever put into a template, never read as one.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from headwater_core.errors import InvalidFieldError
from headwater_server.errors import shown

DEFAULT_LOCALE = "en"
MAX_LOCALE_BYTES = 64
_FOLDER = Path(__file__).parent / "locales"
_OTHER = "other"
# Every tag of BCP 47 (RFC 5646), and some that no registry knows: those are well-formed, and fall back.
_TAG = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")


def check_locale(locale: str) -> None:
    """Refuse what is no language tag; "" is none at all.

    Raises:
        InvalidFieldError: naming the field `locale`.
    """
    if locale and (len(locale) > MAX_LOCALE_BYTES or not _TAG.fullmatch(locale)):
        raise InvalidFieldError("locale", f"{shown(locale)} is no BCP 47 language tag, as `en` or `de-CH` are")


@dataclass(frozen=True, slots=True)
class Wording:
    """How things are said in one language."""

    locale: str
    events: Mapping[str, Template]
    sources: Mapping[str, Template]
    phrases: Mapping[str, Template]

    def event(self, event_type: str, what: str) -> str:
        """Because of an event. Args: what: the title of its item, or the query of a search."""
        return self.events.get(event_type, self.events[_OTHER]).substitute(what=self._quoted(what))

    def context(self, title: str) -> str:
        """Because of an item that is looked at just now."""
        return self.phrases["context"].substitute(what=self._quoted(title))

    def source(self, name: str) -> str:
        """What proposed an item."""
        return self.sources[name].substitute()

    def with_shared(self, reason: str, shared: Sequence[str]) -> str:
        """A reason that goes on to say what both items have; as it is when they share nothing."""
        if not shared:
            return reason
        joined = self.phrases["separator"].template.join(shared)
        return self.phrases["shared"].substitute(reason=reason, shared=joined)

    def _quoted(self, text: str) -> str:
        return self.phrases["quoted"].substitute(what=text)


def wording_of(locale: str) -> Wording:
    """The sentences for a checked locale: its own, else those of a shorter tag (RFC 4647, lookup), else English."""
    tag = locale.lower()
    while tag:
        if tag in locales():
            return _load(tag)
        tag = tag.rpartition("-")[0]
    return _load(DEFAULT_LOCALE)


def unspoken(locale: str) -> list[str]:
    """What the caller should know of a checked locale: nothing where there are sentences in its language."""
    if not locale:
        return []
    used = wording_of(locale).locale
    if used.partition("-")[0] == locale.lower().partition("-")[0]:
        return []
    return [f"locale: there are no sentences in {locale!r}; they are in {used!r}"]


@functools.cache
def locales() -> frozenset[str]:
    """Those that there are sentences for, in lower case."""
    return frozenset(path.stem for path in _FOLDER.glob("*.toml"))


@functools.cache
def _load(locale: str) -> Wording:
    content = tomllib.loads((_FOLDER / f"{locale}.toml").read_text(encoding="utf-8"))
    parts = {part: {name: Template(text) for name, text in named.items()} for part, named in content.items()}
    return Wording(locale, parts["events"], parts["sources"], parts["phrases"])
