"""Ops without sums, in torch: computed in float32, rounded once, as `quire.ops` defines them."""

from __future__ import annotations

import torch
from torch.nn import functional

from quire.errors import BackendError, InternalError


def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a + b, rounded once: torch adds 16-bit numbers in float32 itself."""
    return a + b


def scale(x: torch.Tensor, *, factor: float) -> torch.Tensor:
    """x * factor; the factor is float32."""
    return (x.float() * factor).to(x.dtype)


def softcap(x: torch.Tensor, *, cap: float) -> torch.Tensor:
    """cap * tanh(x / cap)."""
    return capped(x.float(), cap).to(x.dtype)


def capped(x: torch.Tensor, cap: float) -> torch.Tensor:
    """`softcap` on float32."""
    return torch.tanh(x / cap) * cap


def activation(x: torch.Tensor, *, act: str) -> torch.Tensor:
    """The activation function `act` of every element."""
    return activate(x.float(), act).to(x.dtype)


def gated_activation(gate: torch.Tensor, up: torch.Tensor, *, act: str) -> torch.Tensor:
    """act(gate) * up, rounded once."""
    return (activate(gate.float(), act) * up.float()).to(gate.dtype)


def activate(x: torch.Tensor, act: str) -> torch.Tensor:
    """float32 activation functions, by the names in `quire.graph.ops.ACTIVATIONS`."""
    if act == "silu":
        return functional.silu(x)
    if act == "gelu":
        return functional.gelu(x)
    if act == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    if act == "relu":
        return functional.relu(x)
    if act == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    raise InternalError(f"activation {act!r} has no torch kernel", because="graph.ops.ACTIVATIONS lists every name")


def split(x: torch.Tensor, *, sizes: tuple[int, ...], axis: int = -1) -> tuple[torch.Tensor, ...]:
    """Consecutive views of `sizes` elements along `axis`."""
    return torch.split(x, list(sizes), dim=axis)


def reshape(x: torch.Tensor, *, shape: tuple[int, ...]) -> torch.Tensor:
    """The same elements in another shape, last dimension fastest; one size may be -1."""
    return x.reshape(shape)


def take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """x[rows]: rows int32 [L] of x [T, ...]."""
    return x.index_select(0, rows)


def all_reduce(x: torch.Tensor, bias: torch.Tensor | None = None, *, world_size: int = 1) -> torch.Tensor:
    """x + bias: there is one rank."""
    _one_rank("all_reduce", world_size)
    return x if bias is None else (x.float() + bias.float()).to(x.dtype)


def all_gather(x: torch.Tensor, *, axis: int, size: int, world_size: int = 1) -> torch.Tensor:
    """x cut to `size` along `axis`: there is one rank."""
    _one_rank("all_gather", world_size)
    return x if x.shape[axis] == size else x.narrow(axis, 0, size)


def _one_rank(op: str, world_size: int) -> None:
    if world_size != 1:
        raise BackendError(
            f"{op} over {world_size} ranks in torch",
            because="this op library runs a single rank",
            hint="--tensor-parallel-size 1",
        )
