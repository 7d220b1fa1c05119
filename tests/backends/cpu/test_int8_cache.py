"""An int8 KV cache under the engine: chunks, prefix hits, neighbours and preemption change no bit of a result."""

from __future__ import annotations

from typing import Any

from quire import LLM, SamplingParams

PROMPTS = [
    "Quire keeps the KV cache in pages. " * 6 + question
    for question in ("What is a block table?", "What is a prefix?", "Who frees a page?", "How long is a window?")
]
SAMPLING = SamplingParams(max_tokens=40, temperature=0, logprobs=1, ignore_eos=True)


def answers(prompts: list[str], rounds: int = 1, **options: Any) -> tuple[list[Any], LLM]:
    """Tokens and log-probabilities of each prompt in the last round."""
    llm = LLM(device="cpu", kv_cache_dtype="int8", max_model_len=256, block_size=16, **options)
    for _ in range(rounds):
        outputs = llm.generate(prompts, SAMPLING)
    found = []
    for output in outputs:
        completion = output.outputs[0]
        assert completion.logprobs is not None
        assert len(completion.token_ids) == 40
        found.append(
            (
                completion.token_ids,
                [sorted((token, each.logprob) for token, each in step.items()) for step in completion.logprobs],
            )
        )
    return found, llm


def test_chunks_prefix_hits_neighbours_and_preemption_change_no_bit() -> None:
    alone = [answers([prompt], enable_prefix_caching=False)[0][0] for prompt in PROMPTS]
    chunked, _ = answers(PROMPTS, max_num_batched_tokens=16, max_num_seqs=4, enable_prefix_caching=False)
    assert chunked == alone
    hit, _ = answers(PROMPTS, rounds=2)
    assert hit == alone
    preempted, llm = answers(PROMPTS, num_kv_blocks=20, enable_prefix_caching=False)
    assert llm.engine.stats().preemptions > 0
    assert preempted == alone
