"""Which weight gets which quantization scheme: what the user asks, what the checkpoint holds, what the device has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quire.device.capabilities import Capabilities
from quire.engine.config import ResolvedConfig
from quire.errors import BackendError, ConfigError
from quire.graph.cost import Dtypes
from quire.graph.ir import ModelGraph, Source, Weight
from quire.graph.passes.assign_schemes import Role, assign_schemes, matrices
from quire.graph.shapes import num_elements
from quire.models import ModelSpec
from quire.weights import CheckpointFiles
from quire.weights.quantized_formats import OPENERS
from quire.weights.quantized_source import StoredSchemes
from quire.weights.schemes import PLAIN, WeightScheme

ALIASES: Mapping[str, Mapping[Role, str]] = {
    "int8": {"linear": "int8", "experts": "int8", "head": "int8"},
    "int4": {"linear": "int4_g32", "experts": "int4_g32", "head": "int8"},
}
"""--quantization by what a matrix does; the name of a scheme means that scheme for all of them. Routers stay plain."""


@dataclass(frozen=True, slots=True)
class SchemeChoice:
    """What was decided.

    Attributes:
        model: the graph with schemes, before other passes.
        notes: what the user should know: matrices that are dequantized because the device has no kernel for them.
    """

    model: ModelGraph
    notes: tuple[str, ...] = ()


def choose_schemes(spec: ModelSpec, files: CheckpointFiles | None, asked: str | None, capabilities: Capabilities, *,
                   strict: bool = False) -> SchemeChoice:
    """The model with a scheme for every matrix.

    Integers of the checkpoint are used as they are where the device has their scheme, else they are dequantized as
    they load. Matrices stored in floating-point numbers are quantized as they load when `asked` for.

    Args:
        files: the opened checkpoint; None = random weights, or a checkpoint that holds no integers.
        asked: `EngineConfig.quantization`: None, a scheme, an alias, or the checkpoint's own format.
        strict: dequantizing is an error.
    Raises ConfigError when `asked` and the checkpoint or the device do not meet, BackendError under `strict`.
    """
    stored = _stored(spec, files)
    if stored:
        _check_asked(asked, spec, stored)
        return _as_stored(spec.graph, stored, capabilities, strict)
    if asked is None:
        return SchemeChoice(spec.graph)
    by_role = _schemes_by_role(asked, capabilities)
    return SchemeChoice(assign_schemes(spec.graph, lambda weight, role: by_role.get(role, PLAIN)))


def step_dtypes(resolved: ResolvedConfig, model: ModelGraph) -> Dtypes:
    """What the cost model needs to know of how a model is held."""
    bits = {
        weight.scheme: WeightScheme.parse(weight.scheme).bits_per_element(weight.shape[-1].evaluate(model.axis_sizes()))
        for part in model.parts() for weight in part.graph.weights.values() if weight.scheme != PLAIN
    }
    return Dtypes(weight=resolved.weight_dtype, act=resolved.act_dtype, kv=resolved.kv_dtype, scheme_bits=bits)


def _stored(spec: ModelSpec, files: CheckpointFiles | None) -> dict[Source, str]:
    """Source -> scheme of every matrix that the files hold in integers; "plain" where only dequantizing gives it."""
    if files is None:
        return {}
    schemes = StoredSchemes(files, spec.graph.axis_sizes())
    return {source: schemes.of(source) for source in matrices(spec.graph) if schemes.has_integers(source)}


def _check_asked(asked: str | None, spec: ModelSpec, stored: Mapping[Source, str]) -> None:
    held = sorted({scheme for scheme in stored.values() if scheme != PLAIN})
    method = (spec.quantization_config or {}).get("quant_method")
    if asked is None or asked == method or [asked] == held:
        return
    raise ConfigError(f"quantization={asked!r} of a checkpoint that is already quantized",
                      because=f"it holds {method or 'integers'}: {', '.join(held) or 'in a form that does not join'}; "
                              "rounding them again would only lose",
                      try_="the command without --quantization, or the original weights")


def _as_stored(model: ModelGraph, stored: Mapping[Source, str], capabilities: Capabilities,
               strict: bool) -> SchemeChoice:
    lost: dict[str, list[Weight]] = {}

    def scheme_of(weight: Weight, role: Role) -> str:
        scheme = stored.get(weight.source)
        if scheme is None:
            return PLAIN
        if role != "router" and scheme != PLAIN and scheme in capabilities.weight_schemes:
            return scheme
        if role != "router":
            lost.setdefault("parts of several schemes" if scheme == PLAIN else scheme, []).append(weight)
        return PLAIN

    assigned = assign_schemes(model, scheme_of)
    sizes = model.axis_sizes()
    notes = tuple(
        f"{len(weights)} matrices of {sum(num_elements(w.shape).evaluate(sizes) for w in weights) / 1e6:.1f} million "
        f"weights stored as {scheme} are dequantized as they load: the device has no kernel for it"
        for scheme, weights in lost.items())
    if strict and notes:
        raise BackendError("--strict-device: the device cannot hold this checkpoint as it is stored",
                           because="; ".join(notes),
                           try_="the command without --strict-device, or a device with kernels for it")
    return SchemeChoice(assigned, notes)


def _schemes_by_role(asked: str, capabilities: Capabilities) -> Mapping[Role, str]:
    by_role = ALIASES.get(asked)
    if by_role is None:
        scheme = _parsed(asked, capabilities)
        by_role = {"linear": scheme, "experts": scheme, "head": scheme}
    lacking = sorted(set(by_role.values()) - capabilities.weight_schemes)
    if lacking:
        raise ConfigError(f"quantization={asked!r}", because=f"the device has no kernel for {', '.join(lacking)}",
                          try_=_choices(capabilities))
    return by_role


def _parsed(asked: str, capabilities: Capabilities) -> str:
    try:
        return WeightScheme.parse(asked).name
    except ConfigError:
        is_format = asked in (*OPENERS, "gguf")
        because = "the checkpoint is not in this format" if is_format else "it is not the name of a scheme"
        raise ConfigError(f"quantization={asked!r}", because=because, try_=_choices(capabilities)) from None


def _choices(capabilities: Capabilities) -> str:
    names = sorted(capabilities.weight_schemes - {PLAIN})
    if not names:
        return "another --device: this one holds plain weights only; or the command without --quantization"
    aliases = [name for name in ALIASES if set(ALIASES[name].values()) <= set(names) and name not in names]
    return f"one of {', '.join([*aliases, *names])}"
