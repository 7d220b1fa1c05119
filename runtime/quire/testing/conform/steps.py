"""L3: whole steps of tiny models against the reference: logits of every token first, tokens second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from quire.device.contract import ParallelRank
from quire.graph.ir import ModelGraph
from quire.graph.kv_arrays import QUANTIZED_KV_DTYPES
from quire.graph.shard import cut_axes, shard
from quire.sampling.sampler import sample
from quire.testing.conform.case import Case, CheckFailedError, Finding, NotApplicableError, require_close, worst_of
from quire.testing.conform.lines import LENGTHS, Lines
from quire.testing.conform.load import usable_family
from quire.testing.conform.random_weights import RandomWeights
from quire.testing.conform.schemes import scheme_step_cases
from quire.testing.conform.step_bounds import expected_logits, logit_bound, require_logits
from quire.testing.conform.step_driver import Line, StepDriver
from quire.testing.conform.step_sampling import sampling_rows
from quire.testing.conform.subject import Dtypes, Subject
from quire.testing.conform.tiny_models import CONFIGS, VOCAB, tiny_model

_SAMPLED = (
    (),
    ("temperature",),
    ("temperature", "top_k"),
    ("temperature", "top_p", "min_p"),
    ("bias", "banned"),
    ("temperature", "penalties", "logprobs"),
)
"""Features of each round of `sampled_tokens`."""

_FEEDBACK_STEPS = 8

Check = Callable[[Subject, str, Dtypes], Finding]


def step_level(subject: Subject) -> Iterator[Case]:
    """The cases of L3."""
    for family in CONFIGS:
        missing = tiny_model(family).ops() - subject.capabilities.ops
        if missing:
            yield Case(f"L3/{family}", _refuse(f"the device does not declare {', '.join(sorted(missing))}"))
            continue
        for dtypes in step_dtypes(subject):
            for name, check in _CHECKS.items():
                yield Case(
                    f"L3/{family}/{name}/{dtypes}",
                    _bound_check(check, family, dtypes),
                    "logits" if dtypes.kv == dtypes.act else f"logits, kv {dtypes.kv}",
                    dtypes.act,
                )
    for size in subject.capabilities.block_sizes:
        yield Case(f"L3/block_size/{size}", lambda s, size=size: _block_size(s, size))  # type: ignore[misc]
    yield from scheme_step_cases(subject)


def step_dtypes(subject: Subject) -> list[Dtypes]:
    """Each activation dtype with the weight and KV dtypes nearest to it, the device's own first choice, and the first
    activation dtype with each quantized cache."""
    declared, found = subject.capabilities, []
    for act in declared.act_dtypes:
        near = Dtypes(
            act,
            act if act in declared.weight_dtypes else declared.weight_dtypes[0],
            act if act in declared.kv_dtypes else declared.kv_dtypes[0],
        )
        found.append(near)
    found.append(Dtypes(declared.act_dtypes[0], declared.weight_dtypes[0], declared.kv_dtypes[0]))
    found += [replace(found[0], kv=kv) for kv in declared.kv_dtypes if kv in QUANTIZED_KV_DTYPES]
    return list(dict.fromkeys(found))


def check_lines(lines: Sequence[Line], family: str, dtypes: Dtypes) -> Finding:
    """The logits that lines have collected, against the reference's: every row of each."""
    findings = []
    for index, line in enumerate(lines):
        tokens = tuple(line.tokens)
        expected = expected_logits(family, dtypes, tokens)[: len(line.logits)]
        findings.append(
            require_logits(
                line.all_logits(),
                expected,
                logit_bound(family, dtypes, tokens),
                f"line {index} ({len(line.logits)} tokens of {family})",
            )
        )
    return worst_of(findings)


# ---- the checks -------------------------------------------------------------------------------------------


def _prefill(driver: StepDriver, given: Lines) -> list[Line]:
    """All prompts whole, in one step."""
    lines = [driver.line(tokens) for tokens in given.prompts()]
    driver.run([(line, len(line.tokens)) for line in lines])
    return lines


def _chunked(driver: StepDriver, given: Lines) -> list[Line]:
    """Chunks of 1 to 7 tokens, lines in a new order at every step."""
    rng = np.random.default_rng(5)
    lines = [driver.line(tokens) for tokens in given.prompts()]
    while any(_left(line) for line in lines):
        open_ = [lines[i] for i in rng.permutation(len(lines)) if _left(lines[i])]
        driver.run([(line, min(_left(line), int(rng.integers(1, 8)))) for line in open_])
    return lines


def _decode(driver: StepDriver, given: Lines) -> list[Line]:
    """Token by token, alone."""
    line = driver.line(given.prompts()[0])
    while _left(line):
        driver.run([(line, 1)])
    return [line]


