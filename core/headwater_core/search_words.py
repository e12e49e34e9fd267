"""The words that items are searched by: the same on both databases, whatever their own parsers make of a text."""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Sequence

MAX_WORD_CHARS = 64
"""What is longer is cut: no word that anybody types, and an index has limits of its own."""
_NO_SPACES_BETWEEN = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and ideographs: each is a word, since nothing tells where one ends."""
_WORD = re.compile(rf"[{_NO_SPACES_BETWEEN}]|(?:(?![{_NO_SPACES_BETWEEN}])[^\W_])+")


def words(text: str) -> list[str]:
    """The words of a text in their order: letters and digits alone, without case and accents."""
    return [word[:MAX_WORD_CHARS] for word in _WORD.findall(_folded(text))]


def ends_within_word(text: str) -> bool:
    """Whether the last word may go on: whoever types it has not set a space behind it."""
    return text[-1:].isalnum()


def title_key(title_words: Sequence[str]) -> str:
    """What titles of the same words have in common, in whatever order ("Matrix, The")."""
    return hashlib.sha256(" ".join(sorted(title_words)).encode()).hexdigest()[:32]


def single_edits(word: str) -> list[str]:
    """All that is one slip of the fingers away: a letter left out, put in, replaced, or two swapped."""
    letters = string.ascii_lowercase + string.digits
    splits = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    edits = [left + right[1:] for left, right in splits if right]
    edits += [left + right[1] + right[0] + right[2:] for left, right in splits if len(right) > 1]
    edits += [left + letter + right[1:] for left, right in splits if right for letter in letters]
    edits += [left + letter + right for left, right in splits for letter in letters]
    return [edit for edit in dict.fromkeys(edits) if edit and edit != word]


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(char for char in decomposed if not unicodedata.category(char).startswith("M"))
