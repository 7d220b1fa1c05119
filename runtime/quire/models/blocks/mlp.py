"""Feed-forward blocks: gated, plain, and mixture of experts.

Shapes here: T tokens, D hidden size, F intermediate size, E experts, k experts per token.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.graph.ir import Cat, OneOf, Source, Stack, Value
from quire.graph.shapes import Dim, shape_of
from quire.models.blocks.parameters import Parameters
from quire.models.config.reader import MOST_EXPERTS, ConfigReader

MOST_EXPERTS_OF_ALL_LAYERS = 2**17
"""Five times those of the largest published model; a graph names the matrices of each."""

MLP, EXPERT_MLP, EXPERTS, EP = (Dim.of(name) for name in ("mlp", "expert_mlp", "experts", "ep"))


def gated_mlp(parameters: Parameters, x: Value, act: str, *, bias: bool = False) -> Value:
    """down(act(gate(x)) * up(x)) with projections of size `mlp`."""
    gate = parameters.linear(x, "mlp.gate_proj", MLP, bias=bias)
    up = parameters.linear(x, "mlp.up_proj", MLP, bias=bias)
    hidden = parameters.tracer.gated_activation(gate, up, act=act)
    return parameters.linear(hidden, "mlp.down_proj", x.shape[-1], bias=bias)


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    """A sparse block.

    Attributes:
        block: prefix of the block in the published layout, e.g. "block_sparse_moe".
        gate, up, down: names of an expert's projections in that layout.
        normalize: the k chosen weights are divided by their sum.
    """

    num_experts: int
    experts_per_token: int
    act: str
    normalize: bool
    block: str = "mlp"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


def expert_counts(config: ConfigReader, name: str, default: int, *, per_token: int, num_layers: int) -> tuple[int, int]:
    """(experts of a layer, experts a token goes through) of a config; arguments are the family's defaults.

    Raises ModelError for more of either than there can be.
    """
    num_experts = config.integer(name, default, high=MOST_EXPERTS)
    if num_experts * num_layers > MOST_EXPERTS_OF_ALL_LAYERS:
        raise config.refusal(
            name,
            f"that makes {num_experts * num_layers} in {num_layers} layers, at most "
            f"{MOST_EXPERTS_OF_ALL_LAYERS} are read",
            num_experts,
        )
    return num_experts, config.integer("num_experts_per_tok", per_token, high=num_experts)


def sparse_mlp(parameters: Parameters, x: Value, spec: ExpertsSpec) -> Value:
    """Each token through its k best experts of E; routing weights are the softmax over all E."""
    t, hidden_size = parameters.tracer, x.shape[-1]
    routers = tuple(
        parameters.source(f"{block}.gate.weight", (EXPERTS, hidden_size))
        for block in dict.fromkeys((spec.block, "mlp"))
    )
    router = parameters.from_source(
        "mlp.gate.weight", (EXPERTS, hidden_size), routers[0] if len(routers) == 1 else OneOf(routers)
    )
    logits = t.linear(x, router, out_dtype="f32")
    ids, weights = t.route_experts(logits, k=spec.experts_per_token, normalize=spec.normalize)
    w13 = parameters.from_source(
        "mlp.experts.gate_up_proj", (EP, EXPERT_MLP * 2, hidden_size), _gate_up_source(parameters, spec, hidden_size)
    )
    w2 = parameters.from_source(
        "mlp.experts.down_proj", (EP, hidden_size, EXPERT_MLP), _down_source(parameters, spec, hidden_size)
    )
    return t.experts(x, ids, weights, w13, w2, act=spec.act)


def _gate_up_source(parameters: Parameters, spec: ExpertsSpec, hidden_size: Dim) -> Source:
    """One matrix per expert and projection, or all experts' gate and up rows in one tensor [E, 2F, D]."""
    apart = Stack(
        tuple(
            Cat(
                tuple(
                    parameters.source(f"{spec.block}.experts.{expert}.{name}.weight", (EXPERT_MLP, hidden_size))
                    for name in (spec.gate, spec.up)
                )
            )
            for expert in range(spec.num_experts)
        ),
        "ep",
    )
    stored = ("reshape", shape_of(EP, EXPERT_MLP * 2, hidden_size))
    halves = ((0, EXPERT_MLP), (EXPERT_MLP, EXPERT_MLP * 2))
    fused = Cat(
        tuple(
            parameters.source("mlp.experts.gate_up_proj", (EP, EXPERT_MLP, hidden_size), (stored, ("slice", 1, *half)))
            for half in halves
        ),
        axis=1,
    )
    return OneOf((apart, fused))


def _down_source(parameters: Parameters, spec: ExpertsSpec, hidden_size: Dim) -> Source:
    apart = Stack(
        tuple(
            parameters.source(f"{spec.block}.experts.{expert}.{spec.down}.weight", (hidden_size, EXPERT_MLP))
            for expert in range(spec.num_experts)
        ),
        "ep",
    )
    return OneOf((apart, parameters.source("mlp.experts.down_proj", (EP, hidden_size, EXPERT_MLP))))
