"""Fields of vLLM's SamplingParams that Quire's does not have: vLLM 0.33's, and those that older code still sets."""

from __future__ import annotations

from collections.abc import Mapping

from quire.foreign_fields import ForeignField, ignored, refused

GRAMMAR = "text is not held to a grammar or schema"
BEAM_SEARCH = "there is no beam search"

VLLM_SAMPLING_FIELDS: Mapping[str, ForeignField] = {
    "watermarking": refused("no watermark is written into a text", False),
    "prompt_logprob_token_ids": refused("only the most likely tokens are scored", example=[[1]]),
    "prompt_logprob_start": refused("a prompt is scored whole", 0, example=2),
    "logprob_token_ids": refused("only the most likely tokens are scored", [], example=[1]),
    "flat_logprobs": refused("logprobs come as one mapping a token", False),
    "spaces_between_special_tokens": ignored("no spaces are put between tokens", True, example=False),
    "output_kind": refused("outputs are cumulative", 0, 2, example=1),
    "stream_interval": ignored("every token is streamed as it comes", 1, example=4),
    "skip_clone": ignored("params are frozen and never cloned", False),
    "output_text_buffer_length": ignored("what is held back follows from the stop strings", 0, example=8),
    "structured_outputs": refused(GRAMMAR, example={"json": {}}),
    "extra_args": refused("no plugin reads them", {}, example={"a": 1}),
    "skip_reading_prefix_cache": ignored("cached prefixes give the same answer", False),
    "thinking_token_budget": refused("thinking is not told from answering", -1, example=64),
    "repetition_detection": refused("repetitions do not end a sequence", example={"max_pattern_size": 4}),
    "routed_experts_prompt_start": refused("routed experts are not returned", 0, example=2),
    "trace_decode_token_ids": refused("tokens are drawn, never replayed", [], example=[1]),
    "best_of": refused("offline, all n sequences are returned", 1, example=5, hint="n, and taking the best of them"),
    "truncate_prompt_tokens": refused("a prompt is never shortened", example=8, hint="a shorter prompt"),
    "logits_processors": refused("no code of a request is run", [], example=["x"],
                                 hint="logit_bias, allowed_token_ids or bad_words"),
    "guided_decoding": refused(GRAMMAR, example={"json": {}}),
    "use_beam_search": refused(BEAM_SEARCH, False),
    "length_penalty": refused(BEAM_SEARCH, 1.0, example=0.5),
    "early_stopping": refused(BEAM_SEARCH, False),
}  # fmt: skip
