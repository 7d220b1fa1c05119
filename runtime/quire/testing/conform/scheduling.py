"""L4: the device under the engine core: preemption, aborts, shared and reused pages, several draws of one prompt.

Idle pages are filled with NaN after every step, where the host may write pages. Each token that comes out is held
against the reference: with its whole context, noise included, no other token may score better by more than the
error that logits are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quire.device.contract import KVPlan
from quire.engine.core import EngineCore
from quire.engine.messages import EngineRequest, SequenceOutput
from quire.errors import RequestError
from quire.kv.audit import audit
from quire.sampling.philox import gumbel_all
from quire.sampling_params import SamplingParams
from quire.testing.conform.case import Case, CheckFailedError, Finding, NotApplicableError, require
from quire.testing.conform.routing import routes
from quire.testing.conform.step_bounds import expected_logits, logit_bound
from quire.testing.conform.step_driver import StepDriver
from quire.testing.conform.subject import Dtypes, Subject
from quire.testing.conform.tiny_models import CONFIGS, VOCAB, tiny_model

_MAX_STEPS = 2000
_MAX_SEQS = 4


def scheduling_level(subject: Subject) -> Iterator[Case]:
    """The cases of L4, on a model with full attention and on one with windows."""
    usable = scheduling_families(subject)
    if not usable:
        yield Case("L4/no_model", _no_model)
    for family in dict.fromkeys((*usable[:1], *(family for family in usable if family == "gemma2"))):
        for name, check in _CHECKS.items():
            yield Case(f"L4/{family}/{name}", _bound(family, name, check))


def scheduling_families(subject: Subject) -> list[str]:
    """The tiny models that L4 may run: what comes out of it is not known beforehand, so in 16 bits none that chooses
    experts, whose choices could be close."""
    exact = subject.default_dtypes().act == "float32"
    return [
        family
        for family in CONFIGS
        if tiny_model(family).ops() <= subject.capabilities.ops and (exact or not routes(family))
    ]


def _no_model(_: Subject) -> Finding:
    raise NotApplicableError("it declares the ops of no tiny model that can be judged on tokens of its own")


@dataclass(slots=True)
class CoreDriver:
    """An engine core on the device; the books are audited and idle pages poisoned after each step."""

    core: EngineCore
    driver: StepDriver
    family: str
    dtypes: Dtypes
    requests: dict[str, EngineRequest] = field(default_factory=dict)
    tokens: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    reasons: dict[tuple[str, int], str] = field(default_factory=dict)
    num_cached_tokens: dict[str, int] = field(default_factory=dict)
    _idle: dict[str, set[int]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.driver.plan.block_size

    def add(
        self, request_id: str, prompt: tuple[int, ...], max_tokens: int, *, n: int = 1, temperature: float = 0.0
    ) -> None:
        """Queues a request with a seed of its own."""
        params = SamplingParams(
            temperature=temperature, max_tokens=max_tokens, n=n, ignore_eos=True, seed=17 + len(self.requests)
        )
        message = EngineRequest(request_id=request_id, prompt_token_ids=prompt, params=params)
        self.core.add_request(message)
        self.requests[request_id] = message

    def step(self) -> None:
        """One iteration."""
        self._take(self.core.step())
        self._after()

    def abort(self, request_id: str) -> None:
        """Ends a request between steps."""
        self._take(self.core.abort(request_id))
        self._after()

    def run(self) -> None:
        """Steps until all is done; then every block is free again."""
        for _ in range(_MAX_STEPS):
            if not self.core.has_unfinished():
                break
            self.step()
        stats = self.core.stats()
        require(not self.core.has_unfinished(), f"not done after {_MAX_STEPS} steps")
        require(stats.num_used_blocks == 0, f"{stats.num_used_blocks} blocks are in use after the last request")
        require(stats.failed_steps == 0, f"{stats.failed_steps} steps failed on the device")

    def check_tokens(self) -> Finding:
        """Every delivered token against the reference's logits of its context."""
        worst, bound = 0.0, logit_bound(self.family, self.dtypes).worst
        for (request_id, index), drawn in self.tokens.items():
            request = self.requests[request_id]
            context = (*request.prompt_token_ids, *drawn)
            if not drawn:
                continue
            logits = expected_logits(self.family, self.dtypes, context[:-1])[len(request.prompt_token_ids) - 1 :]
            for place, (row, token) in enumerate(zip(logits, drawn, strict=True)):
                position = len(request.prompt_token_ids) + place
                behind = _behind(row, token, request.params, index, position)
                worst = max(worst, behind)
                if behind > bound:
                    raise CheckFailedError(
                        f"request {request_id}, sequence {index}: token {place} is {token}, which the reference ranks"
                        f" {behind:.3g} behind the best (at most {bound:.3g} is allowed)",
                        Finding(behind, bound),
                    )
        return Finding(worst, bound)

    def _take(self, outputs: list[SequenceOutput]) -> None:
        for output in outputs:
            key = (output.request_id, output.index)
            require(output.finish_reason != "error", f"request {output.request_id} ended with {output.error}")
            require(key not in self.reasons, f"request {output.request_id} was heard of after its end")
            self.tokens.setdefault(key, []).extend(output.new_token_ids)
            self.num_cached_tokens[output.request_id] = output.num_cached_tokens
            if output.finish_reason:
                self.reasons[key] = output.finish_reason

    def _after(self) -> None:
        blocks = self.core.scheduler.blocks
        audit(blocks, [seq.blocks for seq in self.core.scheduler.running if seq.blocks is not None])
        if not self.driver.poisons:
            return
        for name, pool in blocks.pools.items():
            idle = {block for block in pool.free_blocks() if pool.key_of(block) is None}
            self.driver.poison(name, sorted(idle - self._idle.get(name, set())))
            self._idle[name] = idle


