"""ALiBi slopes against the formula as BLOOM's and MPT's authors wrote it, and the pieces that ranks get."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.graph.alibi import alibi_slopes, slopes_of_node, slopes_of_rank
from quire.graph.ir import Axis
from quire.graph.shapes import T, shape_of
from quire.graph.trace import Tracer


def test_powers_of_two_halve_from_head_to_head() -> None:
    np.testing.assert_array_equal(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_array_equal(alibi_slopes(1), [2.0**-8])
    np.testing.assert_array_equal(alibi_slopes(4, 4.0), [0.5, 0.25, 0.125, 0.0625])


@pytest.mark.parametrize("num_heads", [3, 6, 12, 71])
def test_other_numbers_go_on_between_the_slopes_of_the_lower_power(num_heads: int) -> None:
    lower = 1 << (num_heads.bit_length() - 1)
    ratio = 2.0 ** (-8.0 / lower)
    expected = [ratio ** (i + 1) for i in range(lower)]
    expected += [2.0 ** (-4.0 / lower * (2 * i + 1)) for i in range(num_heads - lower)]
    np.testing.assert_allclose(alibi_slopes(num_heads), expected, rtol=1e-6)


def test_ranks_have_the_slopes_of_their_heads() -> None:
    t = Tracer()
    q = t.input("q", shape_of(T, "heads", 16))
    t.output("out", t.paged_attention(q, t.input("kv", (), "cache"), scale=0.25, alibi=8.0))
    graph = t.part("").graph
    node = graph.nodes[0]
    whole = {"heads": Axis(12)}
    cut = {"heads": Axis(6, full=12)}
    np.testing.assert_array_equal(slopes_of_node(node, graph, cut), alibi_slopes(12))
    ranks = [slopes_of_rank(node, graph, cut, rank) for rank in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(ranks), slopes_of_rank(node, graph, whole, 0))
    plain = replace(node, attrs=tuple((name, 0.0 if name == "alibi" else value) for name, value in node.attrs))
    assert slopes_of_node(plain, graph, whole) is None
