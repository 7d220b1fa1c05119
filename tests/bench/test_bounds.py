from __future__ import annotations

from pathlib import Path

import pytest

from quire.bench.bounds import arithmetic_peak, batch_operations, decode_bytes, median_limits, prefill_operations
from quire.bench.workload import Workload
from quire.device.capabilities import MachineLimits
from quire.engine.config import EngineConfig
from quire.engine.llm_engine import LLMEngine
from quire.graph.cost import Dtypes, weight_totals
from quire.graph.kv_budget import kv_bytes_per_token


def limits(read: float, int8: float | None = None) -> MachineLimits:
    return MachineLimits(read_bytes_per_s=read, flops_per_s=10.0, int8_ops_per_s=int8, description="here")


def test_medians_are_taken_field_by_field() -> None:
    median = median_limits([limits(1.0, 5.0), limits(3.0), limits(2.0, 7.0)])
    assert median is not None
    assert (median.read_bytes_per_s, median.flops_per_s, median.int8_ops_per_s) == (2.0, 10.0, 6.0)
    assert median.bf16_flops_per_s is None
    assert median.description == "here; median of 3, one before each run"
    assert median_limits([]) is None


@pytest.fixture(scope="module")
def engine() -> LLMEngine:
    engine = LLMEngine(EngineConfig(model="demo", device="reference", max_model_len=128, skip_tokenizer_init=True))
    yield engine
    engine.close()


def test_decode_reads_every_weight_once_and_the_context(engine: LLMEngine) -> None:
    loaded = engine.loaded
    _, weight_bytes = weight_totals(loaded.model, loaded.resolved.weight_dtype)
    per_token = decode_bytes(loaded, 101) - decode_bytes(loaded, 100)
    assert per_token == kv_bytes_per_token(loaded.model, loaded.resolved.kv_dtype)
    without_kv = decode_bytes(loaded, 100) - 101 * per_token  # read 100, written 1
    assert without_kv == pytest.approx(weight_bytes, rel=1e-3)  # and one row of the embedding


def test_a_batch_is_its_prompts_and_its_steps(engine: LLMEngine) -> None:
    one, two = ((1,) * 8,), ((1,) * 8, (2,) * 8)
    prompt = prefill_operations(engine.loaded, 8)
    step = batch_operations(engine.loaded, Workload(one, 1)) - prompt
    assert step > 2 * 3_000_000  # the model has more parameters than that
    assert batch_operations(engine.loaded, Workload(two, 1)) == 2 * prompt + 2 * step


def test_floats_are_measured_against_float_arithmetic(engine: LLMEngine) -> None:
    assert arithmetic_peak(engine.loaded, limits(1.0, int8=99.0)) == (10.0, "arithmetic")


def test_schemes_count_their_own_bits(engine: LLMEngine) -> None:
    model = engine.loaded.model
    _, plain = weight_totals(model, "bfloat16")
    assert weight_totals(model, "bfloat16", {"plain": 8.0})[1] < 0.51 * plain
    assert Dtypes().scheme_bits == {}


def test_the_checkpoint_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.engine import llm_engine

    asked: list[str] = []
    found = llm_engine.resolve_model

    def resolve_model(model: str, revision: str | None = None) -> Path:
        asked.append(model)
        return found(model, revision)

    for module in ("quire.engine.llm_engine", "quire.engine.build", "quire.weights.hub"):
        monkeypatch.setattr(f"{module}.resolve_model", resolve_model)
    LLMEngine(EngineConfig(model="demo", device="reference", max_model_len=64, skip_tokenizer_init=True)).close()
    assert asked.count("demo") == 1
