from __future__ import annotations

from quire.graph.segments import repetitions, segments


def test_published_stacks_give_the_expected_figures() -> None:
    assert repetitions("s" * 28) == [(1, 28)]
    assert repetitions(("sssssf" * 5)[:26]) == [(6, 4), (1, 2)]  # Gemma 3 1B
    assert repetitions("ddd" + "m" * 58) == [(1, 3), (1, 58)]  # DeepSeek V3
    assert repetitions("lllf" * 12) == [(4, 12)]  # Qwen3-Next
    assert repetitions("mmmmammm" * 4) == [(8, 4)]  # Jamba


def test_gemma2_alternates(tiny) -> None:
    assert segments(tiny("gemma2").layers) == [(2, 2)]
    assert segments(tiny("gemma2", num_hidden_layers=5).layers) == [(2, 2), (1, 1)]


def test_no_repetition_and_nothing() -> None:
    assert repetitions("abc") == [(1, 1), (1, 1), (1, 1)]
    assert repetitions("") == []


def test_cover_is_complete_for_any_stack() -> None:
    for number in range(3**6):
        kinds = [number // 3**i % 3 for i in range(6)]
        covered = repetitions(kinds)
        assert sum(period * repeats for period, repeats in covered) == 6
        start = 0
        for period, repeats in covered:
            body = kinds[start : start + period]
            assert kinds[start : start + period * repeats] == body * repeats
            start += period * repeats
