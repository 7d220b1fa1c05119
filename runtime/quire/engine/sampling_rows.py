"""Sampling parameters of the running sequences in persistent arrays, and a step's SamplingBatch cut out of them.

A sequence's parameters are written once, when it gets its row; a step gathers the rows it draws for. A feature
that no drawing row uses stays None in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quire.sampling.batch import I32, SamplingBatch, TokenLists
from quire.sampling_params import SamplingParams
from quire.scheduler.sequence import Request, Sequence

TOP_K, TOP_P, MIN_P, PENALTIES, ALLOWED, BANNED, BIAS, LOGPROBS = (1 << bit for bit in range(8))

_NONE = np.empty(0, np.int32)
_NO_VALUES = np.empty(0, np.float32)


def num_logprobs(asked: int | None, vocab_size: int) -> int:
    """Top tokens to report: -1 = no logprobs at all. A request says -1 for the whole vocabulary, None for none."""
    return -1 if asked is None else vocab_size if asked == -1 else asked


def has_penalties(params: SamplingParams) -> bool:
    """Whether a draw depends on the tokens before it."""
    return (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1.0, 0.0, 0.0)


class OutputHistory:
    """A sequence's output tokens as an array that grows with them."""

    def __init__(self) -> None:
        self._buffer = np.empty(64, np.int32)
        self._length = 0

    def update(self, output_token_ids: list[int]) -> I32:
        """int32 [len(output_token_ids)]; only tokens added since the last call are copied."""
        length = len(output_token_ids)
        if length > len(self._buffer):
            self._buffer = np.resize(self._buffer, max(length, 2 * len(self._buffer)))
        self._buffer[self._length : length] = output_token_ids[self._length :]
        self._length = length
        return self._buffer[:length]


@dataclass(slots=True)
class RowLists:
    """The ragged parameters of one row; what a row does not use is empty."""

    allowed: I32
    bias_tokens: I32
    bias_values: np.ndarray
    history: OutputHistory

    @staticmethod
    def of(request: Request) -> RowLists:
        params, bias = request.params, request.params.logit_bias or {}
        return RowLists(
            allowed=np.array(params.allowed_token_ids or (), np.int32),
            bias_tokens=np.array(list(bias), np.int32),
            bias_values=np.array(list(bias.values()), np.float32),
            history=OutputHistory(),
        )


@dataclass(frozen=True, slots=True)
class _Gathered:
    """What was gathered for some rows: valid until one of the arrays is written, and shared by steps.

    Attributes:
        table_rows: bytes of the int32 rows. used: features of any of them. arrays: fields of a SamplingBatch.
    """

    table_rows: bytes
    used: int
    arrays: Mapping[str, np.ndarray]