def _mixed(driver: StepDriver, given: Lines) -> list[Line]:
    """Prefill, chunks and decode in one step; lines join late."""
    lines = [driver.line(tokens) for tokens in given.prompts()]
    for step in range(max(LENGTHS)):
        chunks = [
            (line, min(_left(line), (1, 9, 4, 2)[index]))
            for index, line in enumerate(lines)
            if index <= step and _left(line)
        ]
        if chunks:
            driver.run(chunks)
    return lines


def _reused_pages(driver: StepDriver, given: Lines) -> list[Line]:
    """Two rounds: the second line gets the pages that the first one gave back."""
    kept = []
    for tokens in (given.prompts()[0], given.prompts()[3], given.prompts()[0]):
        for pool, blocks in driver.free.items():
            driver.free[pool] = sorted(blocks)
        line = driver.line(tokens)
        driver.run([(line, len(tokens) - 3)])
        driver.run([(line, 3)])
        driver.release(line)
        kept.append(line)
    return kept


def _cached_prefix(driver: StepDriver, given: Lines) -> list[Line]:
    """A second line shares the first one's full blocks and computes the rest only."""
    size, tokens = driver.plan.block_size, given.long(driver.plan.block_size)
    first = driver.line(tokens)
    driver.run([(first, len(tokens))])
    second = driver.line([*tokens[:size], *given.after(tokens[:size], given.prompts()[1])])
    second.tables = {name: table[:1] for name, table in first.tables.items()}
    second.num_computed = size
    second.logits.extend(first.logits[:size])
    driver.run([(second, 4)])
    driver.run([(second, len(second.tokens) - size - 4)])
    return [first, second]


def _copied_block(driver: StepDriver, given: Lines) -> list[Line]:
    """A line forks inside a block: the block is copied, then both write to their own."""
    first = driver.line(given.prompts()[1])
    driver.run([(first, 6)])
    tokens = given.after(first.tokens[:6], given.prompts()[3])
    second, copies = driver.fork(first, tokens)
    second.logits.extend(first.logits[:6])
    driver.run([(first, 1), (second, 3)], copies=copies)
    driver.run([(second, len(tokens) - 3), (first, 2)])
    return [first, second]


def _token_feedback(subject: Subject, family: str, dtypes: Dtypes) -> Finding:
    """Greedy decoding with each step submitted before the last one's tokens are read, rows in a new order."""
    depth = subject.capabilities.async_depth
    if depth < 2:
        raise NotApplicableError("async_depth is 1")
    rng = np.random.default_rng(3)
    with _driver(subject, family, dtypes) as driver:
        lines = [driver.line(tokens) for tokens in Lines(family, dtypes.weight).to_continue(_FEEDBACK_STEPS)]
        pending, chunks = driver.submit([(line, len(line.tokens)) for line in lines])
        rows = {id(line): row for row, line in enumerate(lines)}
        for _ in range(_FEEDBACK_STEPS):
            order = [lines[i] for i in rng.permutation(len(lines))]
            for line in order:
                line.tokens.append(-1)
            prev_row = np.array([rows[id(line)] for line in order], np.int32)
            following = driver.submit([(line, 1) for line in order], prev_row=prev_row)
            drawn = driver.read(pending, chunks).tokens[:, 0]
            for line, _count in chunks:
                line.tokens[-1] = int(drawn[rows[id(line)]])
            pending, chunks = following
            rows = {id(line): row for row, line in enumerate(order)}
        driver.read(pending, chunks)
        return check_lines(lines, family, dtypes)


def _tokens(subject: Subject, family: str, dtypes: Dtypes) -> Finding:
    """What the device samples is what the core samples from the same logits, greedily and at random."""
    with _driver(subject, family, dtypes) as driver:
        for seed, features in enumerate(_SAMPLED):
            lines = [driver.line(tokens) for tokens in Lines(family, dtypes.weight).prompts()]
            ends = np.cumsum(LENGTHS) - 1
            sampling = sampling_rows(ends, [len(line.tokens) for line in lines], features, seed, VOCAB)
            result = driver.run([(line, len(line.tokens)) for line in lines], sampling=sampling)
            assert result.logits is not None
            wanted = sample(np.asarray(result.logits, np.float32), sampling)
            if not np.array_equal(result.tokens[:, 0], wanted.tokens):
                how = ", ".join(features) or "greedy"
                raise CheckFailedError(
                    f"sampled {result.tokens[:, 0].tolist()} ({how}), its own logits give {wanted.tokens.tolist()}"
                )
            if wanted.logprobs is not None:
                if result.logprobs is None:
                    raise CheckFailedError("logprobs were asked for and not returned")
                require_close(result.logprobs.logprobs, wanted.logprobs.logprobs, 1e-4, "logprobs")
            for line in lines:
                driver.release(line)
    return Finding()


