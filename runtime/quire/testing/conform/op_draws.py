"""Drawn L2 cases: shapes and attributes from Hypothesis, the same ones for one seed and version of it."""

from __future__ import annotations

from typing import Any

from quire.device.capabilities import Capabilities
from quire.graph.ops import ACTIVATIONS
from quire.graph.rope import RopeSpec
from quire.testing.conform.op_case import OpCase
from quire.testing.conform.op_cases import dtypes_of


def hypothesis_version() -> str | None:
    """None where it is not installed; then no cases are drawn."""
    try:
        import hypothesis
    except ImportError:
        return None
    return hypothesis.__version__


def drawn_cases(op: str, capabilities: Capabilities, seed: int, count: int) -> list[OpCase]:
    """Up to `count` different cases of an op; dtypes take turns."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    dtypes = list(dtypes_of(op, capabilities))
    found: dict[str, tuple[dict[str, int], dict[str, Any], tuple[tuple[int, int], ...]]] = {}

    @seeded(seed)
    @settings(
        max_examples=3 * count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_strategy(op))
    def collect(drawn: tuple[dict[str, int], dict[str, Any], tuple[tuple[int, int], ...]]) -> None:
        found.setdefault(repr(drawn), drawn)

    collect()
    chosen = list(found.values())[-count:]  # the first ones drawn are the smallest possible, which are fixed cases
    return [
        OpCase(op, f"drawn_{index}", sizes, attrs, dtypes[index % len(dtypes)], lines=lines, seed=seed + index)
        for index, (sizes, attrs, lines) in enumerate(chosen)
    ]


def _strategy(op: str) -> Any:
    from hypothesis import strategies as st

    def dictionary(**values: Any) -> Any:
        return st.fixed_dictionaries(values)

    nothing: Any = st.just({})
    norm_sizes = dictionary(width=st.integers(1, 90), result=st.integers(0, 1))
    pieces = dictionary(a=st.integers(1, 40), b=st.integers(1, 40), c=st.integers(1, 40), result=st.integers(0, 2))
    lines = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=4).map(tuple)
    width = dictionary(width=st.integers(1, 90))
    heads = dictionary(heads=st.integers(1, 5), head_dim=st.sampled_from((16, 32)))
    norm = dictionary(
        eps=st.sampled_from((1e-6, 1e-5)), weight_offset=st.sampled_from((0.0, 1.0)), round_before_weight=st.booleans()
    )
    grouped = st.builds(
        lambda kv, group, dim: {"heads": kv * group, "kv_heads": kv, "head_dim": dim},
        st.integers(1, 3),
        st.integers(1, 4),
        st.sampled_from((16, 32)),
    )
    rope = dictionary(
        table=st.builds(RopeSpec, st.sampled_from((1e4, 5e5)), st.sampled_from((8, 16))),
        style=st.sampled_from(("neox", "gptj")),
    )
    moe = dictionary(width=st.integers(1, 40), mlp=st.integers(1, 40), experts=st.integers(4, 9))
    routing = dictionary(
        k=st.integers(1, 4),
        normalize=st.booleans(),
        score=st.sampled_from(("softmax", "sigmoid")),
        act=st.sampled_from(ACTIVATIONS),
    )
    attention = dictionary(
        window=st.integers(0, 24), softcap=st.sampled_from((0.0, 3.0)), scale=st.sampled_from((0.0625, 0.3, 1.0))
    )
    acts = dictionary(act=st.sampled_from(ACTIVATIONS))
    strategies = {
        "embedding": (width, dictionary(scale=st.floats(0.125, 64.0, width=32))),
        "linear": (dictionary(width=st.integers(1, 200), out=st.integers(1, 120), bias=st.integers(0, 1)), nothing),
        "rms_norm": (width, norm),
        "add_rms_norm": (norm_sizes, norm),
        "layer_norm": (dictionary(width=st.integers(2, 90), bias=st.integers(0, 1)), dictionary(eps=st.just(1e-5))),
        "add": (width, nothing),
        "scale": (width, dictionary(factor=st.floats(0.125, 8.0, width=32))),
        "softcap": (width, dictionary(cap=st.floats(0.5, 50.0, width=32))),
        "activation": (width, acts),
        "gated_activation": (width, acts),
        "split": (pieces, nothing),
        "reshape": (heads, nothing),
        "take_rows": (width, nothing),
        "rotary": (heads, rope),
        "cache_write": (grouped, nothing),
        "paged_attention": (grouped, attention),
        "rotary_cache_write": (grouped, rope),
        "all_reduce": (dictionary(width=st.integers(1, 90), bias=st.integers(0, 1)), nothing),
        "all_gather": (dictionary(width=st.integers(1, 90), kept=st.integers(1, 5)), nothing),
        "route_experts": (moe, routing),
        "experts": (moe, routing),
    }
    sizes, attrs = strategies[op]
    return st.tuples(sizes, attrs, lines)