class SamplingRows:
    """Persistent sampling parameters, one row per running sequence (the row of its block tables)."""

    def __init__(self, max_num_seqs: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._features = np.zeros(max_num_seqs, np.int32)
        self._temperature = np.zeros(max_num_seqs, np.float32)
        self._seed = np.zeros(max_num_seqs, np.uint64)
        self._sequence_index = np.zeros(max_num_seqs, np.uint32)
        self._top_k = np.zeros(max_num_seqs, np.int32)
        self._top_p = np.ones(max_num_seqs, np.float32)
        self._min_p = np.zeros(max_num_seqs, np.float32)
        self._repetition_penalty = np.ones(max_num_seqs, np.float32)
        self._presence_penalty = np.zeros(max_num_seqs, np.float32)
        self._frequency_penalty = np.zeros(max_num_seqs, np.float32)
        self._num_logprobs = np.full(max_num_seqs, -1, np.int32)
        self._lists: list[RowLists | None] = [None] * max_num_seqs
        self._last: _Gathered | None = None

    def fill(self, row: int, sequence: Sequence) -> None:
        """Writes the parameters of a sequence that got `row`."""
        request, params = sequence.request, sequence.request.params
        self._temperature[row] = params.temperature
        self._seed[row] = request.seed
        self._sequence_index[row] = sequence.index
        self._top_k[row] = params.top_k
        self._top_p[row] = params.top_p
        self._min_p[row] = params.min_p
        self._repetition_penalty[row] = params.repetition_penalty
        self._presence_penalty[row] = params.presence_penalty
        self._frequency_penalty[row] = params.frequency_penalty
        self._num_logprobs[row] = num_logprobs(params.logprobs, self._vocab_size)
        features = _features_of(request)
        self._features[row] = features
        self._lists[row] = RowLists.of(request) if features & (PENALTIES | ALLOWED | BIAS) else None
        self._last = None

    def build(self, sequences: list[Sequence], table_rows: I32, logits_rows: I32, positions: I32) -> SamplingBatch:
        """The draws of one step. Steps that draw for the same rows share the arrays of their parameters.

        Args:
            sequences: [R] who draws; their in-flight tokens include the one to be drawn.
            table_rows: int32 [R], row of each in these arrays.
            logits_rows: int32 [R], row of the step's logits that each draws from.
            positions: int32 [R], index in the sequence that the drawn token will have.
        """
        table_bytes = table_rows.tobytes()
        gathered = self._last
        if gathered is None or table_bytes != gathered.table_rows:  # else the step before drew for the same rows
            gathered = self._last = self._gather(table_rows, table_bytes)
        lists: dict[str, TokenLists] = {}
        if gathered.used & (PENALTIES | ALLOWED | BANNED | BIAS):
            lists = self._lists_of(gathered.used, sequences, table_rows)
        return SamplingBatch(rows=logits_rows, position=positions, **gathered.arrays, **lists)  # type: ignore[arg-type]

    def _gather(self, table_rows: I32, table_bytes: bytes) -> _Gathered:
        arrays: dict[str, np.ndarray] = {
            "temperature": self._temperature[table_rows],
            "seed": self._seed[table_rows],
            "sequence_index": self._sequence_index[table_rows],
        }
        used = int(np.bitwise_or.reduce(self._features[table_rows]))
        if used & TOP_K:
            arrays["top_k"] = self._top_k[table_rows]
        if used & TOP_P:
            arrays["top_p"] = self._top_p[table_rows]
        if used & MIN_P:
            arrays["min_p"] = self._min_p[table_rows]
        if used & LOGPROBS:
            arrays["num_logprobs"] = self._num_logprobs[table_rows]
        if used & PENALTIES:
            arrays["repetition_penalty"] = self._repetition_penalty[table_rows]
            arrays["presence_penalty"] = self._presence_penalty[table_rows]
            arrays["frequency_penalty"] = self._frequency_penalty[table_rows]
        return _Gathered(table_bytes, used, arrays)

    def _lists_of(self, used: int, sequences: list[Sequence], table_rows: I32) -> dict[str, TokenLists]:
        rows = [self._lists[row] for row in table_rows.tolist()]
        features = self._features[table_rows].tolist()
        lists: dict[str, TokenLists] = {}
        if used & PENALTIES:
            penalised = [bool(feature & PENALTIES) for feature in features]
            lists["prompt_tokens"] = _ragged(
                [seq.request.prompt if on else _NONE for seq, on in zip(sequences, penalised, strict=True)]
            )
            lists["output_tokens"] = _ragged(
                [
                    row.history.update(seq.output_token_ids) if on and row else _NONE
                    for seq, row, on in zip(sequences, rows, penalised, strict=True)
                ]
            )
        if used & ALLOWED:
            lists["allowed"] = _ragged([row.allowed if row else _NONE for row in rows])
        if used & BIAS:
            lists["bias"] = _ragged(
                [row.bias_tokens if row else _NONE for row in rows],
                [row.bias_values if row else _NO_VALUES for row in rows],
            )
        if used & BANNED:
            banned = [
                _banned(seq) if feature & BANNED else _NONE for seq, feature in zip(sequences, features, strict=True)
            ]
            if any(len(tokens) for tokens in banned):
                lists["banned"] = _ragged(banned)
        return lists


def _features_of(request: Request) -> int:
    params = request.params
    return (
        TOP_K * (params.top_k > 0)
        | TOP_P * (params.top_p < 1.0)
        | MIN_P * (params.min_p > 0.0)
        | PENALTIES * has_penalties(params)
        | ALLOWED * bool(params.allowed_token_ids)
        | BANNED * bool(request.bad_words or (params.min_tokens and request.stop_token_ids))
        | BIAS * bool(params.logit_bias)
        | LOGPROBS * (params.logprobs is not None)
    )


def _banned(sequence: Sequence) -> I32:
    """Tokens that must not be drawn next: stops before min_tokens, and ends of bad words that have begun."""
    request, output = sequence.request, sequence.output_token_ids
    banned: set[int] = set()
    num_before_draw = sequence.num_tokens - 1 - sequence.num_prompt_tokens
    if num_before_draw < request.params.min_tokens:
        banned.update(request.stop_token_ids)
    for word in request.bad_words:
        begun = len(word) - 1
        if begun == 0 or tuple(output[-begun:]) == word[:-1]:
            banned.add(word[-1])
    return np.array(sorted(banned), np.int32)


def _ragged(lists: list[I32], values: list[np.ndarray] | None = None) -> TokenLists:
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum([len(tokens) for tokens in lists], out=offsets[1:])
    return TokenLists(offsets, np.concatenate(lists), None if values is None else np.concatenate(values))
