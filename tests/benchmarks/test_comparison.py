"""Rows, ratios, tables and the chart of compare.py, and the process it talks to."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from comparison.bar_chart import bar_chart
from comparison.contender import Contender, Running
from comparison.markdown import markdown, refill
from comparison.result import Result
from comparison.rows import Row, process_rows, speed_rows

from quire.device.capabilities import MachineLimits

LIMITS = MachineLimits(read_bytes_per_s=40e9, flops_per_s=200e9, int8_ops_per_s=800e9)
CONTENDERS = [
    Contender("quire", "bfloat16"),
    Contender("quire", "int4"),
    Contender("llama-cpp", "BF16"),
    Contender("llama-cpp", "F16"),
    Contender("llama-cpp", "Q4_0"),
]


def rows() -> list[Row]:
    return speed_rows(1000, decode_len=128, prefill_len=512, num_prompts=32)


def result_of(row: Row, *rounds: list[float], limits: float | None = None) -> Result:
    result = Result(row, CONTENDERS)
    for figures in rounds:
        result.values.append(dict(zip((c.label for c in CONTENDERS), figures, strict=True)))
        result.limits.append({} if limits is None else {"quire bfloat16": limits})
    return result


def test_figures_follow_from_times() -> None:
    decode, prefill, batch = rows()
    assert decode.figure({"first_s": 1.0, "total_s": 3.54}) == pytest.approx(127 / 2.54)
    assert prefill.figure({"first_s": 2.0, "total_s": 2.1}) == 256
    assert batch.figure({"first_s": 0.1, "total_s": 8.0}) == 32 * 64 / 8
    assert 4000 < batch.workload.num_prompt_tokens < 5000


def test_limits_follow_from_what_our_answer_reads_and_computes() -> None:
    decode, prefill, batch = rows()
    answer = {
        "first_s": 1.0,
        "total_s": 2.0,
        "decode_bytes": 1e9,
        "prefill_operations": 512e9,
        "batch_operations": 32 * 64e9,
    }
    assert decode.limit(answer, LIMITS, 16) == 40
    assert prefill.limit(answer, LIMITS, 16) == 200
    assert prefill.limit(answer, LIMITS, 4) == 800
    assert batch.limit(answer, LIMITS, 8) == 800
    assert process_rows(1000)[0].limit(answer, LIMITS, 16) is None


def test_a_format_is_compared_with_the_best_peer_of_its_width_in_every_round() -> None:
    result = result_of(rows()[0], [30, 60, 15, 20, 40], [20, 90, 16, 10, 30], [24, 80, 14, 12, 40], limits=40.0)
    bf16, int4 = result.standings()
    assert (bf16.value, bf16.best_peer, bf16.best_value) == (24, "llama-cpp BF16", 15)
    assert bf16.ratio == 1.5  # of 30/20, 20/16, 24/14
    assert bf16.share == pytest.approx(24 / 40)
    assert (int4.best_peer, int4.ratio, int4.share) == ("llama-cpp Q4_0", 2.0, None)


def test_many_requests_are_compared_with_every_format() -> None:
    bf16, int4 = result_of(rows()[2], [50, 90, 20, 25, 30]).standings()
    assert (bf16.best_peer, bf16.ratio) == ("llama-cpp Q4_0", pytest.approx(50 / 30))
    assert int4.ratio == 3


def test_less_is_better_for_starts_and_memory() -> None:
    start, _ = process_rows(1000)
    bf16, int4 = result_of(start, [0.5, 0.4, 1.2, 1.0, 0.8]).standings()
    assert (bf16.best_peer, bf16.ratio) == ("llama-cpp F16", 2.0)
    assert int4.ratio == pytest.approx(2.0)


def test_without_a_peer_of_the_width_all_are_taken() -> None:
    result = result_of(rows()[0], [30, 60, 15, 20, 40])
    only = Result(result.row, [CONTENDERS[1], CONTENDERS[2]], result.values, result.limits)
    assert only.standings()[0].best_peer == "llama-cpp BF16"


@pytest.mark.parametrize(
    ("name", "bits"),
    [("BF16", 16), ("bfloat16", 16), ("float32", 32), ("Q8_0", 8), ("Q4_K_M", 4), ("int4_g32", 4), ("int8", 8)],
)
def test_bits_of_a_format(name: str, bits: int) -> None:
    assert Contender("x", name).bits == bits


def test_tables_and_chart_hold_every_figure() -> None:
    results = [result_of(row, [30.5, 60.5, 15.5, 20.5, 1040.5], limits=40.0) for row in (*rows(), *process_rows(10))]
    text = markdown(results)
    assert f"| {rows()[0].name}, tokens/s | bfloat16 | 30.5 | 40.0 | 76% | llama-cpp F16 | 20.5 |" in text
    assert text.count("1,040") >= len(results)
    chart = ElementTree.fromstring(bar_chart("a & b", results))
    words = [element.text for element in chart.iter() if element.text and element.text.strip()]
    assert words[0] == "a & b"
    assert words.count("llama-cpp Q4_0") == len(results)
    bars = [
        float(element.get("width", "0"))
        for element in chart.iter()
        if element.tag.endswith("rect") and element.get("width") != "100%"
    ]
    assert len(bars) == len(results) * len(CONTENDERS)
    assert bars[0] / bars[4] == pytest.approx(30.5 / 1040.5, rel=0.01)
    assert json.loads(json.dumps(results[0].as_json()))["medians"]["quire int4"] == 60.5


def test_tables_are_put_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# a\n<!-- peers -->\nold\n<!-- /peers -->\nlast\n")
    refill(page, "peers", "new\n")
    refill(page, "peers", "newer\n")
    assert page.read_text() == "# a\n<!-- peers -->\nnewer\n<!-- /peers -->\nlast\n"
    for mark in ("other", ""):
        with pytest.raises(ValueError, match="has no"):
            refill(page, mark, "x")


ECHO = """
import json, protocol
print("a notice of the engine's own", flush=True)
held = bytearray(50 << 20)
protocol.serve("echo 1", lambda prompts, output_len: {"first_s": len(prompts), "total_s": output_len})
"""


def test_a_process_answers_and_its_memory_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import protocol

    monkeypatch.setenv("PYTHONPATH", str(Path(protocol.__file__).parent))
    running = Running(Contender("echo", "f32"), [sys.executable, "-c", ECHO])
    assert running.first_token_s((1, 2)) > 0.01
    assert running.version == "echo 1"
    assert running.run(((1,), (2,)), 7) == {"first_s": 2, "total_s": 7}
    assert 50 < running.peak_mib() < 500
    running.close()
    broken = Running(Contender("broken", "f32"), [sys.executable, "-c", "input()"])
    with pytest.raises(SystemExit, match="broken f32 ended"):
        broken.run(((1,),), 1)
    broken.close()
