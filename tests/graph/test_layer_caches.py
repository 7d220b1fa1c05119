"""Caches are declared where they are used: what layers of one model may do differently, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from quire.graph.ir import ModelGraph, Value
from quire.graph.passes.verify import verify
from quire.graph.rope import RopeSpec
from quire.graph.shapes import T, shape_of
from quire.models.blocks import (
    DecoderSpec,
    HeadSizes,
    LayerCache,
    LayerParameters,
    Mixer,
    RmsNorm,
    SelfAttention,
    build_decoder,
    by_layer,
)

ROPE = RopeSpec(10000.0, 8)
SMALL = SelfAttention(HeadSizes(4, 2, 8), ROPE)
WIDE = SelfAttention(HeadSizes(2, 1, 16), RopeSpec(10000.0, 16), window=5)


def model_of(*layers: Mixer) -> ModelGraph:
    spec = DecoderSpec(hidden_size=32, vocab_size=131, num_layers=len(layers), tied=True, final_norm=RmsNorm(1e-6))
    return build_decoder(spec, by_layer(layers))


def groups_of(model: ModelGraph) -> dict[str, tuple[str, int, int, str]]:
    verify(model)
    return {name: (group.kind, group.window, group.layers, group.pool) for name, group in model.kv_groups.items()}


def test_equal_declarations_are_one_group() -> None:
    sliding = replace(SMALL, window=9)
    assert groups_of(model_of(SMALL, SMALL)) == {"full": ("full", 0, 2, "kv")}
    assert groups_of(model_of(sliding, SMALL)) == {"sliding": ("sliding", 9, 1, "kv"), "full": ("full", 0, 1, "kv")}
    assert groups_of(model_of(sliding, SMALL, sliding)) == {
        "sliding": ("sliding", 9, 2, "sliding"),
        "full": ("full", 0, 1, "full"),
    }


def test_windows_and_heads_may_differ_from_layer_to_layer(logits: Callable[..., np.ndarray]) -> None:
    model = model_of(replace(SMALL, window=9), WIDE, SMALL, replace(SMALL, window=9))
    assert groups_of(model) == {
        "sliding": ("sliding", 9, 2, "sliding"),
        "sliding_2": ("sliding", 5, 1, "sliding_2"),
        "full": ("full", 0, 1, "full"),
    }
    sizes = model.axis_sizes()
    assert (sizes["heads"], sizes["heads_2"], sizes["kv_heads"], sizes["kv_heads_2"]) == (4, 2, 2, 1)
    assert np.isfinite(logits(model)).all()


def test_v_may_be_narrower_than_k(logits: Callable[..., np.ndarray]) -> None:
    model = model_of(replace(SMALL, sizes=HeadSizes(4, 2, 8, v_head_dim=6)))
    verify(model)
    widths = [array.shape[-1].evaluate({}) for array in model.kv_groups["full"].arrays]
    assert widths == [8, 6]
    assert np.isfinite(logits(model)).all()


def test_a_layer_may_have_no_cache(logits: Callable[..., np.ndarray]) -> None:
    def double(parameters: LayerParameters, x: Value) -> Value:
        return parameters.tracer.add(x, x)

    model = model_of(SMALL, double)
    assert groups_of(model) == {"full": ("full", 0, 1, "kv")}
    assert not model.layers[1].caches
    assert [name for name, _ in model.layers[1].graph.inputs] == ["hidden"]
    assert np.isfinite(logits(model)).all()


def test_a_layer_may_read_the_cache_of_another(logits: Callable[..., np.ndarray]) -> None:
    """The second layer asks the first one's question of the first one's cache, and gets the first one's answer."""
    kept: list[LayerCache] = []
    attention, heads = SelfAttention(HeadSizes(4, 4, 8), None), (T, 4, 8)

    def first(parameters: LayerParameters, x: Value) -> Value:
        t = parameters.tracer
        question = t.reshape(x, shape=shape_of(*heads))
        kept.append(parameters.kv_cache(window=0, arrays={"k": heads[1:], "v": heads[1:]}))
        written = t.cache_write(parameters.bind(kept[0]), question, question)
        t.output(kept[0].name, written)
        t.output("question", question)
        return attention.read(parameters, question, written)

    def second(parameters: LayerParameters, x: Value) -> Value:
        return attention.read(parameters, parameters.tracer.input("question", heads), parameters.bind(kept[0]))

    once = model_of(first)
    kept.clear()
    twice = model_of(first, second)
    assert groups_of(twice) == {"full": ("full", 0, 1, "kv")}
    assert twice.layers[1].caches == twice.layers[0].caches
    np.testing.assert_array_equal(logits(twice), logits(once))


def test_other_kinds_are_groups_and_pools_of_their_own() -> None:
    def hybrid(parameters: LayerParameters, x: Value) -> Value:
        out = SMALL(parameters, x)
        for cache in (
            parameters.state_cache(arrays={"conv": (16, 3), "ssm": (4, 8)}, checkpoint_every=4),
            parameters.latent_cache(arrays={"latent": (12,), "rope": (4,)}),
            parameters.cross_cache(arrays={"k": (2, 8), "v": (2, 8)}),
        ):
            parameters.bind(cache)
        return out

    model = model_of(hybrid, SMALL)
    assert groups_of(model) == {
        "full": ("full", 0, 2, "full"),
        "state": ("state", 0, 1, "state"),
        "latent": ("latent", 0, 1, "latent"),
        "cross": ("cross", 0, 1, "cross"),
    }
    assert {array.dtype for array in model.kv_groups["state"].arrays} == {"f32"}
    assert model.kv_groups["state"].checkpoint_every == 4
