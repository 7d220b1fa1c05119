"""SentencePiece's BPE over the scores of a vocabulary, without a list of merges.

Of two neighbours the pair whose union scores best is joined first, until no union is a token. A list of all such pairs,
as `tokenizers` wants it, has twice as many entries as the vocabulary and costs seconds to make; the vocabulary itself
says as much.

Source: Sennrich et al., arXiv:1508.07909 (BPE); Kudo and Richardson, arXiv:1808.06226 (SentencePiece).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import numpy as np
from tokenizers import NormalizedString, PreTokenizedString

_WHOLE_UP_TO = 48
"""Characters of a text that is not worth cutting into words first."""

_STAGES = (1 << 14, 1 << 8)
"""Characters of the parts into which a text is cut before it is cut into tokens."""

_MOST_REMEMBERED = 1 << 16
"""Words whose pieces are kept."""

_LONGEST_REMEMBERED = 32


class PieceMerger:
    """Cuts texts into tokens. A pre-tokenizer for `tokenizers`: its model then takes each piece whole.

    Texts are first cut where no token of the vocabulary goes across, which changes nothing and makes words that come
    again; what was found for a word is remembered.

    Args:
        tokens: those that may be joined and come of joining, in the order of their ids.
        ranks: of each, the best first.
        unknown_stay_together: neighbours that are no tokens are left in one piece (they become one unknown token).
    """

    def __init__(self, tokens: Sequence[str], ranks: Sequence[int], *, unknown_stay_together: bool) -> None:
        self._known = dict(zip(tokens, range(len(tokens)), strict=True))
        self._ranks = ranks
        self._unknown_stay_together = unknown_stay_together
        self._inner_pairs: np.ndarray | None = None
        self._pieces_of: dict[str, tuple[str, ...]] = {}

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Called by `tokenizers`. A slice costs as much as what lies before it, so long texts are cut in stages."""
        for size in _STAGES:
            text.split(lambda _, part, size=size: _slices(part, self._words(part.normalized, size)))
        text.split(lambda _, part: _slices(part, self.pieces(part.normalized)))

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text, in order; characters that are no token stand alone or together, as was asked for."""
        return [piece for word in self._words(text, 1) for piece in self._remembered(word)]

    def _words(self, text: str, size: int) -> list[str]:
        """The text cut at safe places into parts of about `size` characters, or as few as there are places for."""
        if len(text) <= max(size, _WHOLE_UP_TO):
            return [text]
        words = []
        start = 0
        for stop in self._safe_cuts(text):
            if stop - start >= size:
                words.append(text[start:stop])
                start = stop
        return [*words, text[start:]]

    def _remembered(self, word: str) -> tuple[str, ...]:
        if len(word) > _LONGEST_REMEMBERED:
            return tuple(self._merged(word))
        found = self._pieces_of.get(word)
        if found is None:
            if len(self._pieces_of) >= _MOST_REMEMBERED:
                self._pieces_of.clear()
            found = self._pieces_of[word] = tuple(self._merged(word))
        return found

    def _safe_cuts(self, text: str) -> list[int]:
        """Where two characters meet that no token has next to each other; neighbours that stay together excepted."""
        if self._inner_pairs is None:
            self._inner_pairs = _pairs_inside(self._known)
        pairs = _pairs(text)
        found = self._inner_pairs[np.searchsorted(self._inner_pairs, pairs)]
        cuts: list[int] = (np.flatnonzero(found != pairs) + 1).tolist()
        if self._unknown_stay_together:
            return [cut for cut in cuts if text[cut - 1] in self._known or text[cut] in self._known]
        return cuts

    def _merged(self, word: str) -> list[str]:
        """Joins the best pair until there is none. Symbols form a list with holes: `after` and `before` skip them."""
        symbols = list(word)
        before, after = list(range(-1, len(symbols) - 1)), list(range(1, len(symbols) + 1))
        waiting: list[tuple[int, int, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            """Of pairs of one union, whose left side has the smaller id comes first."""
            union = symbols[left] + symbols[right]
            joined = self._known.get(union)
            if joined is None:
                return
            ids = self._known.get(symbols[left]), self._known.get(symbols[right])
            if ids[0] is not None and ids[1] is not None:
                heapq.heappush(waiting, (self._ranks[joined], ids[0], ids[1], left, union))

        for place in range(len(symbols) - 1):
            offer(place, place + 1)
        while waiting:
            _, _, _, left, union = heapq.heappop(waiting)
            right = after[left]
            if not symbols[left] or right == len(symbols) or symbols[left] + symbols[right] != union:
                continue  # one of the two was joined with another neighbour
            symbols[left], symbols[right] = union, ""
            after[left] = after[right]
            if after[left] < len(symbols):
                before[after[left]] = left
                offer(left, after[left])
            if before[left] >= 0:
                offer(before[left], left)
        pieces = [symbol for symbol in symbols if symbol]
        return self._with_unknown_joined(pieces) if self._unknown_stay_together else pieces

    def _with_unknown_joined(self, pieces: Iterable[str]) -> list[str]:
        joined: list[str] = []
        was_unknown = False
        for piece in pieces:
            is_unknown = piece not in self._known
            if is_unknown and was_unknown:
                joined[-1] += piece
            else:
                joined.append(piece)
            was_unknown = is_unknown
        return joined


def _slices(text: NormalizedString, parts: Iterable[str]) -> list[NormalizedString]:
    stops = list(accumulate(map(len, parts)))
    return [text.slice(span) for span in pairwise([0, *stops])]  # type: ignore[misc]  # None only beyond the text


def _pairs(text: str) -> np.ndarray:
    """uint64 [len(text) - 1]: each character and the next as one number."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    return (codes[:-1] << np.uint64(32)) | codes[1:]


def _pairs_inside(tokens: Iterable[str]) -> np.ndarray:
    """The pairs of neighbouring characters of all tokens, ascending, each once; and a last one that is no pair.

    Tokens are joined with NUL: that adds pairs with NUL, which forbid a cut and never allow a wrong one.
    """
    return np.append(np.unique(_pairs("\0".join(tokens))), np.uint64(2**64 - 1))