def _behind(logits: np.ndarray, token: int, params: SamplingParams, index: int, position: int) -> float:
    """How far the token's score is below the best one, relative to the size of the logits."""
    scores = logits.astype(np.float64)
    scale = float(np.sqrt(np.mean(scores * scores)) + np.abs(scores).max())
    if params.temperature > 0:
        seed = np.uint64(params.seed or 0)
        scores = scores + params.temperature * gumbel_all(seed, np.uint32(index), np.int32(position), len(scores))
    return float(scores.max() - scores[token]) / (2 * scale)


def _prompt(seed: int, length: int) -> tuple[int, ...]:
    return tuple(int(token) for token in np.random.default_rng([seed, 29]).integers(0, VOCAB, length))


# ---- the checks: blocks per group of the pool, then what happens -----------------------------------------


def _together(d: CoreDriver) -> None:
    """More requests than sequences that may run, of many lengths, greedy and drawn."""
    for i in range(6):
        d.add(f"r{i}", _prompt(i, 1 + 5 * i), 9, temperature=0.8 * (i % 2))
    d.run()


def _preempt(d: CoreDriver) -> None:
    """Sequences outgrow the pool; some lose their pages and are computed again."""
    for i in range(_MAX_SEQS):
        d.add(f"r{i}", _prompt(i, d.size - 4 + i), d.size + 8)
    d.run()
    require(d.core.stats().preemptions > 0, "nothing was preempted: this check proves nothing here")
    require(all(len(tokens) == d.size + 8 for tokens in d.tokens.values()), "a preempted request lost tokens")


def _abort(d: CoreDriver) -> None:
    """Requests are ended at every stage, while others take their pages."""
    rng = np.random.default_rng(2)
    for i in range(10):
        d.add(f"r{i}", _prompt(i, 3 + 3 * i), 12)
        for _ in range(int(rng.integers(0, 4))):
            d.step()
        if i % 2:
            d.abort(f"r{int(rng.integers(0, i + 1))}")
    d.run()


