"""ALiBi: biases of attention scores that grow with distance, a slope for each head (arXiv:2108.12409)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quire.graph.ir import Axis, Graph, Node
from quire.graph.shapes import Dim


def alibi_slopes(num_heads: int, max_bias: float = 8.0) -> np.ndarray:
    """float32 [num_heads]: the factor on (key index - query index) of each head, all of them positive.

    A power of two n has 2^(-max_bias * i / n), i = 1..n. Other numbers take the slopes of the next lower power of two,
    then every other one, from the first, of the next higher.

    Args:
        max_bias: 8 in the paper and in BLOOM; MPT's `alibi_bias_max`.
    """
    power = 1 << max(0, num_heads - 1).bit_length()
    slopes = 2.0 ** (-max_bias * np.arange(1, power + 1) / power)
    if power != num_heads:
        slopes = np.concatenate([slopes[1::2], slopes[::2]])[:num_heads]
    return slopes.astype(np.float32)


def slopes_of_node(node: Node, graph: Graph, axes: Mapping[str, Axis]) -> np.ndarray | None:
    """The slopes that a `paged_attention` node asks for, of the heads of all ranks; None = no ALiBi.

    Where the axis of heads is cut, rank r has the r-th of the equal pieces.
    """
    max_bias = node.attr("alibi", 0.0)
    if not max_bias:
        return None
    heads: Dim = graph.values[node.inputs[0]].shape[1]
    return alibi_slopes(heads.evaluate({name: axis.full_size for name, axis in axes.items()}), max_bias)


def slopes_of_rank(node: Node, graph: Graph, axes: Mapping[str, Axis], rank: int) -> np.ndarray | None:
    """As `slopes_of_node`, of one rank's heads."""
    slopes = slopes_of_node(node, graph, axes)
    if slopes is None:
        return None
    heads = graph.values[node.inputs[0]].shape[1].evaluate({name: axis.size for name, axis in axes.items()})
    return slopes[rank * heads : (rank + 1) * heads]
