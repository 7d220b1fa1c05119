"""Cases are data: every op has some, names are unique, draws repeat, a model's shapes are taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from quire.device import (
    Capabilities,
    DeviceReport,
    Executor,
    ExecutorPlan,
    GraphExecutor,
    Kernel,
    hookimpl,
)
from quire.device.plugin import load_plugin
from quire.graph.ir import Graph, Node
from quire.graph.ops import FUSED_OPS, PLAIN_OPS
from quire.ops import DECLARED
from quire.reference import device
from quire.testing.conform import Subject, level_cases, run_case, subject_of_plugin
from quire.testing.conform.from_model import model_cases
from quire.testing.conform.op_case import op_model
from quire.testing.conform.op_cases import fixed_cases
from quire.testing.conform.op_draws import drawn_cases
from quire.testing.conform.ops import as_case

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 100003,
    "hidden_size": 96,
    "intermediate_size": 160,
    "moe_intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "mlp_only_layers": [0],
    "max_position_embeddings": 256,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of_plugin("reference", load_plugin("reference", lambda: device))


def test_every_op_has_cases() -> None:
    assert set(DECLARED) == PLAIN_OPS | FUSED_OPS
    assert all(op.kit.cases for op in DECLARED.values())


def test_case_names_are_unique_and_stable(subject: Subject) -> None:
    names = [case.name for case in level_cases(subject)]
    assert len(set(names)) == len(names)
    assert names == [case.name for case in level_cases(subject)]


@pytest.mark.parametrize("op", sorted(DECLARED))
def test_the_op_is_in_its_model_once(subject: Subject, op: str) -> None:
    """A case that does not run its op would prove nothing."""
    for case in fixed_cases(op, subject.capabilities, 0):
        model = op_model(case, DECLARED[op].kit.body(case))
        used = [node.op for part in model.parts() for node in part.graph.nodes]
        assert op in used, case.name


def test_draws_repeat_for_a_seed_and_differ_between_seeds(subject: Subject) -> None:
    def drawn(seed: int) -> list[str]:
        return [repr(case) for case in drawn_cases("paged_attention", subject.capabilities, seed, 6)]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert len(set(drawn(3))) == 6


def test_a_models_shapes_are_taken(subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    cases = [case for case in model_cases(subject, tmp_path) if case.dtypes.act == "float32"]
    sizes = {(case.op, tuple(sorted(case.sizes.items()))) for case in cases}
    assert ("linear", (("bias", 0), ("out", 192), ("width", 96))) in sizes  # q_proj
    assert ("linear", (("bias", 0), ("out", 4096 + 100003 % 64), ("width", 96))) in sizes  # lm_head, cut
    assert ("paged_attention", (("head_dim", 32), ("heads", 6), ("kv_heads", 2))) in sizes
    assert ("rms_norm", (("head_dim", 32), ("heads", 6))) in sizes
    assert ("experts", (("experts", 6), ("mlp", 40), ("width", 96))) in sizes
    assert ("gated_activation", (("width", 160),)) in sizes
    small = [case for case in cases if "out" not in case.sizes or case.sizes["out"] < 1000]
    results = [run_case(as_case(case), subject) for case in small]
    assert {result.status for result in results} == {"passed"}
    assert all(result.name.split("/")[2].startswith("model_") for result in results)


def test_a_device_of_tiny_steps_is_told_so(subject: Subject) -> None:
    small = replace(subject, capabilities=replace(subject.capabilities, max_num_batched_tokens=8))
    (case,) = [case for case in level_cases(small, ["L3"]) if case.name == "L3/block_size/16"]
    result = run_case(case, small)
    assert result.status == "failed"
    assert "takes 8 tokens" in result.reason


class OneOp(device.ReferenceLibrary):
    """A backend that has a single op."""

    capabilities = replace(device.CAPABILITIES, ops=frozenset({"rms_norm"}), act_dtypes=("float32",))
    name = "one_op"

    def lower(self, node: Node, graph: Graph, plan: ExecutorPlan) -> Kernel | None:  # type: ignore[override]
        return super().lower(node, graph, plan) if node.op == "rms_norm" else None


def _one_op(declared: frozenset[str]) -> Subject:
    class Module:
        QUIRE_CONTRACT = (1, 0)

        @hookimpl
        def quire_probe(self, device: str, options: Mapping[str, str]) -> DeviceReport:
            return DeviceReport(available=True, name="one op")

        @hookimpl
        def quire_capabilities(self, device: str, options: Mapping[str, str]) -> Capabilities:
            return replace(OneOp.capabilities, ops=declared)

        @hookimpl
        def quire_create_executor(self, device: str, plan: ExecutorPlan) -> Executor:
            return GraphExecutor(OneOp(), plan)

    return subject_of_plugin("one_op", load_plugin("one_op", Module))


def test_a_backend_of_one_op_is_checked_on_that_op() -> None:
    """Those around it run on the reference; what it declares and does not have is still a failure."""
    subject = _one_op(frozenset({"rms_norm"}))
    results = [run_case(case, subject) for case in level_cases(subject, ["L2"])]
    statuses = {result.name.split("/")[1]: result.status for result in results}
    assert statuses.pop("rms_norm") == "passed"
    assert set(statuses.values()) == {"not applicable"}
    liar = _one_op(frozenset({"rms_norm", "softcap"}))
    (case,) = [case for case in level_cases(liar, ["L2"]) if case.name.startswith("L2/softcap/layer/")]
    assert run_case(case, liar).reason == "softcap is declared, but runs on the reference"
