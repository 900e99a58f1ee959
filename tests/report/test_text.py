"""What could hide, reorder or command is made visible."""

from __future__ import annotations

import pytest

from harness.report.text import counted, pair_texts, shorten, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ümläut, 漢字, 🙂", "plain text, ümläut, 漢字, 🙂"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\x00b", r"a\x00b"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2066b\u200bc\ufeffd", r"a\u2066b\u200bc\ufeffd"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x85\x9b", r"\x85\x9b"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_unseen_characters_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lines_keep_their_breaks_and_nothing_else() -> None:
    assert visible("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


def test_what_is_shown_is_stable() -> None:
    text = "".join(map(chr, range(0x3000)))
    assert visible(visible(text)) == visible(text)


def test_short_texts() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abc..."
    assert (counted(1, "pair"), counted(2000, "pair")) == ("1 pair", "2,000 pairs")


def test_a_pair_has_all_its_texts_or_none() -> None:
    row = {"id": 1, "prompt": "p", "chosen": "c", "rejected": "r"}
    texts = pair_texts(row)
    assert texts is not None
    assert (texts.prompt.head, texts.chosen.head, texts.rejected.head) == ("p", "c", "r")
    assert pair_texts(None) is None
    assert pair_texts({"id": 1, "prompt": "p", "chosen": "c"}) is None
