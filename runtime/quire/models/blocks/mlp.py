"""The gated feed-forward block."""

from __future__ import annotations

from dataclasses import dataclass

from quire.graph.ir import Value
from quire.models.blocks.layer_parameters import LayerParameters
from quire.models.config.reader import ConfigReader


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """down(act(gate(x)) * up(x)) with projections of `size`."""

    size: int
    act: str
    bias: bool = False

    def __call__(self, parameters: LayerParameters, x: Value) -> Value:
        rows = parameters.axis("mlp", self.size)
        gate = parameters.linear(x, "mlp.gate_proj", rows, bias=self.bias)
        up = parameters.linear(x, "mlp.up_proj", rows, bias=self.bias)
        return self.project_back(parameters, gate, up)

    def project_back(self, parameters: LayerParameters, gate: Value, up: Value) -> Value:
        """down(act(gate) * up)."""
        hidden = parameters.tracer.gated_activation(gate, up, act=self.act)
        return parameters.linear(hidden, "mlp.down_proj", parameters.hidden_size, bias=self.bias)


def read_gated_mlp(config: ConfigReader, *, bias: bool = False) -> GatedMlp:
    """The block with a config's size and activation in the usual words."""
    return GatedMlp(config.integer("intermediate_size"), config.activation("hidden_act", "silu"), bias)