def _abort_all(d: CoreDriver) -> None:
    """Everything is ended with steps in flight; the next requests see nothing of it."""
    for i in range(3):
        d.add(f"old{i}", _prompt(i, d.size + 2), 20)
    for _ in range(4):
        d.step()
    for i in range(3):
        d.abort(f"old{i}")
    for i in range(3):
        d.add(f"new{i}", _prompt(50 + i, d.size + 5), 6)
    d.run()


def _page_reuse(d: CoreDriver) -> None:
    """One after another through a pool that holds one of them."""
    for i in range(5):
        d.add(f"r{i}", _prompt(i, 2 * d.size - 3 - 2 * i), 5)
        d.run()


def _prefix_cache(d: CoreDriver) -> None:
    """The second request finds the first one's blocks."""
    prompt = _prompt(0, 2 * d.size + 3)
    d.add("cold", prompt, 5)
    d.run()
    d.add("warm", prompt, 5)
    d.add("branch", (*prompt[: d.size + 1], *_prompt(9, 4)), 5)
    d.run()
    require(d.num_cached_tokens["warm"] > 0, "no prefix was found: this check proves nothing here")


def _several_draws(d: CoreDriver) -> None:
    """n=3: one prompt, pages shared, the last one copied by whoever writes to it."""
    for i in range(2):
        d.add(f"r{i}", _prompt(i, d.size // 2 + 3 * i + 1), d.size, n=3, temperature=1.0)
    d.run()
    require(
        all(len({tuple(d.tokens[f"r{i}", index]) for index in range(3)}) > 1 for i in range(2)),
        "all draws of a prompt are the same",
    )


def _out_of_blocks(d: CoreDriver) -> None:
    """A request that can never fit is refused by itself; the others go on."""
    d.add("first", _prompt(0, 5), 8)
    d.step()
    try:
        d.add("too_long", _prompt(1, 4 * d.size - 2), 1)
    except RequestError:
        pass
    else:
        raise CheckFailedError("a request larger than the pool was taken")
    d.run()


_CHECKS: dict[str, Callable[[CoreDriver], None]] = {
    "together": _together,
    "preempt_and_resume": _preempt,
    "abort_at_any_moment": _abort,
    "abort_in_flight": _abort_all,
    "page_reuse": _page_reuse,
    "prefix_cache": _prefix_cache,
    "several_draws": _several_draws,
    "out_of_blocks": _out_of_blocks,
}
_FEW_BLOCKS = {"preempt_and_resume": 7, "page_reuse": 3, "out_of_blocks": 3, "abort_at_any_moment": 8}
"""Blocks for each KV group, where they are to be scarce; else 24."""


def _bound(family: str, name: str, check: Callable[[CoreDriver], None]) -> Callable[[Subject], Finding]:
    return lambda subject: _run(subject, family, name, check)


def _run(subject: Subject, family: str, name: str, check: Callable[[CoreDriver], None]) -> Finding:
    model, dtypes = tiny_model(family), subject.default_dtypes()
    size = subject.block_size()
    limits: dict[str, Any] = {
        "max_model_len": 4 * size,
        "max_num_batched_tokens": max(12, size - 4),
        "max_num_seqs": _MAX_SEQS,
    }
    plan = subject.plan(model.graph, dtypes, max_logits_rows=16, **limits)
    groups = plan.model.kv_groups
    num_blocks = _FEW_BLOCKS.get(name, 24) * max(1, len(groups) // len({group.pool for group in groups.values()}))
    with subject.driver(plan, model.weights(plan.model), num_blocks=num_blocks) as driver:
        kv_plan = KVPlan(num_blocks={group.pool: num_blocks for group in groups.values()})
        core = EngineCore(driver.executor, plan.model, kv_plan, block_size=size, **limits)
        core_driver = CoreDriver(core, driver, family, dtypes)
        check(core_driver)
        return core_driver.check_tokens()
