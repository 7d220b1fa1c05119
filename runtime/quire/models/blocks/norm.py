"""Norms as families publish them: which op, which epsilon, where they round."""

from __future__ import annotations

from dataclasses import dataclass

from quire.graph.ir import Value
from quire.models.blocks.parameters import Parameters
from quire.models.config.reader import ConfigReader


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """Root-mean-square norm over the last dimension, with weight `name.weight`.

    Attributes:
        weight_offset: added to the weight (Gemma stores weight - 1).
        round_before_weight: the normed value is rounded to the activation dtype before the weight.
    """

    eps: float
    weight_offset: float = 0.0
    round_before_weight: bool = True

    def __call__(self, parameters: Parameters, x: Value, name: str) -> Value:
        weight = parameters.weight(f"{name}.weight", (x.shape[-1],))
        return parameters.tracer.rms_norm(
            x, weight, eps=self.eps, weight_offset=self.weight_offset, round_before_weight=self.round_before_weight
        )


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer norm over the last dimension, with `name.weight` and `name.bias`."""

    eps: float

    def __call__(self, parameters: Parameters, x: Value, name: str) -> Value:
        weight, bias = (parameters.weight(f"{name}.{kind}", (x.shape[-1],)) for kind in ("weight", "bias"))
        return parameters.tracer.layer_norm(x, weight, bias, eps=self.eps)


Norm = RmsNorm | LayerNorm


def read_rms_norm(config: ConfigReader, *, weight_offset: float = 0.0, round_before_weight: bool = True) -> RmsNorm:
    """The norm with a config's epsilon; the arguments are `RmsNorm`'s."""
    return RmsNorm(config.number("rms_norm_eps", 1e-6, high=1.0), weight_offset, round_before_weight)
