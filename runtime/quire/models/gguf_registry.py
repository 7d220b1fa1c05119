"""The table of GGUF architectures: explicit, so that what is supported can be read here."""

from __future__ import annotations

from quire.models.families.gguf import gemma2, gemma3, gpt2, gptneox, llama, olmo2, phi3, qwen2, qwen3, qwen3moe
from quire.weights.formats.gguf.architectures import declare

declare(
    {
        "gemma2": gemma2.ARCHITECTURE,
        "gemma3": gemma3.ARCHITECTURE,
        "gpt2": gpt2.ARCHITECTURE,
        "gptneox": gptneox.ARCHITECTURE,
        "llama": llama.ARCHITECTURE,
        "olmo2": olmo2.ARCHITECTURE,
        "phi3": phi3.ARCHITECTURE,
        "qwen2": qwen2.ARCHITECTURE,
        "qwen3": qwen3.ARCHITECTURE,
        "qwen3moe": qwen3moe.ARCHITECTURE,
    }
)
