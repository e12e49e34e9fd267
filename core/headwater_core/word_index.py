"""Where the words of items are looked up: an FTS5 table on SQLite, tsvectors with a GIN index on PostgreSQL.

The databases' own parsers are not asked what a word is, `search_words` is: so both find the same, and what callers type
arrives as quoted letters and digits, which can be no operator and no error.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

from sqlalchemy import Connection, TextClause, text

from headwater_core.search_words import title_key, words

_MAX_POSITIONS = 256
"""PostgreSQL keeps so many places of a word in a text."""


class Word(NamedTuple):
    """A word to look up."""

    letters: str
    is_beginning: bool = False
    """Whether all words that begin so match."""


Choice: TypeAlias = tuple[Word, ...]
"""Words of which any one will do."""


class WordIndex(ABC):
    """One tenant's words, as one connection sees them."""

    _FIND: ClassVar[TextClause]
    _COUNT: ClassVar[TextClause]
    _IN_USE: ClassVar[TextClause]
    _PUT: ClassVar[TextClause]
    _REMOVE: ClassVar[TextClause]

    def __init__(self, connection: Connection, tenant: str) -> None:
        self._connection = connection
        self._tenant = tenant

    def put(self, written: Sequence[Mapping[str, Any]]) -> None:
        """Make items findable as they are now, deleted ones no longer. Args: written: rows of the table `items`."""
        rows = [self._row(item) for item in written if not item["deleted"]]
        gone = [self._key(item["item_id"]) for item in written if item["deleted"]]
        if rows:
            self._connection.execute(self._PUT, sorted(rows, key=self._order))
        if gone:
            self._connection.execute(self._REMOVE, gone)

    def titled(self, title_words: Sequence[str], limit: int) -> list[str]:
        """At most `limit` items whose titles have exactly these words, in any order."""
        return self._find(self._titled(title_key(title_words)), limit)

    def find(self, choices: Sequence[Choice], limit: int) -> list[str]:
        """At most `limit` items that have a word of every choice, best first: a title counts most, a description least.

        Raises:
            ValueError: there is no choice, or an empty one.
        """
        return self._find(self._expression(choices), limit)

    def count(self, choice: Choice, limit: int) -> int:
        """How many items have a word of the choice; counted to the limit.

        Raises:
            ValueError: the choice is empty.
        """
        parameters = {"tenant": self._tenant, "expression": self._expression([choice]), "limit": limit}
        return int(self._connection.execute(self._COUNT, parameters).scalar_one())

    def in_use(self, candidates: Sequence[str]) -> list[str]:
        """Those of the words that some item has: hundreds are asked for at once, a choice of so many would be slow."""
        parameters = {"tenant": self._tenant, "candidates": self._list(candidates)}
        return list(self._connection.execute(self._IN_USE, parameters).scalars())

    def _find(self, expression: str, limit: int) -> list[str]:
        parameters = {"tenant": self._tenant, "expression": expression, "limit": limit}
        return list(self._connection.execute(self._FIND, parameters).scalars())

    def _expression(self, choices: Sequence[Choice]) -> str:
        if not choices or not all(choices):
            raise ValueError("a choice of no words matches nothing")
        return self._joined([[self._term(word) for word in choice] for choice in choices])

    @abstractmethod
    def _titled(self, key: str) -> str: ...

    @abstractmethod
    def _joined(self, terms: Sequence[Sequence[str]]) -> str: ...

    @abstractmethod
    def _term(self, word: Word) -> str: ...

    @abstractmethod
    def _list(self, candidates: Sequence[str]) -> Any: ...

    @abstractmethod
    def _key(self, item_id: str) -> dict[str, Any]: ...

    @abstractmethod
    def _row(self, item: Mapping[str, Any]) -> dict[str, Any]: ...

    @abstractmethod
    def _order(self, row: Mapping[str, Any]) -> Any: ...


def word_index(connection: Connection, tenant: str) -> WordIndex:
    """The index of the connection's database."""
    kind = _Fts5 if connection.dialect.name == "sqlite" else _Tsvector
    return kind(connection, tenant)


