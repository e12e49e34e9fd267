"""Finds items by what is written of them: their titles, categories, attribute values and descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headwater_core.database import Database
from headwater_core.search_words import ends_within_word, single_edits, words
from headwater_core.word_index import Choice, Word, WordIndex, word_index

MAX_WORDS = 32
"""Of a longer query the first words count."""
_SHORTEST_MENDED = 4
"""Shorter words are one slip of the fingers away from too many others."""
_SHORTEST_BEGINNING = 3
"""Fewer letters of a word that nobody has are no hint what was meant."""
_COUNTED = 1_000
"""Items that have a word are counted up to here."""
_AS_RARE = 10
"""Where no item has all words, those count that at most so many times more items have than the rarest."""


class Matches(NamedTuple):
    """What a query's words found."""

    item_ids: list[str]
    """Best first; hidden and expired items among them."""
    have_all_words: bool
    """False: there is no such item; these have some of the words."""


class ItemSearch:
    """Searches the items of one tenant; `Catalogue` keeps what is searched."""

    def __init__(self, database: Database, tenant: str = "default") -> None:
        self._database = database
        self._tenant = tenant

    def find(self, query: str, limit: int) -> Matches:
        """The items that have the query's words, at most `limit`.

        Titles of exactly the query's words, in any order, come first; then items with all of the words, wherever they
        are; then those where the last word, if it may still go on, has only begun. When there is none of these, words
        that no item has are mended, and if that leads nowhere the rarest words are enough.
        """
        typed = words(query)
        wanted = list(dict.fromkeys(typed))[:MAX_WORDS]
        if not wanted:
            return Matches([], have_all_words=True)
        *finished, last = ((Word(word),) for word in wanted)
        with self._database.read() as connection:
            index = word_index(connection, self._tenant)
            found = dict.fromkeys(index.titled(typed, limit))
            found.update(dict.fromkeys(index.find([*finished, last], limit)))
            if ends_within_word(query) and len(found) < limit:
                begun = (Word(wanted[-1], is_beginning=True),)
                found.update(dict.fromkeys(index.find([*finished, begun], limit)))
            if found:
                return Matches(list(found)[:limit], have_all_words=True)
            return _mended(index, wanted, limit)


def _mended(index: WordIndex, wanted: Sequence[str], limit: int) -> Matches:
    """What there is for words that no item has all of."""
    known = {choice: count for word in wanted for choice, count in _first_known(index, word)}
    if not known:
        return Matches([], have_all_words=False)
    if found := index.find(list(known), limit):
        return Matches(found, have_all_words=len(known) == len(wanted))
    bar = _AS_RARE * min(known.values())
    rarest = tuple(word for choice, count in known.items() if count <= bar for word in choice)
    return Matches(index.find([rarest], limit), have_all_words=False)


def _first_known(index: WordIndex, word: str) -> list[tuple[Choice, int]]:
    """What stands for a word, and how many items have it: itself, else its single edits, else its longest beginning."""
    if count := index.count(itself := (Word(word),), _COUNTED):
        return [(itself, count)]
    if len(word) >= _SHORTEST_MENDED and (edits := index.in_use(single_edits(word))):
        choice = tuple(map(Word, edits))
        return [(choice, index.count(choice, _COUNTED))]
    for length in range(len(word), _SHORTEST_BEGINNING - 1, -1):
        if count := index.count(beginning := (Word(word[:length], is_beginning=True),), _COUNTED):
            return [(beginning, count)]
    return []
