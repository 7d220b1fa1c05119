"""A typed reader of config.json that guesses nothing.

A family's builder asks for each value it honours, and each has a range; `finish` then refuses every value that would
change the computation and that nobody asked for, and names keys that it does not know. What is absent takes the
default of the family's published config class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.errors import ModelError
from quire.models.config.harmless_keys import is_harmless

_MOST_NAMED = 20


class _Missing:
    pass


MISSING: Any = _Missing()
"""Default of a value that the config must hold."""

MOST = 2**31 - 1
"""Sizes, counts and positions are 32-bit integers on devices."""

LARGEST_NUMBER = 3.0e38
"""Other numbers are float32 there."""

MOST_LAYERS, MOST_EXPERTS, LONGEST_HEAD = 1024, 4096, 1024
"""Above every published model (126 layers, 512 experts, heads of 576). A graph holds each layer and each expert, so
that a slip of the pen would take all memory, and kernels keep the dimensions of a head on their stack."""

ACTIVATION_NAMES: Mapping[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "quick_gelu": "quick_gelu",
}
"""A config's name of an activation -> the op set's."""

NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "alibi": (False,),
    "attention_bias": (False,),
    "attention_multiplier": (),
    "attn_logit_softcapping": (),
    "attn_temperature_tuning": (False,),
    "clip_qkv": (),
    "compression_config": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (),
    "is_encoder_decoder": (False,),
    "kv_lora_rank": (),
    "layer_types": (),
    "lm_head_bias": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "mlp_bias": (False,),
    "n_routed_experts": (0,),
    "n_shared_experts": (0,),
    "no_rope_layer_interval": (),
    "no_rope_layers": (),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "parallel_attn": (False,),
    "partial_rotary_factor": (1,),
    "pruned_heads": ({},),
    "q_lora_rank": (),
    "qk_layernorm": (False,),
    "qkv_bias": (False,),
    "quantization_config": (),
    "query_pre_attn_scalar": (),
    "reorder_and_upcast_attn": (False,),
    "residual_multiplier": (1,),
    "rope_interleaved": (False,),
    "rope_local_base_freq": (),
    "rope_parameters": (),
    "rope_scaling": (),
    "rotary_pct": (1,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "shared_expert_intermediate_size": (0,),
    "sliding_window": (),
    "use_bidirectional_attention": (False,),
    "use_parallel_residual": (False,),
    "use_qk_norm": (False,),
    "use_sliding_window": (False,),
}
"""Values that change what a model computes -> what they may be (beside null) where a family does not read them."""


class ConfigReader:
    """Reads one config.json, or a nested config of it, with types checked and every refusal naming the value.

    Args:
        values: the parsed JSON object.
        where: how errors call it.
    Attributes:
        last_read: the key that was asked for last, for the place of an error.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values, self.where = values, where
        self._read: set[str] = set()
        self._spellings: dict[str, str] = {}
        self._defaults: dict[str, Any] = {}
        self.last_read = ""

    def spelled(self, **spellings: str) -> None:
        """From now on the value called by each keyword is looked for under the family's own word."""
        self._spellings |= spellings

    def defaults(self, **values: Any) -> None:
        """Defaults of the family's published config class, under its own words. They go before those of calls."""
        self._defaults |= values

    def word(self, name: str) -> str:
        """The family's own word for a value."""
        return self._spellings.get(name, name)

    def integer(self, name: str, default: Any = MISSING, *, low: int = 1, high: int = MOST) -> int:
        """An integer from `low` to `high`; null counts as absent. The default is checked too."""
        value: int = self._typed(name, default, (int,), "an integer")
        if not low <= value <= high:
            raise self.refusal(name, f"it is an integer from {low} to {high}", value)
        return value

    def number(self, name: str, default: Any = MISSING, *, low: float = 0.0, high: float = LARGEST_NUMBER) -> float:
        """A finite number from `low` to `high`; null counts as absent."""
        value = self._typed(name, default, (int, float), "a number")
        if not low <= value <= high:  # false for NaN
            raise self.refusal(name, f"it is a number from {low:g} to {high:g}", value)
        return float(value)

    def flag(self, name: str, default: Any = MISSING) -> bool:
        """true or false; null counts as absent."""
        return self._typed(name, default, (bool,), "true or false")

    def text(self, name: str, default: Any = MISSING) -> str:
        """A string; null counts as absent."""
        return self._typed(name, default, (str,), "a string")

    def optional_integer(self, name: str, default: int | None = None, *, low: int = 1) -> int | None:
        """An integer from `low`, or None where the config says null; `default` only where it says nothing."""
        return self.integer(name, low=low) if self._is_given(name) else self.raw(name, default)

    def optional_number(self, name: str, default: float | None = None) -> float | None:
        """A number, or None where the config says null; `default` only where it says nothing."""
        return self.number(name) if self._is_given(name) else self.raw(name, default)

    def raw(self, name: str, default: Any = None) -> Any:
        """The value as it stands, marked as honoured."""
        word = self.word(name)
        self._read.add(word)
        self.last_read = word
        return self.values.get(word, self._defaults.get(word, default))

    def nested(self, name: str) -> ConfigReader:
        """The reader of an object inside this one."""
        value = self.raw(name)
        if not isinstance(value, Mapping):
            raise self.refusal(name, "an object is expected there")
        return ConfigReader(value, f"{self.where}: {self.word(name)}")

    def layers(self, name: str = "num_hidden_layers", default: Any = MISSING) -> int:
        """How many layers."""
        return self.integer(name, default, high=MOST_LAYERS)

    def window(self, default: int | None = None) -> int:
        """`sliding_window`: tokens that a query of a sliding layer sees; 0 for null, which slides nowhere."""
        return self.optional_integer("sliding_window", default, low=0) or 0

    def activation(self, name: str, default: Any = MISSING) -> str:
        """The op set's name of an activation; ModelError when it has none."""
        value = self.text(name, default)
        if value not in ACTIVATION_NAMES:
            raise self.refusal(name, f"supported activations are {', '.join(ACTIVATION_NAMES)}")
        return ACTIVATION_NAMES[value]

    def layer_windows(self, num_layers: int, window: int, default_types: list[str]) -> tuple[int, ...]:
        """Per layer, the tokens a query sees (0 = all), from `layer_types` or its default."""
        types = self.raw("layer_types") or default_types
        if not isinstance(types, list) or len(types) != num_layers:
            raise self.refusal("layer_types", f"one entry for each of the {num_layers} layers is expected")
        for kind in types:
            if kind not in ("full_attention", "sliding_attention"):
                raise self.refusal("layer_types", f"{kind!r:.100} is not one of full_attention, sliding_attention")
        if "sliding_attention" in types and not window:
            raise self.refusal("layer_types", "there are sliding layers, but no sliding_window that is in use")
        return tuple(window if kind == "sliding_attention" else 0 for kind in types)

    def finish(self) -> tuple[str, ...]:
        """Refuses, all at once, every value that changes the computation and was not read.

        Returns notes for the log: the keys that nobody read and that are not known to be harmless.
        """
        ignored = [
            f"{name}={self.values[name]!r:.100}"
            for name, neutral in NEUTRAL_VALUES.items()
            if name in self.values and name not in self._read and not _is_neutral(self.values[name], neutral)
        ]
        if ignored:
            raise ModelError(
                f"{self.where}: {', '.join(ignored)} not supported for model_type "
                f"{self.values.get('model_type', 'unknown')!r}",
                because="it changes what the model computes and this family's graph has no place for it",
                hint="a checkpoint without it; quantized checkpoints: the original weights",
            )
        unknown = [
            name[:100]
            for name, value in self.values.items()
            if value is not None and name not in self._read and name not in NEUTRAL_VALUES and not is_harmless(name)
        ]
        left = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        named = ", ".join(unknown[:_MOST_NAMED]) + left
        return (f"{self.where}: not used, and not known to be harmless: {named}",) if unknown else ()

    def refusal(self, name: str, because: str, value: Any = None) -> ModelError:
        """The error for a value that is read but cannot be honoured; `value` where it is not the config's own."""
        word = self.word(name)
        shown = self.values.get(word) if value is None else value
        return ModelError(f"{self.where}: {word}={shown!r:.200} not supported", because=because)

    def _is_given(self, name: str) -> bool:
        return self.values.get(self.word(name)) is not None

    def _typed(self, name: str, default: Any, kinds: tuple[type, ...], wanted: str) -> Any:
        value, word = self.raw(name), self.word(name)
        if value is None:
            default = self._defaults.get(word, default)
            if default is MISSING:
                raise ModelError(
                    f"{self.where}: {word} is missing",
                    because="the model cannot be built without it",
                    hint="a complete config.json of a Hugging Face checkpoint",
                )
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ModelError(f"{self.where}: {word}={value!r:.200}", because=f"{wanted} is expected there")
        return value


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    if isinstance(value, list):
        return all(item == "full_attention" for item in value)
    return value is None or any(value == allowed for allowed in neutral)
