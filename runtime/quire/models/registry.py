"""The table of architectures: explicit, so that what is supported can be read here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from quire.models.built_model import BuiltModel
from quire.models.config.reader import ConfigReader
from quire.models.families.gemma2 import build_gemma2
from quire.models.families.gemma3 import build_gemma3_conditional, build_gemma3_text
from quire.models.families.gpt2 import build_gpt2
from quire.models.families.gpt_neox import build_gpt_neox
from quire.models.families.llama import build_llama
from quire.models.families.mistral import build_mistral
from quire.models.families.mixtral import build_mixtral
from quire.models.families.olmo2 import build_olmo2
from quire.models.families.phi3 import build_phi3
from quire.models.families.qwen2 import build_qwen2
from quire.models.families.qwen3 import build_qwen3
from quire.models.families.qwen3_moe import build_qwen3_moe


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table of architectures.

    Attributes:
        model_types: what `model_type` may say.
        build: reads the config and builds; raises ModelError for what it cannot honour.
        ignorable_tensors: fnmatch patterns of stored buffers that are no weights.
    """

    model_types: tuple[str, ...]
    build: Callable[[ConfigReader], BuiltModel]
    ignorable_tensors: tuple[str, ...] = ()


_MASK_BUFFERS = ("*.attn.bias", "*.attn.masked_bias", "*.attention.bias", "*.attention.masked_bias")

ARCHITECTURES: Mapping[str, Family] = MappingProxyType(
    {
        "GPT2LMHeadModel": Family(("gpt2",), build_gpt2, _MASK_BUFFERS),
        "GPTNeoXForCausalLM": Family(("gpt_neox",), build_gpt_neox, _MASK_BUFFERS),
        "Gemma2ForCausalLM": Family(("gemma2",), build_gemma2),
        "Gemma3ForCausalLM": Family(("gemma3_text",), build_gemma3_text),
        "Gemma3ForConditionalGeneration": Family(("gemma3",), build_gemma3_conditional),
        "LlamaForCausalLM": Family(("llama",), build_llama),
        "MistralForCausalLM": Family(("mistral",), build_mistral),
        "MixtralForCausalLM": Family(("mixtral",), build_mixtral),
        "Olmo2ForCausalLM": Family(("olmo2",), build_olmo2),
        "Phi3ForCausalLM": Family(("phi3",), build_phi3),
        "Qwen2ForCausalLM": Family(("qwen2",), build_qwen2),
        "Qwen3ForCausalLM": Family(("qwen3",), build_qwen3),
        "Qwen3MoeForCausalLM": Family(("qwen3_moe",), build_qwen3_moe),
    }
)
"""Architecture name, as in a config's `architectures`, -> how it is built."""
