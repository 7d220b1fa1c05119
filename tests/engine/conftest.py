from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from quire.engine.core import EngineCore
from quire.engine.messages import EngineRequest, SequenceOutput
from quire.graph.ir import KVGroupSpec
from quire.kv.audit import audit
from quire.sampling_params import SamplingParams
from quire.testing import FakeExecutor, fake_executor, fake_model

MAX_STEPS = 3000


WAVE: tuple[tuple[str, list[int], dict[str, Any]], ...] = (
    ("a", [1, 2], {"n": 2, "max_tokens": 9, "temperature": 1.0, "seed": 3}),
    ("long", list(range(30)), {"n": 2, "prompt_logprobs": 1}),
    ("c", [7, 8, 9], {"max_tokens": 12, "logprobs": 2, "frequency_penalty": 0.5}),
)
"""Requests that share, fork, draw, and ask for log-probabilities: id, prompt, options."""


@dataclass
class Driver:
    """An engine core on a fake device; after each step the books are audited and free blocks poisoned."""

    core: EngineCore
    executor: FakeExecutor
    tokens: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    outputs: dict[tuple[str, int], list[SequenceOutput]] = field(default_factory=dict)

    def add(self, request_id: str, prompt: list[int], **options: Any) -> None:
        """`options` are of EngineRequest where it has such a field, else of SamplingParams; greedy by default."""
        fields = EngineRequest.__dataclass_fields__
        message = {name: options.pop(name) for name in list(options) if name in fields}
        params = SamplingParams(**{"temperature": 0.0, "max_tokens": 8, **options})
        self.core.add_request(
            EngineRequest(request_id=request_id, prompt_token_ids=tuple(prompt), params=params, **message)
        )

    def step(self) -> list[SequenceOutput]:
        outputs = self.core.step()
        self.take(outputs)
        self.audit()
        return outputs

    def take(self, outputs: list[SequenceOutput]) -> None:
        for output in outputs:
            key = (output.request_id, output.index)
            assert not self.finish_reason(*key), f"{key} was heard of after its end"
            self.tokens.setdefault(key, []).extend(output.new_token_ids)
            self.outputs.setdefault(key, []).append(output)

    def abort(self, request_id: str, index: int | None = None) -> None:
        self.take(self.core.abort(request_id, index))
        self.audit()

    def run(self) -> dict[tuple[str, int], list[int]]:
        for _ in range(MAX_STEPS):
            if not self.core.has_unfinished():
                break
            self.step()
        else:
            pytest.fail(f"not done after {MAX_STEPS} steps: {self.core.stats()}")
        stats = self.core.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_used_blocks, stats.kv_waste) == (0, 0, 0, 0.0)
        return self.tokens

    def finish_reason(self, request_id: str, index: int = 0) -> str | None:
        outputs = self.outputs.get((request_id, index))
        return outputs[-1].finish_reason if outputs else None

    def audit(self) -> None:
        blocks = self.core.scheduler.blocks
        audit(blocks, [seq.blocks for seq in self.core.scheduler.running if seq.blocks is not None])
        assert all(seq.blocks is None for seq in self.core.scheduler.waiting)
        for name, pool in blocks.pools.items():
            idle = [block_id for block_id in pool.free_blocks() if pool.key_of(block_id) is None]
            self.executor.poison(name, np.array(idle, np.int32))


@pytest.fixture(scope="session")
def drive() -> Callable[..., Driver]:
    """Makes a Driver: small blocks and pools, everything else as asked for."""

    def make(
        num_blocks: int = 64,
        *,
        windows: Mapping[str, int] | None = None,
        shared_pool: bool = False,
        groups: Mapping[str, KVGroupSpec] | None = None,
        vocab_size: int = 50,
        block_size: int = 4,
        max_model_len: int = 48,
        budget: int = 16,
        max_num_seqs: int = 8,
        depth: int = 2,
        **options: Any,
    ) -> Driver:
        model = fake_model(vocab_size, windows=windows, shared_pool=shared_pool, groups=groups)
        executor, kv_plan = fake_executor(
            model,
            num_blocks,
            block_size=block_size,
            max_model_len=max_model_len,
            max_num_batched_tokens=budget,
            max_num_seqs=max_num_seqs,
            async_depth=depth,
        )
        core = EngineCore(
            executor,
            model,
            kv_plan,
            block_size=block_size,
            max_model_len=max_model_len,
            max_num_batched_tokens=budget,
            max_num_seqs=max_num_seqs,
            **options,
        )
        return Driver(core, executor)

    return make
