"""Which weight gets which quantization scheme: what the user asks, what the checkpoint holds, what the device has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quire.device.capabilities import Capabilities
from quire.engine.resolved_config import ResolvedConfig
from quire.errors import BackendError, ConfigError
from quire.graph.cost import Dtypes
from quire.graph.ir import ModelGraph, Source, Weight
from quire.graph.passes.assign_schemes import Role, assign_schemes, matrices
from quire.graph.shapes import num_elements
from quire.models import ModelSpec
from quire.weights import CheckpointFiles
from quire.weights.formats.quantized.registry import OPENERS
from quire.weights.quantized_expressions import StoredSchemes
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
        notes: what the user should know: weights that the files hold in integers and the device will not.
    """

    model: ModelGraph
    notes: tuple[str, ...] = ()


def choose_schemes(
    spec: ModelSpec,
    files: CheckpointFiles | None,
    asked: str | None,
    capabilities: Capabilities,
    *,
    strict: bool = False,
) -> SchemeChoice:
    """The model with a scheme for every matrix.

    Integers of the checkpoint are used as they are where the device has their scheme, else they are dequantized as
    they load. Matrices stored in floating-point numbers are quantized as they load when `asked` for.

    Args:
        files: the opened checkpoint; None = random weights, or a checkpoint that holds no integers.
        asked: `EngineConfig.quantization`: None, a scheme, an alias, or the checkpoint's own format.
        strict: dequantizing is an error.
    Raises ConfigError when `asked` and the checkpoint or the device do not meet, BackendError under `strict`.
    """
    in_matrices = matrices(spec.graph)
    stored = _stored(spec, files, in_matrices)
    lost = _Dequantized(spec.graph)
    for source, scheme in _stored(spec, files, others := _other_weights(spec.graph, in_matrices)).items():
        lost.add_weight(scheme, _HELD_IN_FLOATS, others[source])
    if files is not None:
        for name, why in files.dequantized.items():
            lost.add("integers", why, math.prod(files.shape(name)))
    if stored:
        _check_asked(asked, spec, stored)
        model = _as_stored(spec.graph, stored, capabilities, lost)
    elif asked is None:
        model = spec.graph
    else:
        by_role = _schemes_by_role(asked, capabilities)
        model = assign_schemes(spec.graph, lambda weight, role: by_role.get(role, PLAIN))
    notes = lost.notes()
    if strict and notes:
        raise BackendError(
            "--strict-device: the device cannot hold this checkpoint as it is stored",
            because="; ".join(notes),
            hint="the command without --strict-device, or another device or checkpoint",
        )
    return SchemeChoice(model, notes)


def step_dtypes(resolved: ResolvedConfig, model: ModelGraph) -> Dtypes:
    """What the cost model needs to know of how a model is held."""
    bits = {
        weight.scheme: WeightScheme.parse(weight.scheme).bits_per_element(weight.shape[-1].evaluate(model.axis_sizes()))
        for part in model.parts()
        for weight in part.graph.weights.values()
        if weight.scheme != PLAIN
    }
    return Dtypes(weight=resolved.weight_dtype, act=resolved.act_dtype, kv=resolved.kv_dtype, scheme_bits=bits)


_NO_KERNEL = "the device has no kernel for it"
_HELD_IN_FLOATS = "only matrices of linears and experts, and tables they share, are held in integers"


class _Dequantized:
    """How much loses its integers while it loads, by what is stored and why."""

    def __init__(self, model: ModelGraph) -> None:
        self._axis_sizes = model.axis_sizes()
        self._elements: dict[tuple[str, str], list[int]] = {}

    def add(self, stored: str, why: str, elements: int) -> None:
        self._elements.setdefault((stored, why), []).append(elements)

    def add_weight(self, scheme: str, why: str, weight: Weight) -> None:
        stored = "parts of several schemes" if scheme == PLAIN else scheme
        self.add(stored, why, num_elements(weight.shape).evaluate(self._axis_sizes))

    def notes(self) -> tuple[str, ...]:
        """A line for each."""
        return tuple(
            f"dequantized while loading: {len(sizes)} weight{'s' * (len(sizes) > 1)} stored as {stored} "
            f"({sum(sizes) / 1e6:.1f} million elements): {why}"
            for (stored, why), sizes in self._elements.items()
        )


def _other_weights(model: ModelGraph, in_matrices: Mapping[Source, object]) -> dict[Source, Weight]:
    """Those that never have a scheme: tables that no linear shares, vectors, what stays in float32."""
    return {
        weight.source: weight
        for part in model.parts()
        for weight in part.graph.weights.values()
        if weight.source not in in_matrices
    }


def _stored(spec: ModelSpec, files: CheckpointFiles | None, sources: Iterable[Source]) -> dict[Source, str]:
    """Source -> scheme of all that the files hold in integers; "plain" where only dequantizing gives it."""
    if files is None:
        return {}
    schemes = StoredSchemes(files, spec.graph.axis_sizes())
    return {source: schemes.of(source) for source in sources if schemes.has_integers(source)}


def _check_asked(asked: str | None, spec: ModelSpec, stored: Mapping[Source, str]) -> None:
    held = sorted({scheme for scheme in stored.values() if scheme != PLAIN})
    method = (spec.quantization_config or {}).get("quant_method")
    if asked is None or asked == method or [asked] == held:
        return
    raise ConfigError(
        f"quantization={asked!r} of a checkpoint that is already quantized",
        because=f"it holds {method or 'integers'}: {', '.join(held) or 'in a form that does not join'}; "
        "rounding them again would only lose",
        hint="the command without --quantization, or the original weights",
    )


def _as_stored(
    model: ModelGraph, stored: Mapping[Source, str], capabilities: Capabilities, lost: _Dequantized
) -> ModelGraph:
    def scheme_of(weight: Weight, role: Role) -> str:
        scheme = stored.get(weight.source)
        if scheme is None:
            return PLAIN
        if role != "router" and scheme != PLAIN and scheme in capabilities.weight_schemes:
            return scheme
        lost.add_weight(scheme, _HELD_IN_FLOATS if role == "router" else _NO_KERNEL, weight)
        return PLAIN

    return assign_schemes(model, scheme_of)


def _schemes_by_role(asked: str, capabilities: Capabilities) -> Mapping[Role, str]:
    by_role = ALIASES.get(asked)
    if by_role is None:
        scheme = _parsed(asked, capabilities)
        by_role = {"linear": scheme, "experts": scheme, "head": scheme}
    lacking = sorted(set(by_role.values()) - capabilities.weight_schemes)
    if lacking:
        raise ConfigError(
            f"quantization={asked!r}",
            because=f"the device has no kernel for {', '.join(lacking)}",
            hint=_choices(capabilities),
        )
    return by_role


def _parsed(asked: str, capabilities: Capabilities) -> str:
    try:
        return WeightScheme.parse(asked).name
    except ConfigError:
        is_format = asked in (*OPENERS, "gguf")
        because = "the checkpoint is not in this format" if is_format else "it is not the name of a scheme"
        raise ConfigError(f"quantization={asked!r}", because=because, hint=_choices(capabilities)) from None


def _choices(capabilities: Capabilities) -> str:
    names = sorted(capabilities.weight_schemes - {PLAIN})
    if not names:
        return "another --device: this one holds plain weights only; or the command without --quantization"
    aliases = [name for name in ALIASES if set(ALIASES[name].values()) <= set(names) and name not in names]
    return f"one of {', '.join([*aliases, *names])}"
