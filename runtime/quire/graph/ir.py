"""The graph of a model: values, nodes, weights and the parts they make up.

A model is `ModelGraph(embed, layers, heads)`. Every part is a `Graph` with *named* inputs and outputs;
an executor keeps an environment of boundary values by name (`token_ids`, `positions`, `hidden`, ...)
and runs embed, each layer in order, then the heads it needs. A cache is a value too: `cache_write`
takes it and returns it, `paged_attention` reads it, so order needs no effect system.

Everything here is frozen, hashable where it is compared, and knows no device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from quire.graph.shapes import Dim, Shape

ValueDtype = Literal["act", "f32", "i32", "bool", "cache"]
CacheKind = Literal["full", "sliding", "latent", "state", "cross"]
AxisPolicy = Literal["split", "replicate_if_fewer", "pad", "whole"]


@dataclass(frozen=True, slots=True)
class Value:
    """One array of a graph. `id` is dense per graph; `act` is the activation dtype of the run."""

    id: int
    shape: Shape
    dtype: ValueDtype


Attrs = tuple[tuple[str, Any], ...]  # sorted by name; int, float, bool, str, Dim, tuple, None or RopeSpec


@dataclass(frozen=True, slots=True)
class Node:
    """One use of an op. `inputs` and `outputs` are value ids, `weights` local names; -1 / "" = absent optional."""

    op: str
    inputs: tuple[int, ...]
    weights: tuple[str, ...]
    outputs: tuple[int, ...]
    attrs: Attrs = ()

    def attr(self, name: str, *default: Any) -> Any:
        """The attribute's value. Of a feature, which a node has only where it is used, give the default as well.

        Raises: KeyError when the node has none of that name and no default is given.
        """
        for key, value in self.attrs:
            if key == name:
                return value
        if default:
            return default[0]
        raise KeyError(f"{self.op} has no attribute {name}")


# ---- weights: where an array comes from, as an expression over checkpoint tensors -------------------


@dataclass(frozen=True, slots=True)
class Src:
    """A tensor of the checkpoint, after `view`.

    Attributes:
        name: full tensor name in the checkpoint.
        shape: shape after `view`, in Dims; the axis symbols in it are what tensor parallelism cuts.
        view: steps applied to the stored tensor, each a tuple:
            ("transpose", perm) | ("reshape", shape) | ("index", axis, i) | ("slice", axis, start, stop);
            sizes are Dims or ints, evaluated with the *uncut* axes. () = stored as is.
            A reshape that keeps the number of dimensions states the stored shape, which is then checked.
    """

    name: str
    shape: Shape
    view: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Cat:
    """Parts joined along `axis`; every part is cut by its own shape first, then joined."""

    parts: tuple[Source, ...]
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Stack:
    """Parts stacked on a new leading axis named `symbol` (experts: cut by taking a range of parts)."""

    parts: tuple[Source, ...]
    symbol: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """The first option whose tensors are all in the checkpoint (old and new layouts of one weight)."""

    options: tuple[Source, ...]


Source = Src | Cat | Stack | OneOf


def source_tensors(source: Source) -> Iterator[Src]:
    """Every checkpoint tensor a source may read, in order."""
    if isinstance(source, Src):
        yield source
        return
    for child in source.options if isinstance(source, OneOf) else source.parts:
        yield from source_tensors(child)


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter. `name` is local to its part; identity across parts is `source` (tied weights load once).

    Attributes:
        shape: shape in Dims; for linears [out, in].
        scheme: "plain" or a quantization scheme's name; it picks the kernel.
        keep_f32: computed and stored in float32 whatever the run's dtype (router biases and the like).
    """

    name: str
    shape: Shape
    source: Source
    scheme: str = "plain"
    keep_f32: bool = False


# ---- parts and the model ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheRef:
    """Which cache a part's cache input is bound to: layer slot `slot` of KV group `group`."""

    group: str
    slot: int


