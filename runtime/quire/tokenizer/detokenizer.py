"""Text of one sequence while its tokens are being generated."""

from __future__ import annotations

from collections.abc import Sequence

from quire.sampling_params import SamplingParams
from quire.tokenizer.stop_strings import StopStringMatcher
from quire.tokenizer.text_stream import text_stream
from quire.tokenizer.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Turns the tokens of one sequence into text as they come, and finds stop strings.

    A character is never split, and text that could be the beginning of a stop string waits until it is clear that
    it is none. All pieces together are the text that decoding prompt and output at once adds to the prompt's, up to
    the stop string. The cost per token does not grow with the length.

    The token that ended the sequence (end of text, `stop_token_ids`) is not appended, unless its text is wanted.

    Attributes:
        stop_string: the stop string that was found, or None. Nothing is shown after it.
        num_tokens: tokens taken so far, the one that completed the stop string included.
        offsets: with logprobs, per token taken: the character at which it begins, stop strings not cut off.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        self._stream = text_stream(tokenizer, prompt_ids, params.skip_special_tokens)
        self._matcher = StopStringMatcher(params.stop_strings, params.include_stop_str_in_output)
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
        return self._matcher.push(piece)

    def skip(self) -> None:
        """Takes the token that ended the sequence, which has no place in the text."""
        if self.offsets is not None:
            self.offsets.append(self._num_chars)

    def _push_at(self, token_id: int, offsets: list[int]) -> str:
        num_before, piece = self._stream.push_at(token_id)
        offsets.append(self._num_chars + num_before)
        self._num_chars += len(piece)
        return piece

    def finish(self) -> str:
        """The text still held back, once the sequence has ended; may complete a stop string."""
        if self.stop_string is not None:
            return ""
        shown = self._matcher.push(self._stream.flush())
        return shown + self._matcher.flush()
