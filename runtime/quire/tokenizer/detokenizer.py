"""Text of one sequence while its tokens are being generated."""

from __future__ import annotations

from collections.abc import Sequence

from quire.sampling_params import SamplingParams
from quire.tokenizer.hidden_text import HiddenText
from quire.tokenizer.stop_strings import StopStringMatcher
from quire.tokenizer.text_stream import text_stream
from quire.tokenizer.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Turns the tokens of one sequence into text as they come, and finds stop strings.

    A character is never split, and text that could be the beginning of a stop string waits until it is clear that
    it is none. All pieces together are the text that decoding prompt and output at once adds to the prompt's, up to
    the stop string. The cost per token does not grow with the length.

    A stop string may hold the text of special tokens: it is found whether or not they are shown, and a stop string
    that is kept in the text is kept whole.

    Attributes:
        stop_string: the stop string that was found, or None. Nothing is shown after it.
        num_tokens: tokens taken so far, the one that completed the stop string included.
        offsets: with logprobs, per token taken: the character at which it begins, stop strings not cut off.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        self._stream = text_stream(tokenizer, prompt_ids, params.skip_special_tokens)
        self._matcher = StopStringMatcher(params.stop_strings, params.include_stop_str_in_output)
        self._keeps_match = params.include_stop_str_in_output
        self._special = _special_in(params.stop_strings, tokenizer)
        self._skips_special = params.skip_special_tokens
        self._hidden = HiddenText() if self._special else None
        self._min_tokens = params.min_tokens
        self.num_tokens = 0
        self.offsets: list[int] | None = None if params.logprobs is None else []
        self._num_chars = 0

    @property
    def stop_string(self) -> str | None:
        return self._matcher.matched

    def append(self, token_id: int) -> str:
        """Takes the next token; returns the text that became certain with it.

        The text of the first `min_tokens` tokens is not searched for stop strings. After a match, tokens are ignored.
        """
        if self.stop_string is not None:
            return ""
        self.num_tokens += 1
        piece = self._stream.push(token_id) if self.offsets is None else self._push_at(token_id, self.offsets)
        if self.num_tokens <= self._min_tokens:
            return piece
        if self._hidden is not None and self._skips_special and token_id in self._special:
            return self._search(self._special[token_id], is_hidden=True)
        return self._search(piece)

    def end(self, token_id: int) -> str:
        """Takes the token that ended the sequence and is not shown; it may complete a stop string all the same."""
        self.num_tokens += 1
        if self.offsets is not None:
            self.offsets.append(self._num_chars)
        if token_id not in self._special or self.num_tokens <= self._min_tokens:
            return ""
        return self._search(self._special[token_id], is_hidden=True)

    def finish(self) -> str:
        """The text still held back, once the sequence has ended; may complete a stop string."""
        if self.stop_string is not None:
            return ""
        shown = self._search(self._stream.flush())
        rest = self._matcher.flush()
        return shown + (rest if self._hidden is None else self._hidden.visible(rest))

    def _push_at(self, token_id: int, offsets: list[int]) -> str:
        num_before, piece = self._stream.push_at(token_id)
        offsets.append(self._num_chars + num_before)
        self._num_chars += len(piece)
        return piece

    def _search(self, piece: str, *, is_hidden: bool = False) -> str:
        """The text that may be shown once `piece` is searched too."""
        shown = self._matcher.push(piece)
        if self._hidden is None:
            return shown
        self._hidden.add(len(piece), is_hidden=is_hidden)
        match = self._matcher.matched if self._keeps_match and self._matcher.matched is not None else ""
        return self._hidden.visible(shown.removesuffix(match)) + match


def _special_in(stops: Sequence[str], tokenizer: Tokenizer) -> dict[int, str]:
    """The special tokens whose text is part of a stop string."""
    if not stops:
        return {}
    texts = {token_id: tokenizer.token_text(token_id) for token_id in tokenizer.special_token_ids}
    return {token_id: text for token_id, text in texts.items() if text and any(text in stop for stop in stops)}
