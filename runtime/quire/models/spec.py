"""From a checkpoint's folder to a `ModelSpec`: which family, what it computes, what the engine must know of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire.errors import ModelError
from quire.graph.ir import ModelGraph
from quire.models.architectures import ARCHITECTURES
from quire.models.config_reader import ConfigReader
from quire.models.family import BuiltModel, Family
from quire.weights.gguf import gguf_config, is_gguf, open_gguf
from quire.weights.quantized_formats import opener_of

CHECKPOINT_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSpec:
    """A model as its config.json describes it.

    Attributes:
        model_type, architecture: the family, in the config's words.
        graph: uncut, before any pass.
        max_model_len: longest sequence its positions cover.
        checkpoint_dtype: "float32", "bfloat16" or "float16": what the config says its weights are.
        eos_token_ids: tokens that end generation, from generation_config.json and config.json.
        ignorable_tensors: fnmatch patterns of checkpoint tensors that carry nothing the graph needs.
        notes: what of the checkpoint is left out, for the log; empty when nothing is.
        quantization_config: config.json's, of a checkpoint whose matrices are stored as integers; None = they are not.
            Of a GGUF file quant_method "gguf", whatever it stores.
    """

    model_type: str
    architecture: str
    graph: ModelGraph
    vocab_size: int
    hidden_size: int
    num_layers: int
    max_model_len: int
    checkpoint_dtype: str
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    pad_token_id: int | None
    ignorable_tensors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    quantization_config: Mapping[str, Any] | None = None


def build_model(folder: Path) -> ModelSpec:
    """The model in a checkpoint's folder, from its config.json and, where present, generation_config.json.

    Of a GGUF file from its metadata.

    Raises ModelError when the config is missing or asks for anything that is not implemented.
    """
    if is_gguf(Path(folder)):
        found = gguf_config(open_gguf(Path(folder)))
        spec = build_model_from_config(found.config, found.generation, where=str(folder))
        return replace(spec, notes=(*spec.notes, *found.notes), quantization_config={"quant_method": "gguf"})
    config = _read_json(Path(folder) / "config.json")
    generation_file = Path(folder) / "generation_config.json"
    return build_model_from_config(config, _read_json(generation_file) if generation_file.exists() else {})


def build_model_from_config(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None, *, where: str = "config.json"
) -> ModelSpec:
    """The model that a parsed config.json, called `where` in errors, describes. Raises ModelError as `build_model`."""
    reader = ConfigReader(config, where)
    architecture, family = _family_of(reader)
    built = family.build(reader)
    quantization_config = _quantization_config(reader)
    reader.finish()
    graph = built.graph
    return ModelSpec(
        model_type=reader.text("model_type", family.model_types[0]),
        architecture=architecture,
        graph=graph,
        vocab_size=graph.axes["vocab"].size,
        hidden_size=graph.embed.graph.values[graph.embed.graph.outputs[0][1]].shape[-1].evaluate({}),
        num_layers=len(graph.layers),
        max_model_len=built.max_model_len,
        checkpoint_dtype=_checkpoint_dtype(reader),
        eos_token_ids=_eos_token_ids(generation_config or {}, config, _text_config(config)),
        bos_token_id=_token_id("bos_token_id", config),
        pad_token_id=_token_id("pad_token_id", config),
        ignorable_tensors=_ignorable_tensors(family, built, graph),
        notes=built.notes,
        quantization_config=quantization_config,
    )


def _quantization_config(reader: ConfigReader) -> Mapping[str, Any] | None:
    """Of a format that can be read; ModelError for any other."""
    config = reader.raw("quantization_config")
    if config is None:
        return None
    if not isinstance(config, Mapping):
        raise reader.refusal("quantization_config", "an object is expected there")
    opener_of(config)
    return config


def _family_of(reader: ConfigReader) -> tuple[str, Family]:
    names = reader.raw("architectures")
    model_type = reader.text("model_type", "")
    if not names:
        names = [name for name, family in ARCHITECTURES.items() if model_type in family.model_types][:1]
    if not isinstance(names, list) or not names or names[0] not in ARCHITECTURES:
        raise ModelError(
            f"{reader.where}: architecture {names or model_type or 'none'!r} not supported",
            because=f"supported architectures are {', '.join(sorted(ARCHITECTURES))}",
        )
    family = ARCHITECTURES[names[0]]
    if model_type and model_type not in family.model_types:
        raise ModelError(f"{reader.where}: architecture {names[0]} with model_type {model_type!r}",
                         because=f"its model_type is {' or '.join(family.model_types)}")
    return names[0], family


def _ignorable_tensors(family: Family, built: BuiltModel, graph: ModelGraph) -> tuple[str, ...]:
    embed, head = graph.embed.graph.weights, graph.heads["logits"].graph.weights["lm_head.weight"]
    tied = any(weight.source == head.source for weight in embed.values())
    patterns = ("*rotary_emb.inv_freq", *family.ignorable_tensors, *built.ignorable_tensors)
    return (*patterns, "lm_head.weight") if tied else patterns


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else {}


def _checkpoint_dtype(reader: ConfigReader) -> str:
    text_config = _text_config(reader.values)
    value = (reader.raw("dtype") or reader.raw("torch_dtype") or text_config.get("dtype")
             or text_config.get("torch_dtype") or "float32")
    name = str(value).removeprefix("torch.")
    if name not in CHECKPOINT_DTYPES:
        raise ModelError(f"{reader.where}: dtype {name!r} not supported",
                         because=f"weights may be {', '.join(CHECKPOINT_DTYPES)}")
    return name


def _eos_token_ids(*configs: Mapping[str, Any]) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for config in configs:
        value = config.get("eos_token_id")
        for token_id in value if isinstance(value, list) else [value]:
            if isinstance(token_id, int):
                found[token_id] = None
    return tuple(found)


def _token_id(name: str, config: Mapping[str, Any]) -> int | None:
    value = config.get(name, _text_config(config).get(name))
    return value if isinstance(value, int) and value >= 0 else None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", because="a checkpoint's folder describes its model in config.json",
                         try_="the folder that holds config.json and the .safetensors files") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read", because=str(error)) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} is not a JSON object", because=f"it holds a {type(value).__name__}")
    return value
