"""Request fields of OpenAI's and vLLM 0.33's APIs that Quire does not have, and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping

from quire.foreign_fields import ForeignField, ignored, refused
from quire.vllm_sampling_fields import BEAM_SEARCH, GRAMMAR, VLLM_SAMPLING_FIELDS

_ONE_QUEUE = "all requests are served by one engine"
_NO_MEDIA = "there are no images or sounds to process"
_RENDER = "it is for endpoints that only render a prompt"
_NO_TRANSFER = "there is no transfer between engines"

_BOTH: Mapping[str, ForeignField] = {
    "service_tier": ignored(_ONE_QUEUE, "auto", "default", example="flex", origin="OpenAI"),
    "session_id": ignored("requests of one session are treated alike", example="s-1"),
    "stream_interval": VLLM_SAMPLING_FIELDS["stream_interval"],
    "spaces_between_special_tokens": VLLM_SAMPLING_FIELDS["spaces_between_special_tokens"],
    "truncation_side": ignored("a prompt is never shortened", example="left"),
    "return_token_offsets": ignored(_RENDER, False),
    "mm_payload": ignored(_RENDER, "tensors", example="none"),
    "return_mm_kwargs": ignored(_RENDER, True, example=False),
    "use_beam_search": refused(BEAM_SEARCH, False),
    "length_penalty": refused(BEAM_SEARCH, 1.0, example=0.5),
    "early_stopping": refused(BEAM_SEARCH, False),
    "watermarking": VLLM_SAMPLING_FIELDS["watermarking"],
    "truncate_prompt_tokens": VLLM_SAMPLING_FIELDS["truncate_prompt_tokens"],
    "logprob_token_ids": VLLM_SAMPLING_FIELDS["logprob_token_ids"],
    "logits_processors": VLLM_SAMPLING_FIELDS["logits_processors"],
    "structured_outputs": VLLM_SAMPLING_FIELDS["structured_outputs"],
    "guided_json": refused(GRAMMAR, example={}),
    "guided_regex": refused(GRAMMAR, example="a+"),
    "guided_choice": refused(GRAMMAR, [], example=["a"]),
    "guided_grammar": refused(GRAMMAR, example="root ::= 'a'"),
    "guided_decoding_backend": refused(GRAMMAR, example="auto"),
    "guided_whitespace_pattern": refused(GRAMMAR, example=" "),
    "thinking_token_budget": VLLM_SAMPLING_FIELDS["thinking_token_budget"],
    "repetition_detection": VLLM_SAMPLING_FIELDS["repetition_detection"],
    "return_weight_versions": refused("weights have no versions", False),
    "routed_experts_prompt_start": VLLM_SAMPLING_FIELDS["routed_experts_prompt_start"],
    "kv_transfer_params": refused(_NO_TRANSFER, {}, example={"do_remote_prefill": True}),
    "ec_transfer_params": refused(_NO_TRANSFER, {}, example={"a": 1}),
    "vllm_xargs": refused("no plugin reads them", {}, example={"a": 1}),
}  # fmt: skip

COMPLETION_FOREIGN: Mapping[str, ForeignField] = {
    **_BOTH,
    "suffix": refused("text is not inserted before another", "", example="end", origin="both"),
    "prompt_embeds": refused("a prompt is text or token ids", [], example="AAAA"),
    "response_format": refused(GRAMMAR, {"type": "text"}, example={"type": "json_object"}),
}  # fmt: skip

CHAT_FOREIGN: Mapping[str, ForeignField] = {
    **_BOTH,
    "metadata": ignored("nothing is stored", {}, example={"topic": "demo"}, origin="OpenAI"),
    "safety_identifier": ignored("requests are not watched", example="user-1", origin="OpenAI"),
    "prompt_cache_key": ignored("equal prefixes are found without a key", example="key", origin="OpenAI"),
    "prompt_cache_options": ignored("prefixes are kept as long as there is room", {}, example={"mode": "implicit"},
                                    origin="OpenAI"),
    "prompt_cache_retention": ignored("prefixes are kept as long as there is room", example="24h", origin="OpenAI"),
    "prediction": ignored("it could only save time", example={"type": "content", "content": "a"}, origin="OpenAI"),
    "verbosity": ignored("the model has no such setting", example="low", origin="OpenAI"),
    "parallel_tool_calls": ignored("calls are not parsed", True, example=False, origin="both"),
    "media_io_kwargs": ignored(_NO_MEDIA, {}, example={"image": {}}),
    "mm_processor_kwargs": ignored(_NO_MEDIA, {}, example={"num_crops": 4}),
    "store": refused("nothing is stored", False, origin="OpenAI"),
    "audio": refused("answers are text", example={"voice": "alloy", "format": "wav"}, origin="OpenAI"),
    "modalities": refused("answers are text", ["text"], [], example=["text", "audio"], origin="OpenAI"),
    "functions": refused("calls are not parsed", example=[{"name": "f"}], origin="OpenAI",
                         hint="tools with tool_choice='none', which shows them to the model only"),
    "function_call": refused("calls are not parsed", "none", example="auto", origin="OpenAI"),
    "moderation": refused("nothing is moderated", example={"model": "m"}, origin="OpenAI"),
    "web_search_options": refused("nothing is searched", example={}, origin="OpenAI"),
    "response_format": refused(GRAMMAR, {"type": "text"}, example={"type": "json_object"}, origin="both"),
    "reasoning_effort": refused("it is a matter of the chat template", example="high", origin="both",
                                hint="chat_template_kwargs with what the model's template reads"),
    "include_reasoning": refused("thinking is not told from answering", True, example=False),
    "best_of": refused("a chat returns all n answers", 1, example=2),
    "echo": refused("a conversation is not repeated in its answer", False),
    "documents": refused("they are a matter of the chat template", [], example=[{"text": "a"}],
                         hint="chat_template_kwargs with what the model's template reads"),
    "chat_template": refused("a template of a request is not run", example="{{ messages }}",
                             hint="--chat-template when the server is started"),
    "return_prompt_text": refused("the prompt is not returned", False),
}  # fmt: skip

STREAM_OPTIONS_FOREIGN: Mapping[str, ForeignField] = {
    "include_obfuscation": ignored("chunks are not padded", False, origin="OpenAI"),
}  # fmt: skip