@dataclass(frozen=True, slots=True)
class Graph:
    """A straight list of nodes in execution order with named inputs and outputs.

    Attributes:
        values: all values, `values[i].id == i`.
        inputs, outputs: (name, value id) pairs. Caches appear in both under one name.
        nodes: topologically ordered; order is execution order.
        weights: local name -> Weight.
    """

    values: tuple[Value, ...]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight] = field(hash=False)

    def signature(self) -> tuple[Any, ...]:
        """What makes two layers the same computation: structure, shapes, schemes; not names in the checkpoint."""
        weights = tuple((w.name, w.shape, w.scheme, w.keep_f32) for w in self.weights.values())
        return (self.values, self.inputs, self.outputs, self.nodes, weights)


@dataclass(frozen=True, slots=True)
class Part:
    """A graph bound to its place: `prefix` for reports, `caches` binds local cache names to group and slot."""

    graph: Graph
    prefix: str
    caches: Mapping[str, CacheRef] = field(default_factory=dict, hash=False)

    def signature(self) -> tuple[Any, ...]:
        """Graph signature plus the KV groups it touches (slots differ between equal layers)."""
        return (self.graph.signature(), tuple(sorted((name, ref.group) for name, ref in self.caches.items())))


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis: its size and what cutting it means.

    split: size must be divisible; replicate_if_fewer: ranks share when there are fewer than ranks (KV heads);
    pad: the last rank is padded with zeros (vocabulary); whole: never cut (what a router chooses among).

    Attributes:
        size: on this rank.
        full: before `quire.graph.shard` cut it; None = not cut.
    """

    size: int
    policy: AxisPolicy = "split"
    full: int | None = None

    @property
    def full_size(self) -> int:
        """Size over all ranks, which is what checkpoint tensors have."""
        return self.size if self.full is None else self.full


@dataclass(frozen=True, slots=True)
class CacheArray:
    """One array of a cache kind: its shape per token (or per sequence for `state`) and dtype ("kv" or "f32")."""

    name: str
    shape: Shape
    dtype: Literal["kv", "f32"] = "kv"


@dataclass(frozen=True, slots=True)
class KVGroupSpec:
    """Layers that share one cache kind and one block table.

    full: every token, for later ones to read. sliding: the same inside a window. latent: as full, what is stored is
    compressed. state: one slot for a sequence, whatever its length, read before a step and written after it. cross:
    an encoder's tokens, written once.

    Attributes:
        window: tokens seen by a sliding layer, else 0.
        arrays: what is stored per token and layer, e.g. k and v of [kv_heads, head_dim]; per sequence for `state`.
        layers: number of layer slots.
        pool: groups with equal page bytes may name one pool and share its block ids. A state group's slots are the
            blocks of its pool.
        checkpoint_every: blocks of tokens after which a state is kept for the prefix cache, 0 = never.
    """

    kind: CacheKind
    window: int
    arrays: tuple[CacheArray, ...]
    layers: int
    pool: str
    checkpoint_every: int = 0


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """A whole model for one rank.

    Attributes:
        embed: token_ids (and positions) -> hidden.
        layers: each hidden -> hidden (after `rotate`: residual, normed -> residual, normed).
        heads: "logits" and others; the logits head takes hidden and logits_indices [L], gives logits f32 [L, vocab].
        axes: size and policy of each named axis.
        kv_groups: by group name.
    """

    embed: Part
    layers: tuple[Part, ...]
    heads: Mapping[str, Part] = field(hash=False)
    axes: Mapping[str, Axis] = field(hash=False)
    kv_groups: Mapping[str, KVGroupSpec] = field(hash=False)

    def parts(self) -> tuple[Part, ...]:
        """embed, layers, heads in execution order."""
        return (self.embed, *self.layers, *self.heads.values())

    def axis_sizes(self) -> dict[str, int]:
        """Axis name -> size, for evaluating Dims."""
        return {name: axis.size for name, axis in self.axes.items()}


def dims_text(shape: Shape | tuple[Dim, ...]) -> str:
    """A shape for people: `[T, heads*64]`."""
    return f"[{', '.join(str(dim) for dim in shape)}]"
