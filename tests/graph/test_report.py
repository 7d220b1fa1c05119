from __future__ import annotations

import json

from quire.graph.ops import FUSED_OPS
from quire.graph.passes import optimize
from quire.graph.report import inspect_model, report_lines
from quire.graph.shard import shard


def test_data_is_json_and_complete(tiny) -> None:
    found = json.loads(json.dumps(inspect_model(tiny("gemma2"), memory_bytes=2**24)))
    assert found["num_layers"] == 4
    assert found["segments"] == [[2, 2]]
    assert [(part["name"], part["times"]) for part in found["parts"]] == [
        ("model", 1),
        ("model.layers.0", 2),
        ("model.layers.1", 2),
        ("logits", 1),
    ]
    assert sum(len(part["nodes"]) for part in found["parts"]) == 1 + 22 + 22 + 4
    assert found["kv"]["bytes_per_token"] == 4 * 2 * 2 * 8 * 2
    assert found["kv"]["groups"]["sliding"]["window"] == 5
    assert found["fit"]["blocks"]["kv"] > 256
    assert found["bytes"]["weights"] == 2 * found["parameters"]


def test_parts_add_up_to_the_decode_step(tiny) -> None:
    found = inspect_model(tiny("gemma2"), context=1024)
    assert sum(part["flops"] * part["times"] for part in found["parts"]) == found["decode"]["flops"]
    for part in found["parts"]:
        assert sum(node["flops"] for node in part["nodes"]) == part["flops"]


def test_lines_for_people(tiny) -> None:
    model = optimize(tiny("qwen3"), FUSED_OPS)
    text = "\n".join(report_lines(inspect_model(model, memory_bytes=2**26, max_model_len=64)))
    for expected in (
        "layers 3 = 3 x 1",
        "model.layers.0 (x3)",
        "rotary_cache_write",
        "add_rms_norm",
        "heads=4",
        "act[T, heads*8 + kv_heads*16]",
        "pool kv: full",
        "192 B per token as bfloat16",
        "in 64 MiB",
        "blocks =",
    ):
        assert expected in text, expected


def test_memory_that_is_too_small_is_explained_not_raised(tiny) -> None:
    found = inspect_model(tiny("qwen3"), memory_bytes=1000)
    assert found["fit"]["blocks"] == {}
    assert any("--memory-utilization" in line for line in report_lines(found))


def test_ranks_are_visible(tiny) -> None:
    assert any("heads=2 of 4" in line for line in report_lines(inspect_model(shard(tiny("qwen3"), 2))))