class _Fts5(WordIndex):
    """Rows are replaced and removed by their rowid, which is a hash of tenant and item: FTS5 has no other key."""

    # bm25's weights are the columns', from the first; tenant, item_id and title_key do not count.
    _FIND = text(
        "SELECT item_id FROM item_words WHERE item_words MATCH :expression AND tenant = :tenant "
        "ORDER BY bm25(item_words, 0, 0, 0, 10, 4, 2, 1), item_id LIMIT :limit"
    )
    _COUNT = text(
        "SELECT count(*) FROM (SELECT 1 FROM item_words "
        "WHERE item_words MATCH :expression AND tenant = :tenant LIMIT :limit)"
    )
    _IN_USE = text(
        "SELECT value FROM json_each(:candidates) WHERE EXISTS (SELECT 1 FROM item_words "
        """WHERE item_words MATCH '- title_key : "' || value || '"' AND tenant = :tenant)"""
    )
    _PUT = text(
        "INSERT OR REPLACE INTO item_words "
        "(rowid, tenant, item_id, title_key, title, categories, attributes, description) "
        "VALUES (:row, :tenant, :item_id, :title_key, :title, :categories, :attributes, :description)"
    )
    _REMOVE = text("DELETE FROM item_words WHERE rowid = :row")

    def _titled(self, key: str) -> str:
        return f"title_key : {key}"

    def _joined(self, terms: Sequence[Sequence[str]]) -> str:
        choices = (f"({' OR '.join(choice)})" for choice in terms)
        return f"- title_key : ({' AND '.join(choices)})"

    def _term(self, word: Word) -> str:
        return f'"{word.letters}" *' if word.is_beginning else f'"{word.letters}"'

    def _list(self, candidates: Sequence[str]) -> str:
        return json.dumps(list(candidates))

    def _key(self, item_id: str) -> dict[str, Any]:
        digest = hashlib.sha256(f"{self._tenant}\0{item_id}".encode()).digest()
        return {"row": int.from_bytes(digest[:8], signed=True)}

    def _row(self, item: Mapping[str, Any]) -> dict[str, Any]:
        texts = {field: " ".join(its_words) for field, its_words in _words_by_field(item).items()}
        item_id = item["item_id"]
        key = title_key(words(item["title"]))
        return {**self._key(item_id), **texts, "tenant": self._tenant, "item_id": item_id, "title_key": key}

    def _order(self, row: Mapping[str, Any]) -> int:
        # FTS5 writes out what it has gathered whenever a rowid is not above the one before.
        row_id: int = row["row"]
        return row_id


class _Tsvector(WordIndex):
    """Vectors and queries are written out word by word. A title's key is a word that begins as no word does."""

    _LABELS: ClassVar[Mapping[str, str]] = {"title": "A", "categories": "B", "attributes": "C", "description": "D"}
    # The weights are those of D, C, B and A; 1: the longer a text, the less a word in it counts.
    _FIND = text(
        "SELECT item_id FROM item_words, CAST(:expression AS tsquery) AS wanted "
        "WHERE tenant = :tenant AND words @@ wanted "
        "ORDER BY ts_rank_cd('{0.1, 0.2, 0.4, 1.0}', words, wanted, 1) DESC, item_id LIMIT :limit"
    )
    _COUNT = text(
        "SELECT count(*) FROM (SELECT 1 FROM item_words "
        "WHERE tenant = :tenant AND words @@ CAST(:expression AS tsquery) LIMIT :limit) AS counted"
    )
    # Counted rather than looked for: to find one the planner would read the table instead of the index.
    _IN_USE = text(
        "SELECT candidate FROM unnest(CAST(:candidates AS text[])) AS candidate, LATERAL (SELECT count(*) AS items "
        "FROM item_words WHERE tenant = :tenant AND words @@ CAST(quote_literal(candidate) AS tsquery)) AS counted "
        "WHERE items > 0"
    )
    _PUT = text(
        "INSERT INTO item_words (tenant, item_id, words) VALUES (:tenant, :item_id, CAST(:words AS tsvector)) "
        "ON CONFLICT (tenant, item_id) DO UPDATE SET words = excluded.words"
    )
    _REMOVE = text("DELETE FROM item_words WHERE tenant = :tenant AND item_id = :item_id")

    def _titled(self, key: str) -> str:
        return f"'={key}'"

    def _joined(self, terms: Sequence[Sequence[str]]) -> str:
        return " & ".join(f"({' | '.join(choice)})" for choice in terms)

    def _term(self, word: Word) -> str:
        return f"'{word.letters}':*" if word.is_beginning else f"'{word.letters}'"

    def _list(self, candidates: Sequence[str]) -> list[str]:
        return list(candidates)

    def _key(self, item_id: str) -> dict[str, Any]:
        return {"tenant": self._tenant, "item_id": item_id}

    def _row(self, item: Mapping[str, Any]) -> dict[str, Any]:
        places: dict[str, list[str]] = {}
        position = itertools.count(1)
        for field, its_words in _words_by_field(item).items():
            for word in its_words:
                places.setdefault(word, []).append(f"{next(position)}{self._LABELS[field]}")
        lexemes = [f"'{word}':{','.join(at[:_MAX_POSITIONS])}" for word, at in places.items()]
        lexemes.append(self._titled(title_key(words(item["title"]))))
        return {**self._key(item["item_id"]), "words": " ".join(lexemes)}

    def _order(self, row: Mapping[str, Any]) -> str:
        item_id: str = row["item_id"]
        return item_id


def _words_by_field(item: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        "title": words(item["title"]),
        "categories": words(" ".join(item["categories"])),
        "attributes": words(" ".join(item["attributes"].values())),
        "description": words(item["description"]),
    }
