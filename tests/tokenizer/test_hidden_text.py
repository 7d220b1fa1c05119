from __future__ import annotations

from quire.tokenizer.hidden_text import HiddenText


def test_hidden_characters_are_left_out_however_the_text_is_cut() -> None:
    for cut in range(10):
        hidden = HiddenText()
        for piece, is_hidden in (("ab", False), ("<s>", True), ("", True), ("cd", False), ("<e>", True)):
            hidden.add(len(piece), is_hidden=is_hidden)
        text = "ab<s>cd<e>"
        assert hidden.visible(text[:cut]) + hidden.visible(text[cut:]) == "abcd"
