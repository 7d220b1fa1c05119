"""The sampler: logits in, tokens and log-probabilities out. The definition that device samplers are held to.

The order is fixed: log-probabilities of the raw logits; allowed tokens and grammar mask; banned tokens and bias;
penalties; then greedy, or temperature, min_p, top_k, top_p and the draw. A row's outcome depends on its own logits
and fields only, never on the other rows or their order. Greedy rows take the largest logit, the lowest id of equals.

Shapes here: L = rows of logits, V = vocabulary, R = sampled rows, P = prompt rows.
"""

from __future__ import annotations

import math

import numpy as np

from quire.errors import RequestError
from quire.sampling.batch import F32, I32, NO_TOKEN, NOT_FINITE, LogprobRows, SampleResult, SamplingBatch
from quire.sampling.checks import is_finite_row
from quire.sampling.draw import Candidates, draw
from quire.sampling.filters import EVERYTHING, threshold
from quire.sampling.logprobs import logprob_rows
from quire.sampling.masks import apply_bit_mask, ban, keep_allowed
from quire.sampling.penalties import add_bias, apply_penalties

_CHANGES = (
    "allowed", "banned", "bias", "mask", "repetition_penalty", "presence_penalty", "frequency_penalty"
)  # fmt: skip


def sample(logits: F32, batch: SamplingBatch) -> SampleResult:
    """Draws one token for each sampled row.

    Args:
        logits: float32 [L, V], raw; read, never written.
        batch: what to draw.
    Returns: tokens int32 [R], NO_TOKEN (-1) for a row whose every token is masked: that row's request must end with
        `nothing_to_draw_error`, and the token must not reach a model. NOT_FINITE (-2) for a row whose logits hold NaN
        or +inf. Log-probabilities where asked for, NaN in rows of such logits.
    """
    tokens = np.full(batch.num_rows, NO_TOKEN, np.int32)
    drawn_rows: list[int] = []
    candidates: list[Candidates] = []
    changes = any(getattr(batch, name) is not None for name in _CHANGES)
    for row, logits_row in enumerate(batch.rows.tolist()):
        logits_V = logits[logits_row]
        best = int(logits_V.argmax())
        if not is_finite_row(float(logits_V[best])):  # argmax stops at a NaN
            tokens[row] = NOT_FINITE
            continue
        if changes:
            logits_V = _changed(logits_V, batch, row)
            best = int(logits_V.argmax())
        if logits_V[best] == -math.inf:
            continue
        if batch.temperature[row] > 0.0:
            drawn_rows.append(row)
            candidates.append(_candidates(logits_V, best, batch, row))
        else:
            tokens[row] = best
    if drawn_rows:
        keys = (batch.seed[drawn_rows], batch.sequence_index[drawn_rows], batch.position[drawn_rows])
        tokens[drawn_rows] = draw(candidates, *keys)
    return SampleResult(tokens, _sampled_logprobs(logits, batch, tokens), _prompt_logprobs(logits, batch))


def nothing_to_draw_error() -> RequestError:
    """The error that ends a request whose row came back as NO_TOKEN."""
    return RequestError(
        "no token is left to draw",
        because="allowed_token_ids, the grammar, bad_words, logit_bias and min_tokens together forbid every token",
        hint="fewer restrictions; an end-of-text token among the allowed ones needs min_tokens=0",
        param="allowed_token_ids",
    )


def _changed(logits_V: F32, batch: SamplingBatch, row: int) -> F32:
    """The row after masks, bans, bias and penalties: a copy where anything applies."""
    logits_V = logits_V.copy()
    if batch.allowed is not None:
        keep_allowed(logits_V, batch.allowed.row(row))
    if batch.mask is not None:
        apply_bit_mask(logits_V, batch.mask[row])
    if batch.banned is not None:
        ban(logits_V, batch.banned.row(row))
    if batch.bias is not None:
        add_bias(logits_V, batch.bias.row(row), batch.bias.row_values(row))
    nothing = np.empty(0, np.int32)
    apply_penalties(
        logits_V,
        nothing if batch.prompt_tokens is None else batch.prompt_tokens.row(row),
        nothing if batch.output_tokens is None else batch.output_tokens.row(row),
        repetition=_field(batch.repetition_penalty, row, 1.0),
        presence=_field(batch.presence_penalty, row, 0.0),
        frequency=_field(batch.frequency_penalty, row, 0.0),
    )
    return logits_V


def _candidates(logits_V: F32, best: int, batch: SamplingBatch, row: int) -> Candidates:
    """Scores by temperature, and who survives min_p, top_k and top_p.

    The largest logit is subtracted before the division, so that no temperature, however small, overflows upwards.
    """
    with np.errstate(over="ignore"):  # far from the best token, a tiny temperature gives -inf, which is right
        scores_V = (logits_V - logits_V[best]) / batch.temperature[row]
    top_k = 0 if batch.top_k is None else int(batch.top_k[row])
    limit = threshold(scores_V, min_p=_field(batch.min_p, row, 0.0), top_k=top_k, top_p=_field(batch.top_p, row, 1.0))
    if limit == EVERYTHING:
        return Candidates(None, scores_V)
    token_ids = np.flatnonzero(scores_V >= np.float32(limit)).astype(np.int32)
    return Candidates(token_ids, scores_V[token_ids])


def _field(values: F32 | None, row: int, default: float) -> float:
    return default if values is None else float(values[row])


def _sampled_logprobs(logits: F32, batch: SamplingBatch, tokens: I32) -> LogprobRows | None:
    if batch.num_logprobs is None:
        return None
    return logprob_rows(logits, batch.rows, tokens, batch.num_logprobs)


def _prompt_logprobs(logits: F32, batch: SamplingBatch) -> LogprobRows | None:
    if batch.prompt_rows is None:
        return None
    assert batch.prompt_targets is not None, "prompt_rows come with prompt_targets"
    assert batch.prompt_num_logprobs is not None, "prompt_rows come with prompt_num_logprobs"
    return logprob_rows(logits, batch.prompt_rows, batch.prompt_targets, batch.prompt_num_logprobs)
