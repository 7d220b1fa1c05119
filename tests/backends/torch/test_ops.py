"""Every op in torch against the reference, in all three dtypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from quire.device.dtypes import numpy_dtype
from quire.graph.ops import ACTIVATIONS, OPS
from quire.graph.rope import RopeSpec, rope_table
from quire.reference import REFERENCE
from quire_torch.linear import product_f32
from quire_torch.lowering import KERNELS
from quire_torch.plugin import CAPABILITIES
from quire_torch.rotary import rotary
from quire_torch.tensors import host_array, host_tensor, torch_dtype

DTYPES = ("float32", "bfloat16", "float16")
F32, I32 = "f32", "i32"


@dataclass(frozen=True)
class Case:
    """Operands by (shape, dtype): "act", "f32", or a function of the generator."""

    op: str
    operands: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)

    def make(self, dtype: str, rng: np.random.Generator) -> list[np.ndarray | None]:
        return [_operand(operand, dtype, rng) for operand in self.operands]


def _operand(operand: Any, dtype: str, rng: np.random.Generator) -> np.ndarray | None:
    if operand is None:
        return None
    if callable(operand):
        return operand(rng)
    shape, kind = operand if isinstance(operand[-1], str) else (operand, "act")
    return rng.standard_normal(shape).astype(np.float32 if kind == F32 else numpy_dtype(dtype))


def _ids(high: int, *shape: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.integers(0, high, shape).astype(np.int32)


def _choices(rng: np.random.Generator) -> np.ndarray:
    return np.stack([rng.permutation(5)[:2] for _ in range(9)]).astype(np.int32)


_ROUTED = ((9, 16), _choices, ((9, 2), F32), ((5, 24, 16), "act"), ((5, 16, 12), "act"))
CASES = [
    Case("embedding", (_ids(30, 7), (30, 16))),
    Case("embedding", (_ids(30, 7), (30, 16)), {"scale": 59.87}),
    Case("linear", ((9, 48), (37, 48), (37,))),
    Case("linear", ((9, 48), (37, 48), None), {"out_dtype": F32}),
    Case("linear", ((9, 48), (37, 48), (37,)), {"out_dtype": F32}),
    Case("linear", ((9, 48), ((37, 48), F32), None)),
    Case("linear", ((3, 5, 16), (10, 16), None)),
    Case("rms_norm", ((9, 48), (48,)), {"eps": 1e-5, "weight_offset": 1.0}),
    Case("rms_norm", ((9, 3, 16), (16,)), {"eps": 1e-6, "round_before_weight": True}),
    Case("layer_norm", ((9, 48), (48,), (48,)), {"eps": 1e-5}),
    Case("layer_norm", ((9, 48), (48,), None), {"eps": 1e-5}),
    Case("add", ((9, 48), (9, 48))),
    Case("scale", ((9, 48),), {"factor": 0.37}),
    Case("softcap", (((9, 48), F32),), {"cap": 0.7}),
    Case("softcap", ((9, 48),), {"cap": 0.7}),
    *[Case("activation", ((9, 48),), {"act": act}) for act in ACTIVATIONS],
    *[Case("gated_activation", ((9, 48), (9, 48)), {"act": act}) for act in ACTIVATIONS],
    Case("split", ((9, 48),), {"sizes": (16, 24, 8)}),
    Case("split", ((9, 48),), {"sizes": (4, 5), "axis": 0}),
    Case("reshape", ((9, 48),), {"shape": (-1, 3, 16)}),
    Case("take_rows", ((9, 48), _ids(9, 4))),
    Case("route_experts", (((9, 5), F32),), {"k": 2}),
    Case("route_experts", (lambda rng: np.zeros((4, 6), np.float32),), {"k": 3, "normalize": False}),
    Case("route_experts", (((9, 5), F32),), {"k": 3, "score": "sigmoid", "scale": 2.5}),
    Case("experts", _ROUTED, {"act": "silu"}),
    Case("all_reduce", ((9, 48), (48,))),
    Case("all_gather", ((9, 48),), {"axis": -1, "size": 40}),
    Case("add_rms_norm", ((9, 48), (9, 48), (48,)), {"eps": 1e-6, "round_before_weight": True}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case.op, *map(str, case.attrs.values())]))
def test_an_op_is_the_references(case: Case, dtype: str) -> None:
    operands = case.make(dtype, np.random.default_rng(7))
    expected = REFERENCE[case.op](*operands, **case.attrs)
    results = KERNELS[case.op](*[None if a is None else host_tensor(a) for a in operands], **case.attrs)
    single = not isinstance(expected, tuple)
    for result, wanted in zip((results,) if single else results, (expected,) if single else expected, strict=True):
        _assert_close(host_array(result), wanted, OPS[case.op].tolerance[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("style", ["neox", "gptj"])
@pytest.mark.parametrize("dims", [16, 8])
def test_rotary_is_the_references(dims: int, style: str, dtype: str) -> None:
    rng, table = np.random.default_rng(3), RopeSpec(theta=10000.0, dims=dims)
    x = rng.standard_normal((6, 3, 16)).astype(numpy_dtype(dtype))
    positions = rng.integers(0, 50, 6).astype(np.int32)
    cos, sin = (host_tensor(rows[positions])[:, None] for rows in rope_table(table, 64))
    result = rotary(host_tensor(x), cos, sin, style=style)
    expected = REFERENCE["rotary"](x, positions, table=table, style=style, max_len=64)
    _assert_close(host_array(result), expected, OPS["rotary"].tolerance[dtype])


def test_every_op_of_the_devices_is_among_the_cases() -> None:
    with_caches = {"rotary", "cache_write", "paged_attention", "rotary_cache_write"}
    assert {case.op for case in CASES} | with_caches == CAPABILITIES.ops | CAPABILITIES.fused_ops


def test_a_token_id_outside_the_table_is_refused() -> None:
    for token in (-1, 30):
        with pytest.raises(IndexError):
            KERNELS["embedding"](torch.tensor([token], dtype=torch.int32), torch.zeros(30, 4))


def test_sums_of_a_16_bit_product_are_not_rounded_on_the_way() -> None:
    """Terms that 16-bit partial sums would swallow: 256 + 4096 * 2**-5 = 384."""
    x, weight = torch.ones(1, 4097, dtype=torch.bfloat16), torch.full((2, 4097), 2.0**-5, dtype=torch.bfloat16)
    weight[:, 0] = 256
    assert product_f32(x, weight).tolist() == [[384.0, 384.0]]


def _assert_close(result: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    if expected.dtype == np.int32:
        np.testing.assert_array_equal(result, expected)
        return
    a, b = result.astype(np.float32), expected.astype(np.float32)
    bound = tolerance * (np.abs(b) + np.sqrt(np.mean(b * b)))
    assert (np.abs(a - b) <= bound).all(), f"off by {np.abs(a - b).max()}"


def test_the_dtypes_of_the_contract_have_torch_dtypes() -> None:
    for name in DTYPES:
        array = np.array([1.5, -2.0], numpy_dtype(name))
        assert host_tensor(array).dtype == torch_dtype(name)
        np.testing.assert_array_equal(host_array(host_tensor(array)), array)
