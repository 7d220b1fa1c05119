from __future__ import annotations

import pytest

from quire.bench.report import Figure, Report, limits_line
from quire.device.capabilities import MachineLimits


def test_a_figure_stands_beside_its_limit() -> None:
    figure = Figure("decode, one stream", 24.0, "tokens/s", 32.0, "read")
    assert figure.share == 0.75
    assert figure.line().endswith(" 75.0% of read 32.0")
    assert Figure("load", 1.5, "s").line().endswith("1.50 s")


def test_limits_that_were_not_measured_are_left_out() -> None:
    plain = MachineLimits(read_bytes_per_s=40e9, flops_per_s=240e9, description="2 threads")
    assert limits_line(plain) == "limits: read 40.0 GB/s, arithmetic 240 GFLOP/s (2 threads)"
    full = MachineLimits(
        read_bytes_per_s=40e9,
        flops_per_s=480e9,
        single_stream_bytes_per_s=35e9,
        bf16_flops_per_s=960e9,
        int8_ops_per_s=1920e9,
    )
    assert "one stream a thread: 35.0" in limits_line(full)
    assert "bfloat16 960 GFLOP/s, int8 1920 Gop/s" in limits_line(full)


def test_json_holds_figures_with_shares_and_the_limits() -> None:
    limits = MachineLimits(read_bytes_per_s=40e9, flops_per_s=240e9)
    written = Report("title", {"repeats": 1}, [Figure("x", 1.0, "s", 4.0)], limits).as_json()
    assert written["figures"][0]["share"] == pytest.approx(0.25)
    assert written["limits"]["read_bytes_per_s"] == 40e9
    assert written["limits"]["int8_ops_per_s"] is None
