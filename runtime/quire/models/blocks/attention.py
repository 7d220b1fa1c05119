"""Self-attention over the paged cache.

Shapes here: T tokens, D hidden size, heads and kv_heads the symbols of the two head axes, d head_dim, e width of v.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quire.errors import ModelError
from quire.graph.ir import Value
from quire.graph.rope import RopeSpec
from quire.graph.shapes import Dim, T
from quire.models.blocks.layer_parameters import LayerParameters, Mixer, by_layer
from quire.models.blocks.norm import RmsNorm
from quire.models.config.reader import LONGEST_HEAD, ConfigReader
from quire.models.config.rope import read_rope


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """How many heads, and how wide.

    Attributes:
        head_dim: width of q and k. v_head_dim: width of v, 0 = the same.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int = 0

    @property
    def value_width(self) -> int:
        return self.v_head_dim or self.head_dim


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Attention of one layer: project, norm heads where asked, rotate, attend, project back.

    Attributes:
        rope: table of q and k, None = no positions.
        scale: factor on q.k before softcap and softmax; 0 = head_dim**-0.5.
        window: tokens that a query sees, 0 = all.
        softcap: of the scores, 0 = none.
        qkv_bias, output_bias: biases of the projections.
        head_norm: norm of each head of q and k before rotary, or None.
    """

    sizes: HeadSizes
    rope: RopeSpec | None
    scale: float = 0.0
    window: int = 0
    softcap: float = 0.0
    qkv_bias: bool = False
    output_bias: bool = False
    head_norm: RmsNorm | None = None

    def __call__(self, parameters: LayerParameters, x: Value) -> Value:
        """x [T, D] -> [T, D], with projections stored apart."""
        return self.project_back(parameters, self.attend(parameters, self.project(parameters, x)))

    def with_windows(self, windows: Sequence[int]) -> Mixer:
        """This attention, of which layer `i` sees `windows[i]` tokens, 0 = all."""
        return by_layer([replace(self, window=window) for window in windows])

    def axes(self, parameters: LayerParameters) -> tuple[Dim, Dim]:
        """The symbols of the axes heads and kv_heads."""
        heads = parameters.axis("heads", self.sizes.num_heads)
        return heads, parameters.axis("kv_heads", self.sizes.num_kv_heads, "replicate_if_fewer")

    def rows(self, parameters: LayerParameters) -> dict[str, Dim]:
        """ "q", "k", "v" -> rows of its projection."""
        return {name: axis * width for name, (axis, width) in self._shapes(parameters).items()}

    def project(self, parameters: LayerParameters, x: Value) -> tuple[Value, Value, Value]:
        """q [T, heads*d], k [T, kv_heads*d] and v [T, kv_heads*e]."""
        q, k, v = (
            parameters.linear(x, f"self_attn.{name}_proj", rows, bias=self.qkv_bias)
            for name, rows in self.rows(parameters).items()
        )
        return q, k, v

    def attend(self, parameters: LayerParameters, qkv: tuple[Value, Value, Value]) -> Value:
        """Attention over the layer's own cache, after k and v are written to it: [T, heads*e]."""
        t = parameters.tracer
        q, k, v = (
            t.reshape(value, shape=(T, axis, Dim.of(width)))
            for value, (axis, width) in zip(qkv, self._shapes(parameters).values(), strict=True)
        )
        if self.head_norm is not None:
            q = self.head_norm(parameters, q, "self_attn.q_norm")
            k = self.head_norm(parameters, k, "self_attn.k_norm")
        if self.rope is not None:
            q = t.rotary(q, parameters.positions, table=self.rope)
            k = t.rotary(k, parameters.positions, table=self.rope)
        cache = parameters.kv_cache(window=self.window, arrays={"k": k.shape[1:], "v": v.shape[1:]})
        written = t.cache_write(parameters.bind(cache), k, v)
        t.output(cache.name, written)
        return self.read(parameters, q, written)

    def read(self, parameters: LayerParameters, q: Value, cache: Value) -> Value:
        """Attention of q [T, heads, d] over what a cache holds: [T, heads*e]."""
        t, width = parameters.tracer, self.sizes.value_width
        out = t.paged_attention(
            q,
            cache,
            scale=self.scale or self.sizes.head_dim**-0.5,
            window=self.window,
            softcap=self.softcap,
            v_head_dim=0 if width == self.sizes.head_dim else width,
        )
        return t.reshape(out, shape=(T, q.shape[1] * width))

    def project_back(self, parameters: LayerParameters, attended: Value) -> Value:
        """[T, heads*e] -> [T, D]."""
        return parameters.linear(attended, "self_attn.o_proj", parameters.hidden_size, bias=self.output_bias)

    def _shapes(self, parameters: LayerParameters) -> dict[str, tuple[Dim, int]]:
        """Of q, k and v: the heads' axis and their width."""
        heads, kv_heads = self.axes(parameters)
        width = self.sizes.head_dim
        return {"q": (heads, width), "k": (kv_heads, width), "v": (kv_heads, self.sizes.value_width)}


def read_attention(
    config: ConfigReader,
    *,
    scale: float = 0.0,
    window: int = 0,
    softcap: float = 0.0,
    qkv_bias: bool = False,
    output_bias: bool = False,
    head_norm: RmsNorm | None = None,
) -> SelfAttention:
    """Attention with sizes and rotary table in a config's usual words; the arguments are `SelfAttention`'s."""
    sizes = head_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    return SelfAttention(sizes, rope, scale, window, softcap, qkv_bias, output_bias, head_norm)


def head_sizes(config: ConfigReader) -> HeadSizes:
    """Sizes of heads in the usual words: grouped keys, a head_dim of its own where the config has one."""
    num_heads = config.integer("num_attention_heads")
    num_kv_heads = config.integer("num_key_value_heads", num_heads)
    head_dim = config.integer("head_dim", config.integer("hidden_size") // num_heads, high=LONGEST_HEAD)
    if num_heads % num_kv_heads:
        raise ModelError(
            f"{config.where}: {num_heads} attention heads over {num_kv_heads} key-value heads",
            because="the first must be a multiple of the second",
        )
    return HeadSizes(num_heads, num_kv_heads, head_dim)


def equal_head_sizes(config: ConfigReader) -> HeadSizes:
    """Sizes of heads that share hidden_size among them, each with keys of its own."""
    hidden_size, num_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if hidden_size % num_heads:
        raise config.refusal("num_attention_heads", f"it must divide {config.word('hidden_size')}={hidden_size}")
    head_dim = hidden_size // num_heads
    if head_dim > LONGEST_HEAD:
        raise config.refusal("num_attention_heads", f"heads of {head_dim} dimensions; at most {LONGEST_HEAD} are read")
    return HeadSizes(num_heads, num_heads, head_dim)
