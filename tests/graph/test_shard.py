from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.errors import ConfigError, InternalError
from quire.graph.ir import Axis
from quire.graph.ops import FUSED_OPS
from quire.graph.passes import optimize, verify
from quire.graph.shard import axis_range, shard


def _close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("family", "tp"),
    [
        ("qwen3", 2),
        ("qwen3", 4),
        ("qwen2", 4),
        ("gemma2", 2),
        ("mixtral", 2),
        ("mixtral", 4),
        ("gpt2", 2),
        ("gpt2", 4),
        ("gpt_neox", 2),
    ],
)
@pytest.mark.parametrize("fused", [frozenset(), FUSED_OPS])
def test_ranks_together_give_the_uncut_logits(tiny, logits, family: str, tp: int, fused: frozenset[str]) -> None:
    """tp=4 replicates 2 KV heads; a vocabulary of 131 is padded for every tp; Mixtral shares out its experts."""
    model = tiny(family)
    local = optimize(shard(model, tp), fused)
    _close(logits(local, tp), logits(model))


def test_order_of_shard_and_passes_does_not_matter(tiny, logits) -> None:
    model = tiny("qwen2")
    local = shard(optimize(model, FUSED_OPS), 2)
    verify(local)
    _close(logits(local, 2), logits(model))


def test_experts_cut_by_their_inner_axis(tiny, logits) -> None:
    model = tiny("mixtral")
    axes = {**model.axes, "expert_mlp": Axis(48), "ep": Axis(4, "whole")}
    model = replace(model, axes=axes)
    local = shard(model, 4)
    assert (local.axes["ep"].size, local.axes["expert_mlp"].size) == (4, 12)
    _close(logits(local, 4), logits(model))


def test_collectives_of_a_model(tiny) -> None:
    local = shard(tiny("qwen3"), 2)
    verify(local)
    ops = [[node.op for node in part.graph.nodes] for part in local.parts()]
    assert [names.count("all_reduce") for names in ops] == [1, 2, 2, 2, 0]
    gather = local.heads["logits"].graph.nodes[-1]
    assert (gather.op, str(gather.attr("size"))) == ("all_gather", "131")


def test_bias_of_a_row_cut_linear_is_added_after_the_sum(tiny) -> None:
    local = shard(tiny("gpt2"), 2)
    nodes = local.layers[0].graph.nodes
    reduces = [node for node in nodes if node.op == "all_reduce"]
    assert [bool(node.weights[0]) for node in reduces] == [True, True]
    partial = {node.inputs[0] for node in reduces}
    row_cut = [node for node in nodes if node.op == "linear" and node.outputs[0] in partial]
    assert [node.weights[1] for node in row_cut] == ["", ""]


def test_local_axes(tiny) -> None:
    axes = shard(tiny("qwen3"), 4).axes
    assert (axes["heads"].size, axes["kv_heads"].size, axes["vocab"].size) == (1, 1, 33)
    assert (axes["heads"].full_size, axes["kv_heads"].full_size, axes["vocab"].full_size) == (4, 2, 131)
    assert [axis_range(axes["kv_heads"], rank, 4) for rank in range(4)] == [(0, 1), (0, 1), (1, 2), (1, 2)]
    assert [axis_range(axes["vocab"], rank, 4) for rank in range(4)] == [(0, 33), (33, 66), (66, 99), (99, 131)]
    assert axis_range(Axis(7), 3, 4) == (0, 7)


def test_padding_may_leave_a_rank_empty() -> None:
    axis = Axis(2, "pad", full=5)
    assert [axis_range(axis, rank, 4) for rank in range(4)] == [(0, 2), (2, 4), (4, 5), (5, 5)]


def test_tp_1_changes_nothing(tiny) -> None:
    model = tiny("qwen3")
    assert shard(model, 1) is model


def test_what_cannot_be_cut_is_refused_by_name(tiny) -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel_size=3 does not divide heads=4") as caught:
        shard(tiny("qwen3"), 3)
    assert "--tensor-parallel-size 1 or 2" in str(caught.value)
    with pytest.raises(ConfigError, match="kv_heads=2"):
        shard(tiny("qwen3", num_attention_heads=6), 3)
    with pytest.raises(ConfigError, match="op rms_norm over heads"):
        shard(tiny("olmo2"), 2)
    with pytest.raises(InternalError, match="cut already"):
        shard(shard(tiny("qwen3"), 2), 2)
