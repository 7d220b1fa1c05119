from __future__ import annotations

from typing import Any

import numpy as np

from quire.engine.admission import RequestLimits, make_request
from quire.engine.messages import EngineRequest
from quire.engine.sampling_rows import OutputHistory, SamplingRows
from quire.sampling.batch import SamplingBatch, TokenLists
from quire.sampling_params import SamplingParams
from quire.scheduler.sequence import Sequence

LIMITS = RequestLimits(vocab_size=100, max_model_len=64, max_logprobs=None, seed=0)


def sequence(output: tuple[int, ...] = (), **options: Any) -> Sequence:
    """A sequence that draws its next token in the step being built."""
    fields = {name: options.pop(name) for name in list(options) if name in EngineRequest.__dataclass_fields__}
    message = EngineRequest(request_id="a", prompt_token_ids=(1, 2, 3), params=SamplingParams(**options), **fields)
    made = Sequence(make_request(message, 0, LIMITS), 0, output_token_ids=list(output))
    made.num_tokens += 1
    made.num_inflight_tokens += 1
    return made


def build(*sequences: Sequence) -> SamplingBatch:
    rows = SamplingRows(8, 100)
    table_rows = np.array([5, 2, 7, 0][: len(sequences)], np.int32)
    for row, seq in zip(table_rows.tolist(), sequences, strict=True):
        rows.fill(row, seq)
    index = np.arange(len(sequences), dtype=np.int32)
    return rows.build(list(sequences), table_rows, index, index)


def lists(token_lists: TokenLists | None) -> list[list[int]]:
    assert token_lists is not None
    return [token_lists.row(row).tolist() for row in range(len(token_lists.offsets) - 1)]


def test_a_greedy_step_carries_nothing_it_does_not_need() -> None:
    batch = build(sequence(temperature=0.0), sequence(temperature=0.0))
    optional = [name for name in SamplingBatch.__dataclass_fields__ if getattr(batch, name) is None]
    assert set(SamplingBatch.__dataclass_fields__) - set(optional) == {
        "rows",
        "temperature",
        "seed",
        "sequence_index",
        "position",
    }


def test_a_feature_of_one_row_is_neutral_for_the_others() -> None:
    batch = build(sequence(top_k=7, logprobs=2), sequence(top_p=0.5), sequence(min_p=0.25, repetition_penalty=1.5))
    assert batch.top_k is not None
    assert batch.top_k.tolist() == [7, 0, 0]
    assert batch.top_p is not None
    assert batch.top_p.tolist() == [1.0, 0.5, 1.0]
    assert batch.min_p is not None
    assert batch.min_p.tolist() == [0.0, 0.0, 0.25]
    assert batch.num_logprobs is not None
    assert batch.num_logprobs.tolist() == [2, -1, -1]
    assert batch.repetition_penalty is not None
    assert batch.repetition_penalty.tolist() == [1.0, 1.0, 1.5]
    assert lists(batch.prompt_tokens) == [[], [], [1, 2, 3]]


def test_a_row_given_to_another_sequence_forgets_the_first() -> None:
    rows, index = SamplingRows(1, 100), np.zeros(1, np.int32)
    rows.fill(0, sequence(top_k=7, logit_bias={5: 1.0}, presence_penalty=1.0))
    plain = sequence()
    rows.fill(0, plain)
    batch = rows.build([plain], index, index, index)
    assert (batch.top_k, batch.bias, batch.presence_penalty) == (None, None, None)


def test_penalty_histories_follow_the_output() -> None:
    batch = build(sequence((9, 8, 9), presence_penalty=1.0), sequence((4,)))
    assert lists(batch.output_tokens) == [[9, 8, 9], []]


def test_bias_and_allowed() -> None:
    batch = build(sequence(logit_bias={5: -1.0, 3: 2.0}), sequence(allowed_token_ids=(8, 9)))
    assert lists(batch.bias) == [[5, 3], []]
    assert batch.bias is not None
    assert batch.bias.values is not None
    assert batch.bias.values.tolist() == [-1.0, 2.0]
    assert lists(batch.allowed) == [[], [8, 9]]


def test_stops_are_banned_before_min_tokens() -> None:
    def options(num_output: int, **more: Any) -> Sequence:
        return sequence((7,) * num_output, min_tokens=2, max_tokens=9, stop_token_ids=(6,), eos_token_ids=(4,), **more)

    batch = build(options(0), options(1), options(2), options(0, ignore_eos=True))
    assert lists(batch.banned) == [[4, 6], [4, 6], [], [6]]
    assert build(options(2)).banned is None


def test_a_bad_words_last_token_is_banned_once_the_word_has_begun() -> None:
    words = ((10,), (11, 12), (13, 14, 15))
    batch = build(*(sequence(output, bad_words_token_ids=words) for output in ((), (11,), (13, 14), (14,))))
    assert lists(batch.banned) == [[10], [10, 12], [10, 15], [10]]


def test_history_grows_by_what_is_new() -> None:
    history, tokens = OutputHistory(), list(range(50))
    first = history.update(tokens)
    assert first.tolist() == tokens
    tokens.extend(range(50, 200))
    assert history.update(tokens).tolist() == tokens
    assert first.tolist() == list(range(50))


def test_steps_that_draw_for_the_same_rows_share_their_parameters_until_a_row_is_filled() -> None:
    rows, table_rows, index = SamplingRows(8, 100), np.array([5, 2], np.int32), np.arange(2, dtype=np.int32)
    first, second, third = sequence(temperature=0.5), sequence(temperature=2.0), sequence(temperature=0.25, top_k=3)
    rows.fill(5, first)
    rows.fill(2, second)
    before = rows.build([first, second], table_rows, index, index)
    again = rows.build([first, second], table_rows.copy(), index, index + 1)
    assert again.temperature is before.temperature
    assert again.position.tolist() == [1, 2]
    assert rows.build([second, first], table_rows[::-1], index, index).temperature.tolist() == [2.0, 0.5]
    rows.fill(2, third)
    changed = rows.build([first, third], table_rows, index, index)
    assert changed.temperature.tolist() == [0.5, 0.25]
    assert changed.top_k is not None
    assert changed.top_k.tolist() == [0, 3]
    assert before.temperature.tolist() == [0.5, 2.0]
