"""Tensor parallelism over virtual CPU devices: the logits are transformers', as those of one device are."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from quire.device.contract import ExecutorPlan, KVPlan, ParallelRank
from quire.errors import BackendError
from quire.graph.ir import ModelGraph
from quire.graph.passes import optimize
from quire.graph.shard import cut_axes, shard
from quire.models import build_model
from quire.weights import open_weights
from quire_tpu.plugin import quire_capabilities, quire_create_executor
from tests.models.checkpoints import VOCAB, full_forward, save_checkpoint
from tests.models.harness import LoadedModel, random_chunks, run_greedy

OPTIONS = {"platform": "cpu"}
BLOCK, NUM_BLOCKS = 4, 64


def plan_of(model: ModelGraph, tp: int) -> ExecutorPlan:
    return ExecutorPlan(
        model=model,
        weight_dtype="float32",
        act_dtype="float32",
        kv_dtype="float32",
        block_size=BLOCK,
        max_model_len=128,
        max_num_batched_tokens=32,
        max_num_seqs=4,
        max_logits_rows=32,
        parallel=ParallelRank(world_size=tp),
        return_logits=True,
        options=OPTIONS,
    )


@pytest.mark.parametrize(
    ("case", "tp", "expert_axis"),
    [("qwen3", 2, ""), ("qwen3", 4, ""), ("gemma2", 2, ""), ("mixtral_sliding", 4, "ep"), ("mixtral", 4, "expert_mlp")],
)
def test_logits_over_ranks_are_transformers(case: str, tp: int, expert_axis: str, tmp_path: Path) -> None:
    """2 KV heads are replicated over 4 ranks, the vocabulary of 131 is padded, experts are shared out or cut."""
    assert len(jax.devices("cpu")) == 8
    save_checkpoint(case, tmp_path)
    graph = optimize(build_model(tmp_path).graph, quire_capabilities("tpu", OPTIONS).fused_ops)
    cut = cut_axes(graph.axes) - {"ep", "expert_mlp"} | ({expert_axis} if expert_axis else set())
    model = shard(graph, tp, cut=cut)
    executor = quire_create_executor("tpu", plan_of(model, tp))
    weights = open_weights(tmp_path, model, world_size=tp, ignorable_tensors=("*",))
    executor.load(weights, lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks={group.pool: NUM_BLOCKS for group in model.kv_groups.values()}))
    prompt = [int(token) for token in np.random.default_rng(3).integers(3, VOCAB, 19)]
    loaded = LoadedModel(executor, model, BLOCK, NUM_BLOCKS)
    logits, tokens = run_greedy(loaded, prompt, 6, random_chunks(np.random.default_rng(1)))
    expected = full_forward(tmp_path, [*prompt, *tokens[:-1]])
    assert tokens == [int(token) for token in expected[len(prompt) - 1 :].argmax(axis=-1)]
    assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()
    if tp == 4:
        _pages_hold_every_head_once(executor, graph, model)


def _pages_hold_every_head_once(executor: object, whole: ModelGraph, model: ModelGraph) -> None:
    name, group = next(iter(model.kv_groups.items()))
    _, head_dim = (dim.evaluate(whole.axis_sizes()) for dim in group.arrays[0].shape)
    shape = (2, group.layers, BLOCK, whole.axes["kv_heads"].size, head_dim)
    pages = {array: np.random.default_rng(4).standard_normal(shape).astype(np.float32) for array in "kv"}
    executor.write_blocks(name, np.array([5, 1], np.int32), pages)  # type: ignore[attr-defined]
    read = executor.read_blocks(name, np.array([1, 5], np.int32))  # type: ignore[attr-defined]
    for array, page in read.items():
        np.testing.assert_array_equal(page, pages[array][::-1])


def test_more_ranks_than_devices_are_refused(tmp_path: Path) -> None:
    save_checkpoint("qwen3", tmp_path)
    graph = build_model(tmp_path).graph
    with pytest.raises(BackendError, match="tensor_parallel_size=16"):
        quire_create_executor("tpu", plan_of(graph, 16))
