"""The table of architectures: explicit, so that what is supported can be read here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quire.models.family import Family
from quire.models.llama import build_llama
from quire.models.qwen3 import build_qwen3

ARCHITECTURES: Mapping[str, Family] = MappingProxyType({
    "LlamaForCausalLM": Family(("llama",), build_llama),
    "Qwen3ForCausalLM": Family(("qwen3",), build_qwen3),
})
"""Architecture name, as in a config's `architectures`, -> how it is built."""
