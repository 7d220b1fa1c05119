"""Keys of a config.json that change nothing of what a decoder computes, so that nobody need read them."""

from __future__ import annotations

import re

_NAMES = frozenset(
    {
        "architectures",
        "attn_implementation",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "boi_token_index",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eoi_token_index",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "hidden_act",
        "id2label",
        "image_token_id",
        "image_token_index",
        "initializer_range",
        "is_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "max_sequence_length",
        "max_window_layers",
        "min_length",
        "mm_tokens_per_image",
        "model_max_length",
        "model_type",
        "n_ctx",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "original_max_position_embeddings",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "output_scores",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "router_z_loss_coef",
        "sep_token_id",
        "seq_length",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "text_config",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
        "use_flash_attn",
        "vision_config",
    }
)
"""Names of files and versions, training, search, what other runtimes keep for themselves; other models' ends."""

_PATTERNS = re.compile(r"_.*|.*dropout.*|.*_pdrop|summary_.*")
"""What transformers keeps for itself, dropout, and the head for classification of GPT-2."""


def is_harmless(name: str) -> bool:
    """Whether a family may leave the key unread."""
    return name in _NAMES or _PATTERNS.fullmatch(name) is not None
