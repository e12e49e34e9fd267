"""What counts as a word, and what is one slip of the fingers away from it."""

from __future__ import annotations

import unicodedata

import pytest

from headwater_core.search_words import MAX_WORD_CHARS, ends_within_word, single_edits, title_key, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("?! _-", []),
        ("The Matrix (1999)", ["the", "matrix", "1999"]),
        ("Amélie ÀÉÎ", ["amelie", "aei"]),
        ("STRASSE Straße", ["strasse", "strasse"]),
        ("İstanbul", ["istanbul"]),
        ("it's rock'n'roll", ["it", "s", "rock", "n", "roll"]),
        ("snake_case", ["snake", "case"]),
        ("千と千尋2", ["千", "と", "千", "尋", "2"]),
        ("안녕 ДОМ", ["안녕", "дом"]),
        ("x" * 100, ["x" * MAX_WORD_CHARS]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    """Letters and digits, without case and accents; ideographs alone."""
    assert [unicodedata.normalize("NFC", word) for word in words(text)] == expected


def test_words_stay_what_they_are() -> None:
    """Folding twice changes nothing more."""
    for text in ("ŉǰß ﬃ Ⅷ ½", "नमस्ते สวัสดี", "Ǆ ΐ ᾳ"):
        assert words(" ".join(words(text))) == words(text)
        assert all(word.isalnum() for word in words(text))


def test_titles_of_the_same_words_have_the_same_key() -> None:
    """In any order, each as often."""
    assert title_key(words("The Matrix")) == title_key(words("Matrix, the!"))
    assert title_key(words("The Matrix")) != title_key(words("The The Matrix"))


def test_a_word_ends_with_what_is_no_letter() -> None:
    """Who sets a space has finished it."""
    assert [ends_within_word(text) for text in ("matr", "3", "matrix ", "matrix!", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_single_edits() -> None:
    """A letter too many, one too few, another one, two in the wrong order; never the word itself."""
    edits = single_edits("matrx")
    assert {"matrix", "matr", "amtrx", "matrz", "matrx1", "xmatrx"} <= set(edits)
    assert "matrx" not in edits
    assert len(edits) == len(set(edits))
    assert "" not in single_edits("a")
