"""Mixture of experts.

Shapes here: T tokens, D hidden size, F intermediate size, E experts, k experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.graph.ir import Cat, OneOf, Source, Stack, Value
from quire.graph.shapes import Dim, shape_of
from quire.models.blocks.layer_parameters import LayerParameters
from quire.models.config.reader import MOST_EXPERTS, ConfigReader

MOST_EXPERTS_OF_ALL_LAYERS = 2**17
"""Five times those of the largest published model; a graph names the matrices of each."""


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """A sparse block in the published layout: its prefix, and an expert's projections."""

    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


@dataclass(frozen=True, slots=True)
class SparseMlp:
    """Each token through its k best experts of E; routing weights are the softmax over all E.

    Attributes:
        size: intermediate size of an expert.
        normalize: the k chosen weights are divided by their sum.
    """

    num_experts: int
    experts_per_token: int
    size: int
    act: str
    normalize: bool
    names: ExpertNames = ExpertNames()

    def __call__(self, parameters: LayerParameters, x: Value) -> Value:
        """Ranks share out whole experts, which all of them choose among."""
        t, hidden_size, block = parameters.tracer, x.shape[-1], self.names.block
        all_experts = parameters.axis("experts", self.num_experts, "whole")
        experts = parameters.axis("ep", self.num_experts)
        rows = parameters.axis("expert_mlp", self.size, "whole")
        routers = tuple(
            parameters.source(f"{name}.gate.weight", (all_experts, hidden_size))
            for name in dict.fromkeys((block, "mlp"))
        )
        router = parameters.from_source(
            "mlp.gate.weight", (all_experts, hidden_size), routers[0] if len(routers) == 1 else OneOf(routers)
        )
        logits = t.linear(x, router, out_dtype="f32")
        ids, weights = t.route_experts(logits, k=self.experts_per_token, normalize=self.normalize)
        gate_up = self._gate_up_source(parameters, experts, rows, hidden_size)
        down = self._down_source(parameters, experts, rows, hidden_size)
        w13 = parameters.from_source("mlp.experts.gate_up_proj", (experts, rows * 2, hidden_size), gate_up)
        w2 = parameters.from_source("mlp.experts.down_proj", (experts, hidden_size, rows), down)
        return t.experts(x, ids, weights, w13, w2, act=self.act)

    def _gate_up_source(self, parameters: LayerParameters, experts: Dim, rows: Dim, hidden_size: Dim) -> Source:
        """One matrix per expert and projection, or all experts' gate and up rows in one tensor [E, 2F, D]."""
        names = self.names
        apart = Stack(
            tuple(
                Cat(
                    tuple(
                        parameters.source(f"{names.block}.experts.{expert}.{name}.weight", (rows, hidden_size))
                        for name in (names.gate, names.up)
                    )
                )
                for expert in range(self.num_experts)
            ),
            str(experts),
        )
        stored = ("reshape", shape_of(experts, rows * 2, hidden_size))
        halves = ((0, rows), (rows, rows * 2))
        fused = Cat(
            tuple(
                parameters.source(
                    "mlp.experts.gate_up_proj", (experts, rows, hidden_size), (stored, ("slice", 1, *half))
                )
                for half in halves
            ),
            axis=1,
        )
        return OneOf((apart, fused))

    def _down_source(self, parameters: LayerParameters, experts: Dim, rows: Dim, hidden_size: Dim) -> Source:
        apart = Stack(
            tuple(
                parameters.source(f"{self.names.block}.experts.{expert}.{self.names.down}.weight", (hidden_size, rows))
                for expert in range(self.num_experts)
            ),
            str(experts),
        )
        return OneOf((apart, parameters.source("mlp.experts.down_proj", (experts, hidden_size, rows))))


def read_expert_counts(config: ConfigReader, name: str, default: int, *, per_token: int) -> tuple[int, int]:
    """(experts of a layer, experts a token goes through) of a config; arguments are the family's defaults.

    Raises ModelError for more of either than there can be.
    """
    num_experts, num_layers = config.integer(name, default, high=MOST_EXPERTS), config.layers()
    if num_experts * num_layers > MOST_EXPERTS_OF_ALL_LAYERS:
        raise config.refusal(
            name,
            f"that makes {num_experts * num_layers} in {num_layers} layers, at most "
            f"{MOST_EXPERTS_OF_ALL_LAYERS} are read",
            num_experts,
        )
    return num_experts, config.integer("num_experts_per_tok", per_token, high=num_experts)