def _sliced_head(subject: Subject, family: str, dtypes: Dtypes) -> Finding:
    """A head that takes 5 rows at a time."""
    with _driver(subject, family, dtypes, max_logits_rows=5) as driver:
        return check_lines(_prefill(driver, Lines(family, dtypes.weight)), family, dtypes)


def _some_rows(subject: Subject, family: str, dtypes: Dtypes) -> Finding:
    """Logits of last rows only, and a step without any."""
    with _driver(subject, family, dtypes) as driver:
        lines = [driver.line(tokens) for tokens in Lines(family, dtypes.weight).prompts()]
        none = np.empty(0, np.int32)
        batch = driver.batch([(lines[0], 8)], logits_indices=none, sampling=None)
        driver.executor.submit(batch).result()
        lines[0].num_computed = 8
        chunks = [(line, _left(line)) for line in lines]
        ends = np.cumsum([count for _, count in chunks]).astype(np.int32) - 1
        result = driver.executor.submit(driver.batch(chunks, logits_indices=ends, sampling=None)).result()
        expected = np.stack([expected_logits(family, dtypes, tuple(line.tokens))[-1] for line in lines])
        return require_logits(np.asarray(result.logits, np.float32), expected, logit_bound(family, dtypes), "last rows")


def _two_ranks(subject: Subject, family: str, dtypes: Dtypes) -> Finding:
    """The model cut in two gives the logits of the whole one: prompts in one step, then chunks."""
    if subject.capabilities.max_tp < 2:
        raise NotApplicableError("it declares no tensor parallelism")
    if subject.report.num_devices < 2:
        raise NotApplicableError("tensor parallelism needs two devices, there is one")
    whole = subject.plan(tiny_model(family).graph, dtypes)
    plan = replace(whole, model=_cut_in_two(whole.model), parallel=ParallelRank(world_size=2))
    weights = RandomWeights(plan.model, world_size=2)
    given = Lines(family, dtypes.weight)
    with subject.driver(plan, weights, seed=1, poison=False) as driver:
        return check_lines(_prefill(driver, given) + _chunked(driver, given), family, dtypes)


def _block_size(subject: Subject, size: int) -> Finding:
    """Chunked prompts in pages of another size."""
    family, dtypes = usable_family(subject), subject.default_dtypes()
    with _driver(subject, family, dtypes, block_size=size) as driver:
        return check_lines(_chunked(driver, Lines(family, dtypes.weight)), family, dtypes)


# ---- inside -----------------------------------------------------------------------------------------------


def _over_lines(scenario: Callable[[StepDriver, Lines], list[Line]]) -> Check:
    def check(subject: Subject, family: str, dtypes: Dtypes) -> Finding:
        with _driver(subject, family, dtypes) as driver:
            return check_lines(scenario(driver, Lines(family, dtypes.weight)), family, dtypes)

    return check


_CHECKS: dict[str, Check] = {
    "prefill": _over_lines(_prefill),
    "chunked": _over_lines(_chunked),
    "decode_replay": _over_lines(_decode),
    "mixed_batches": _over_lines(_mixed),
    "reused_pages": _over_lines(_reused_pages),
    "cached_prefix": _over_lines(_cached_prefix),
    "copied_block": _over_lines(_copied_block),
    "token_feedback": _token_feedback,
    "sampled_tokens": _tokens,
    "sliced_head": _sliced_head,
    "some_rows": _some_rows,
    "two_ranks": _two_ranks,
}


def _driver(subject: Subject, family: str, dtypes: Dtypes, **limits: Any) -> AbstractContextManager[StepDriver]:
    model = tiny_model(family)
    plan = subject.plan(model.graph, dtypes, **limits)
    return subject.driver(plan, model.weights(plan.model), seed=1)


def _bound_check(check: Check, family: str, dtypes: Dtypes) -> Callable[[Subject], Finding]:
    return lambda subject: check(subject, family, dtypes)


def _refuse(reason: str) -> Callable[[Subject], Finding]:
    def check(_: Subject) -> Finding:
        raise NotApplicableError(reason)

    return check


def _cut_in_two(model: ModelGraph) -> ModelGraph:
    """Each of two ranks' graph; experts are shared out where their number is even, else each is cut."""
    experts = model.axes.get("ep")
    if experts is None or experts.size % 2 == 0:
        return shard(model, 2)
    return shard(model, 2, cut=cut_axes(model.axes) - {"ep"} | {"expert_mlp"})


def _left(line: Line) -> int:
    return len(line.tokens) - line.num_computed
