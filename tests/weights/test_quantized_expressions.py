"""Checkpoints that hold integers: what is read, joined, viewed and cut as integers equals the dequantized array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.errors import ConfigError, ModelError
from quire.graph.ir import Axis, Cat, ModelGraph, OneOf, Src, Stack, Weight
from quire.graph.shapes import Dim, shape_of
from quire.graph.shard import shard
from quire.models import build_model_from_config
from quire.weights import CheckpointWeights
from quire.weights.checkpoint_tensors import CheckpointTensors
from quire.weights.expressions import RankCut, resolve
from quire.weights.quantized_expressions import resolve_quantized, stored_scheme
from quire.weights.schemes import PLAIN, QuantizedMatrix, WeightScheme, dequantize, quantize
from tests.weights.test_checkpoint import SHAPE

HEADS = Dim.of("heads")
AXES = {"heads": Axis(4, "split"), "vocab": Axis(10, "pad"), "ep": Axis(3, "split")}


@dataclass
class Files:
    """A `CheckpointFiles` in memory; a quantized matrix where `matrices` has the name."""

    plain: dict[str, np.ndarray] = field(default_factory=dict)
    matrices: dict[str, QuantizedMatrix] = field(default_factory=dict)

    @property
    def names(self) -> Iterable[str]:
        return (*self.plain, *self.matrices)

    @property
    def dequantized(self) -> Mapping[str, str]:
        return {}

    @property
    def paths(self) -> tuple[Path, ...]:
        return ()

    def __contains__(self, name: object) -> bool:
        return name in self.plain or name in self.matrices

    def shape(self, name: str) -> tuple[int, ...]:
        return self.plain[name].shape if name in self.plain else self.matrices[name].shape

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.plain[name].dtype if name in self.plain else np.dtype(np.float32)

    def tensor(self, name: str) -> np.ndarray:
        return self.plain[name] if name in self.plain else dequantize(self.matrices[name])

    def scheme(self, name: str) -> str:
        return PLAIN if name in self.plain else self.matrices[name].scheme.name

    def quantized(self, name: str) -> QuantizedMatrix:
        return self.matrices[name]


def random_matrix(rows: int, inputs: int, scheme: str, seed: int = 0) -> QuantizedMatrix:
    weights = np.random.default_rng([seed, rows, inputs]).standard_normal((rows, inputs)).astype(np.float32)
    return quantize(weights, WeightScheme.parse(scheme))


def files_of(*names: str, rows: int = 24, inputs: int = 64, scheme: str = "int4_g32_zp") -> Files:
    return Files({}, {name: random_matrix(rows, inputs, scheme, seed) for seed, name in enumerate(names)})


def src(name: str, *shape: int | str | Dim, view: tuple[tuple[Any, ...], ...] = ()) -> Src:
    return Src(name, shape_of(*shape), view)


SOURCES = {
    "as stored": src("a", 24, 64),
    "slice of rows": src("a", 6, 64, view=(("slice", 0, 3, 9),)),
    "interleaved heads": src(
        "a",
        HEADS * 2,
        64,
        view=(("reshape", shape_of(HEADS, 3, 2, 64)), ("index", 1, 2), ("reshape", shape_of(HEADS * 2, 64))),
    ),
    "transposed heads": src(
        "a", 24, 64, view=(("reshape", shape_of(3, 8, 64)), ("transpose", (1, 0, 2)), ("reshape", shape_of(24, 64)))
    ),
    "joined": Cat((src("a", 24, 64), src("b", 24, 64))),
    "the option that is there": OneOf((src("absent", 24, 64), Cat((src("b", 24, 64), src("a", 24, 64))))),
    "cut rows": src("a", HEADS * 6, 64),
    "cut inputs": src("a", 24, HEADS * 16),
    "joined cuts": Cat((src("a", HEADS * 6, 64), src("b", HEADS * 6, 64))),
}


@pytest.mark.parametrize("scheme", ["int8", "int8_g32", "int4_g32", "int4_g32_zp"])
@pytest.mark.parametrize("case", SOURCES)
@pytest.mark.parametrize("rank", [None, 0, 1])
def test_integers_are_the_dequantized_array(case: str, scheme: str, rank: int | None) -> None:
    axes = AXES if rank is None else {**AXES, "heads": Axis(2, "split", 4)}
    cut = RankCut(axes, rank or 0, 1 if rank is None else 2)
    tensors = CheckpointTensors(files_of("a", "b", scheme=scheme), cut.full_sizes)
    source = SOURCES[case]
    assert stored_scheme(source, tensors) == scheme
    np.testing.assert_array_equal(dequantize(resolve_quantized(source, tensors, cut)), resolve(source, tensors, cut))


def test_rows_that_pad_a_vocabulary_are_zero() -> None:
    axes = {"vocab": Axis(6, "pad", 10)}
    cut = RankCut(axes, 1, 2)
    tensors = CheckpointTensors(files_of("a", rows=10), cut.full_sizes)
    found = dequantize(resolve_quantized(src("a", "vocab", 64), tensors, cut))
    np.testing.assert_array_equal(found, resolve(src("a", "vocab", 64), tensors, cut))
    assert not found[4:].any()


def test_experts_lie_one_below_the_other() -> None:
    names = [f"{kind}{e}" for e in range(3) for kind in ("gate", "up")]
    stack = Stack(tuple(Cat((src(f"gate{e}", 24, 64), src(f"up{e}", 24, 64))) for e in range(3)), "ep")
    cut = RankCut(AXES)
    tensors = CheckpointTensors(files_of(*names), cut.full_sizes)
    found = resolve_quantized(stack, tensors, cut)
    assert found.shape == (3 * 48, 64)
    np.testing.assert_array_equal(dequantize(found).reshape(3, 48, 64), resolve(stack, tensors, cut))


def test_inputs_are_cut_between_groups_only() -> None:
    cut = RankCut({"heads": Axis(1, "split", 4)}, 1, 4)
    tensors = CheckpointTensors(files_of("a"), cut.full_sizes)
    with pytest.raises(ConfigError, match=r"a in int4_g32_zp cannot be cut into 4 parts\n.*group"):
        resolve_quantized(src("a", 24, HEADS * 16), tensors, cut)


@pytest.mark.parametrize(
    "source",
    [
        src("a", 64, 24, view=(("transpose", (1, 0)),)),
        src("a", 24, 32, view=(("slice", 1, 0, 32),)),
        Cat((src("a", 24, 64), src("other", 24, 64))),
        Cat((src("a", 24, 64), src("float", 24, 64))),
        Cat((src("a", 24, 64), src("b", 24, 64)), axis=1),
        src("float", 24, 64),
    ],
    ids=["transposed", "sliced inputs", "two schemes", "one plain", "joined inputs", "plain"],
)
def test_what_does_not_join_is_plain_and_read_dequantized(source: Any) -> None:
    files = files_of("a", "b")
    files.matrices["other"] = random_matrix(24, 64, "int8")
    files.plain["float"] = np.ones((24, 64), np.float32)
    tensors = CheckpointTensors(files, {"heads": 4})
    assert stored_scheme(source, tensors) == PLAIN
    assert resolve(source, tensors, RankCut(AXES)).dtype == np.float32


# ---- the WeightSource -----------------------------------------------------------------------------------


@pytest.fixture
def model() -> ModelGraph:
    config = {**SHAPE, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}
    return build_model_from_config(config).graph


def quantized_files(model: ModelGraph, scheme: str) -> Files:
    files, rng = Files(), np.random.default_rng(7)
    sizes = model.axis_sizes()
    for part in model.parts():
        for weight in part.graph.weights.values():
            assert isinstance(weight.source, Src)
            shape = tuple(dim.evaluate(sizes) for dim in weight.source.shape)
            array = rng.standard_normal(shape).astype(np.float32)
            if len(shape) == 2 and "embed" not in weight.source.name:
                files.matrices[weight.source.name] = quantize(array, WeightScheme.parse(scheme))
            else:
                files.plain[weight.source.name] = array
    return files


def projection(model: ModelGraph, scheme: str = "int8") -> Weight:
    return replace(model.layers[0].graph.weights["self_attn.o_proj.weight"], scheme=scheme)


def test_a_checkpoint_gives_integers_or_says_that_there_are_none(model: ModelGraph) -> None:
    weights = CheckpointWeights(quantized_files(model, "int8"), model)
    matrix = weights.read_quantized(projection(model))
    assert matrix is not None
    assert matrix.scheme.name == "int8"
    np.testing.assert_array_equal(weights.read(projection(model)), dequantize(matrix))
    assert weights.read_quantized(model.embed.graph.weights["embed_tokens.weight"]) is None
    assert weights.stored_scheme(projection(model)) == "int8"
    with pytest.raises(ModelError, match=r"o_proj\.weight cannot be read as int4_g32\n.*stored as int8"):
        weights.read_quantized(projection(model, "int4_g32"))


def test_ranks_read_their_rows_and_dequantized_cuts(model: ModelGraph) -> None:
    files = quantized_files(model, "int8")
    cut = shard(model, 2)
    whole = CheckpointWeights(files, model)
    weight = replace(cut.layers[0].graph.weights["mlp.up_proj.weight"], scheme="int8")
    parts = [CheckpointWeights(files, cut, rank, 2) for rank in range(2)]
    matrices = [part.read_quantized(weight) for part in parts]
    np.testing.assert_array_equal(
        np.concatenate([dequantize(matrix) for matrix in matrices if matrix]),
        whole.read(model.layers[0].graph.weights["mlp.up_proj.weight"]),
    )
    np.testing.assert_array_equal(parts[1].read(weight), dequantize(matrices[1]))  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["int8", PLAIN])
def test_pieces_are_the_rows_of_the_weight(model: ModelGraph, scheme: str) -> None:
    files = quantized_files(model, "int8")
    weight = projection(model, scheme)
    merged = replace(weight, source=Cat((weight.source, weight.source)))
    pieces = list(CheckpointWeights(files, model).pieces(merged))
    assert len(pieces) == 2
    assert all(isinstance(piece, QuantizedMatrix) is (scheme != PLAIN) for piece in pieces)
    for piece in pieces:
        array = dequantize(piece) if isinstance(piece, QuantizedMatrix) else piece
        np.testing.assert_array_equal(array, CheckpointWeights(files, model).read(weight))


def test_a_source_gives_those_of_the_other_ranks(model: ModelGraph) -> None:
    files = quantized_files(model, "int8")
    cut = shard(model, 2)
    weight = cut.layers[0].graph.weights["mlp.up_proj.weight"]
    first, second = (CheckpointWeights(files, cut, rank, 2) for rank in range(2))
    assert first.for_rank(0) is first
    np.testing.assert_array_equal(first.for_rank(1).read(weight), second.read(weight))
    np.testing.assert_array_equal(second.for_rank(0).read(weight), first.read(weight))


def test_bytes_are_those_that_are_read(model: ModelGraph) -> None:
    files = quantized_files(model, "int8")
    marked = replace(
        model,
        layers=tuple(
            replace(
                layer,
                graph=replace(
                    layer.graph,
                    weights={
                        name: replace(weight, scheme="int8" if weight.source.name in files.matrices else PLAIN)  # type: ignore[union-attr]
                        for name, weight in layer.graph.weights.items()
                    },
                ),
            )
            for layer in model.layers
        ),
    )
    expected = sum(array.nbytes for array in files.plain.values())
    expected += sum(matrix.nbytes for matrix in files.matrices.values())
    assert CheckpointWeights(files, marked).total_bytes == expected
