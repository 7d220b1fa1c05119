"""How texts are cut into words before byte-level BPE: what `tokenizer.ggml.pre` names.

The patterns are those of the models' own tokenizer.json; the list of names is llama.cpp's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting.

    Attributes:
        patterns: applied one after the other to the pieces of the one before; what lies between matches is a piece.
        normalizes: texts are brought into Unicode's form NFC first.
        ignores_merges: a word that is in the vocabulary is taken whole.
        adds_bos: texts begin with bos unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    normalizes: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False


_SPACES = r"\s+(?!\S)|\s+"
_GPT2 = rf"'(?:[sdmt]|ll|ve|re)| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_SPACES}"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _words(digits: str) -> str:
    """The pattern of GPT-4's kind: contractions, letters with what precedes them, digits, signs, line ends."""
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
    )


def _cased_words(digits: str, contractions: str) -> str:
    """The same with words that end where lower case turns to upper case."""
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{contractions}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{contractions}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_SPACES}"
    )


_LLAMA3 = PreTokenizer((_words(r"\p{N}{1,3}"),), ignores_merges=True, adds_bos=True)
_LLAMA3_MERGED = PreTokenizer((_words(r"\p{N}{1,3}"),))
_QWEN2 = PreTokenizer((_words(r"\p{N}"),), normalizes=True)
_QWEN2_RAW = PreTokenizer((_words(r"\p{N}"),))
_TEKKEN = PreTokenizer((_cased_words(r"\p{N}", ""),), ignores_merges=True, adds_bos=True)
_GPT4O = PreTokenizer((_cased_words(r"\p{N}{1,3}", f"{_CONTRACTIONS}?"),))
_PLAIN = PreTokenizer((_GPT2,))
_SINGLE_DIGITS = PreTokenizer((r"\p{N}", _GPT2))

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0"), _LLAMA3),
        **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA3_MERGED),
        "qwen2": _QWEN2,
        **dict.fromkeys(("deepseek-r1-qwen", "megrez"), _QWEN2_RAW),
        "tekken": _TEKKEN,
        **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
        **dict.fromkeys(("gpt-2", "phi-2", "mpt"), _PLAIN),
        "olmo": PreTokenizer((_GPT2,), normalizes=True),
        **dict.fromkeys(("starcoder", "refact", "smollm", "codeshell", "minerva-7b", "command-r"), _SINGLE_DIGITS),
        "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
        "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
        "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    }
)
"""Name in the file -> how it cuts."""
