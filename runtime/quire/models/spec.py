"""From a checkpoint's folder to a `ModelSpec`: which family, what it computes, what the engine must know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire.errors import ModelError
from quire.files import end_tokens, file_of, read_json_object, reading
from quire.graph.ir import ModelGraph
from quire.models.built_model import BuiltModel
from quire.models.config.reader import MOST, ConfigReader
from quire.models.registry import ARCHITECTURES, Family
from quire.models.stored_head import HEAD_NAMES, tied_embedding
from quire.weights.formats.gguf import gguf_config, is_gguf, open_gguf
from quire.weights.formats.quantized.registry import opener_of

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


def build_model(folder: Path, *, tied: bool | None = None) -> ModelSpec:
    """The model in a checkpoint's folder, from its config.json and, where present, generation_config.json.

    Of a GGUF file from its metadata.

    Args:
        tied: whether the head is the embedding, whatever config.json says; None = as it says.
    Raises ModelError when the config is missing or asks for anything that is not implemented.
    """
    config, generation, notes, where = _read_configs(Path(folder))
    if tied is not None:
        config = {**config, "tie_word_embeddings": tied}
    spec = build_model_from_config(config, generation, where=where)
    if not is_gguf(Path(folder)):
        return spec
    return replace(spec, notes=(*spec.notes, *notes), quantization_config={"quant_method": "gguf"})


def check_architecture(folder: Path) -> None:
    """Raises ModelError where there is no config that can be read, or its architecture is not supported.

    Little is read and nothing built: so that a front end says this before it looks at the tokenizer.
    """
    config, _, _, where = _read_configs(Path(folder))
    with reading(where):
        _family_of(ConfigReader(config, where))


def _read_configs(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any], tuple[str, ...], str]:
    """(config, generation config, notes for the log, what errors call the config)."""
    with reading(folder):
        if is_gguf(folder):
            found = gguf_config(open_gguf(folder))
            return found.config, found.generation, found.notes, str(folder)
        file = file_of(folder, "config.json")
        if not (file.exists() or file.is_symlink()):
            raise ModelError(
                f"{file} is missing",
                because="a checkpoint's folder describes its model in config.json",
                hint="the folder that holds config.json and the .safetensors files",
            )
        return read_json_object(file), read_json_object(file_of(folder, "generation_config.json")), (), str(file)


def build_model_from_config(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None, *, where: str = "config.json"
) -> ModelSpec:
    """The model that a parsed config.json, called `where` in errors, describes. Raises ModelError as `build_model`."""
    reader = ConfigReader(config, where)
    with reading(lambda: f"{where}, at or after {reader.last_read!r}"):
        return _build(reader, generation_config or {})


def _build(reader: ConfigReader, generation_config: Mapping[str, Any]) -> ModelSpec:
    architecture, family = _family_of(reader)
    built = family.build(reader)
    quantization_config = _quantization_config(reader)
    unknown = reader.finish()
    graph = built.graph
    vocab_size = graph.axes["vocab"].size
    eos_token_ids, outside = _eos_token_ids(reader.where, vocab_size, generation_config, reader.values)
    return ModelSpec(
        model_type=reader.text("model_type", family.model_types[0]),
        architecture=architecture,
        graph=graph,
        vocab_size=vocab_size,
        hidden_size=graph.embed.graph.values[graph.embed.graph.outputs[0][1]].shape[-1].evaluate({}),
        num_layers=len(graph.layers),
        max_model_len=built.max_model_len,
        checkpoint_dtype=_checkpoint_dtype(reader),
        eos_token_ids=eos_token_ids,
        bos_token_id=_token_id("bos_token_id", reader.values),
        pad_token_id=_token_id("pad_token_id", reader.values),
        ignorable_tensors=_ignorable_tensors(family, built, graph),
        notes=(*built.notes, *unknown, *outside),
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
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelError(
            f"{reader.where}: architecture {names or model_type or 'none'!r:.200} not supported",
            because=f"supported architectures are {', '.join(sorted(ARCHITECTURES))}",
        )
    family = ARCHITECTURES[name]
    if model_type and model_type not in family.model_types:
        raise ModelError(
            f"{reader.where}: architecture {name} with model_type {model_type!r:.200}",
            because=f"its model_type is {' or '.join(family.model_types)}",
        )
    return name, family


def _ignorable_tensors(family: Family, built: BuiltModel, graph: ModelGraph) -> tuple[str, ...]:
    patterns = ("*rotary_emb.inv_freq", *family.ignorable_tensors, *built.ignorable_tensors)
    return (*patterns, *HEAD_NAMES) if tied_embedding(graph) else patterns


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else {}


def _checkpoint_dtype(reader: ConfigReader) -> str:
    text_config = _text_config(reader.values)
    value = (
        reader.raw("dtype")
        or reader.raw("torch_dtype")
        or text_config.get("dtype")
        or text_config.get("torch_dtype")
        or "float32"
    )
    name = str(value)[:100].removeprefix("torch.")
    if name not in CHECKPOINT_DTYPES:
        raise ModelError(
            f"{reader.where}: dtype {name!r} not supported", because=f"weights may be {', '.join(CHECKPOINT_DTYPES)}"
        )
    return name


def _eos_token_ids(
    where: str, vocab_size: int, generation_config: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(ids that end generation, notes about those that cannot). Texts are left to who has the tokenizer."""
    found = [
        token
        for source in (generation_config, config, _text_config(config))
        for token in end_tokens(source.get("eos_token_id"), where)
        if isinstance(token, int)
    ]
    outside = dict.fromkeys(token for token in found if token >= vocab_size)
    notes = (
        (
            f"{where}: eos_token_id {', '.join(map(str, outside)):.200} ends no text: the vocabulary has {vocab_size} "
            "tokens",
        )
        if outside
        else ()
    )
    return tuple(dict.fromkeys(token for token in found if token < vocab_size)), notes


def _token_id(name: str, config: Mapping[str, Any]) -> int | None:
    value = config.get(name, _text_config(config).get(name))
    return value if isinstance(value, int) and 0 <= value <= MOST else None
