"""Arguments of vLLM's `LLM`: which have another name here, and what becomes of those that Quire does not have.

The list is vLLM 0.33's, and what older code still sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.errors import ConfigError
from quire.foreign_fields import ForeignField, first_refused, ignored, refusal_text, refused
from quire.vllm_sampling_fields import GRAMMAR

_GRAPHS = "how a device compiles and captures its graphs is its own matter"
_KERNELS = "which kernels run is the device's choice"
_MEMORY = "memory is planned from memory_utilization, before anything is loaded"
_SCHEDULER = "the scheduler has one token budget, which max_num_batched_tokens sets"
_LOGS = "logs follow Python's logging"
_METRICS = "figures are the engine's stats"
_MEDIA = "there are no images or sounds to process"
_LOADING = "weights are read as they are needed"
_LORA = "there are no adapters"
_ONE_DEVICE = "a model runs on one device, or is cut over tensor_parallel_size of them"
_TRANSFER = "there is no transfer between engines"
_SPECULATION = "it could only save time"
_STATE = "there are no layers with a state"


def _each(spec: ForeignField, names: str) -> dict[str, ForeignField]:
    return dict.fromkeys(names.split(), spec)


VLLM_OPTIONS: Mapping[str, ForeignField] = {
    "trust_remote_code": ignored("no code of a checkpoint is ever run", False),
    "code_revision": ignored("no code of a checkpoint is ever run", example="main"),
    **_each(ignored(_GRAPHS, False, {}), """enforce_eager compilation_config cudagraph_capture_sizes optimization_level
        max_cudagraph_capture_size max_seq_len_to_capture performance_mode jit_monitor_mode
        jit_monitor_verbose cudagraph_metrics sleep_mode_offload_cudagraph"""),
    **_each(ignored(_KERNELS, False, {}), """attention_backend attention_config moe_backend linear_backend kernel_config
        sparse_indexer_topk_backend ir_op_priority enable_flashinfer_autotune monokernel disable_cascade_attn
        disable_custom_all_reduce enable_shm_tensor_arena gdn_prefill_backend kda_prefill_backend kda_decode_backend
        enable_batch_sharded_sampling enable_nccl_comm_suspend enable_cumem_allocator dcp_comm_backend"""),
    **_each(ignored(_MEMORY, 0), """swap_space cpu_offload_gb cpu_offload_params offload_backend offload_group_size
        offload_num_in_group offload_prefetch_step offload_params kv_offloading_size kv_offloading_backend
        kv_sharing_fast_prefill watermark disable_hybrid_kv_cache_manager prefix_match_unit swa_bounded_replay
        prefix_caching_hash_algo prefix_cache_retention_interval"""),
    **_each(ignored(_SCHEDULER), """enable_chunked_prefill max_num_scheduled_tokens max_num_active_seqs
        max_num_queued_reqs max_num_queued_tokens long_prefill_token_threshold_adaptive max_num_partial_prefills
        max_long_partial_prefills scheduler_reserve_full_isl prefill_schedule_interval num_scheduler_steps
        scheduler_delay_factor preemption_mode use_v2_block_manager num_lookahead_slots stream_interval
        disable_chunked_mm_input multi_step_stream_outputs disable_async_output_proc"""),
    **_each(ignored(_LOGS), """disable_log_stats disable_log_requests enable_log_requests aggregate_engine_logging
        logging_config log_level log_config_file enable_logging_iteration_details fail_on_environ_validation"""),
    **_each(ignored(_METRICS), """show_hidden_metrics_for_version otlp_traces_endpoint collect_detailed_traces
        per_request_spec_decode_metrics kv_cache_metrics kv_cache_metrics_sample custom_histogram_buckets
        enable_layerwise_nvtx_tracing enable_mfu_metrics enable_mm_processor_stats profiler_config
        ray_workers_use_nsight"""),
    **_each(ignored(_MEDIA), """allowed_local_media_path allowed_media_domains limit_mm_per_prompt enable_mm_embeds
        interleave_mm_strings media_io_kwargs mm_processor_kwargs mm_processor_cache_gb mm_processor_cache_type
        mm_hasher_algorithm mm_shm_cache_max_object_size_mb mm_encoder_only mm_encoder_tp_mode mm_encoder_attn_backend
        mm_encoder_attn_dtype skip_mm_profiling video_pruning_rate video_pruning_method mm_tensor_ipc
        mm_processor_device mm_ipc_gpu_memory_gb mm_device_do_normalize language_model_only
        disable_mm_preprocessor_cache ec_manager_config renderer_num_workers io_processor_plugin"""),
    **_each(ignored(_LOADING), """use_tqdm_on_load safetensors_load_strategy safetensors_prefetch_num_threads
        safetensors_prefetch_block_size max_parallel_loading_workers pt_load_map_location ignore_patterns"""),
    "download_dir": ignored("the hub's own folder is used; HF_HOME sets it", example="/tmp/models"),
    "hf_token": ignored("the hub's own token is used; HF_TOKEN sets it", False, example="hf_..."),
    **_each(ignored(_LORA), """max_loras max_lora_rank default_mm_loras fully_sharded_loras max_cpu_loras lora_dtype
        lora_target_modules enable_tower_connector_lora specialize_active_lora enable_mixed_moe_lora_format
        enable_moe_shared_loras max_lora_cls_labels lora_extra_vocab_size long_lora_scaling_factors"""),
    **_each(ignored(_ONE_DEVICE), """distributed_executor_backend worker_use_ray master_addr master_port node_rank
        distributed_timeout_seconds cpu_distributed_timeout_seconds numa_bind numa_bind_nodes numa_bind_cpus
        dcp_q_replicate dcp_kv_cache_interleave_size cp_kv_cache_interleave_size data_parallel_rank
        data_parallel_start_rank data_parallel_size_local data_parallel_address data_parallel_rpc_port
        data_parallel_hybrid_lb data_parallel_external_lb data_parallel_multi_port_external_lb data_parallel_backend
        enable_hc_sp enable_expert_parallel enable_ep_weight_filter enable_elastic_ep elastic_ep_max_dp_size enable_dbo
        ubatch_size dbo_decode_token_threshold dp_sync_interval dbo_prefill_token_threshold
        disable_nccl_for_dp_synchronization eplb_config enable_eplb expert_placement_strategy enable_fault_tolerance
        fault_tolerance_config watchdog_config shutdown_timeout served_model_name"""),
    **_each(ignored(_SPECULATION), "speculative_config speculative_model num_speculative_tokens spec_method spec_model "
                                   "spec_tokens"),
    **_each(ignored(_STATE), """mamba_cache_dtype mamba_ssm_cache_dtype mamba_block_size mamba_cache_mode mamba_config
        enable_mamba_shared_prefix_checkpoint replayssm_buffer_len use_replayssm mamba_backend mamba_ssu_algorithm
        enable_mamba_cache_stochastic_rounding mamba_cache_philox_rounds"""),
    "structured_outputs_config": ignored(GRAMMAR, example={"backend": "auto"}),
    "guided_decoding_backend": ignored(GRAMMAR, example="auto"),
    "tokenizer_mode": refused("the tokenizer is tokenizer.json's, or the GGUF's", "auto", "hf", example="slow"),
    "tokenizer_revision": refused("a tokenizer has its model's revision", example="main",
                                  hint="tokenizer, with a folder of that revision"),
    "runner": refused("models generate text", "auto", "generate", example="pooling"),
    "convert": refused("models generate text", "auto", "none", example="embed"),
    "task": refused("models generate text", "auto", "generate", example="embed"),
    **_each(refused("models generate text", example={"a": 1}), "pooler_config override_pooler_config diffusion_config"),
    "generation_config": refused("the model's generation_config.json is read", "auto", example="vllm",
                                 hint="SamplingParams that say what is wanted"),
    "override_generation_config": refused("the model's generation_config.json is read", {}, example={"top_k": 1},
                                          hint="SamplingParams that say what is wanted"),
    **_each(refused("config.json is read as it is", {}, "auto", "hf", example={"rope_theta": 1}),
            "hf_overrides hf_config_path config_format model_class_overrides model_weights rope_scaling rope_theta"),
    "model_impl": refused("Quire's own models run", "auto", example="transformers"),
    "model_loader_extra_config": refused("there is one loader", {}, example={"a": 1}),
    "quantization_config": refused("a checkpoint says how it is quantized", {}, example={"a": 1}, hint="quantization"),
    "allow_deprecated_quantization": refused("every scheme that is known is read", False),
    "calculate_kv_scales": refused("the KV cache is not scaled", False),
    "kv_cache_dtype_skip_layers": refused("all layers have one kv_cache_dtype", [], example=["0"]),
    "kv_cache_memory_bytes": refused("the KV cache is sized by a share of memory, or in blocks", example=2**30,
                                     hint="memory_utilization, or num_kv_blocks"),
    "disable_sliding_window": refused("windows are part of the model", False, hint="a max_model_len of the window"),
    "logprobs_mode": refused("logprobs are those of the raw logits", "raw_logprobs", example="processed_logprobs"),
    "enable_lora": refused(_LORA, False),
    "enable_prompt_embeds": refused("a prompt is text or token ids", False),
    "enable_return_routed_experts": refused("routed experts are not returned", False),
    "return_sampling_mask": refused("the mask is not returned", False),
    "aux_output_config": refused("there are no other outputs", {}, example={"a": 1}),
    "enable_trace_replay": refused("tokens are drawn, never replayed", False),
    "reasoning_parser": refused("thinking is not told from answering", "", example="qwen3"),
    "reasoning_parser_plugin": refused("thinking is not told from answering", "", example="x.py"),
    "reasoning_config": refused("thinking is not told from answering", {}, example={"a": 1}),
    "logits_processors": refused("no code from outside runs in the sampler", [], example=["x"],
                                 hint="logit_bias, allowed_token_ids or bad_words"),
    **_each(refused("the engine's own classes run", "auto", "", {}, example="my.Class"),
            "worker_cls worker_extension_cls scheduler_cls additional_config"),
    **_each(refused(_ONE_DEVICE, 1, example=2, hint="tensor_parallel_size"),
            "pipeline_parallel_size data_parallel_size prefill_context_parallel_size decode_context_parallel_size "
            "nnodes"),
    "device_ids": refused("the backend chooses its devices", [], example=[1], hint="device_options"),
    "watermark_config": refused("no watermark is written into a text", {}, example={"a": 1}),
    **_each(refused(_TRANSFER, {}, example={"a": 1}),
            "kv_transfer_config ec_transfer_config kv_events_config weight_transfer_config engram_config"),
    **_each(refused("weights stay loaded", False), "enable_sleep_mode tokens_only"),
    **_each(refused("weights stay loaded", "", [], example="x"), "sleep_mode_backend sleep_preserve_parameter_names"),
}  # fmt: skip


def known_options(options: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The options under EngineConfig's names, None left out, without those of vLLM's that are taken unread.

    Args:
        aliases: vLLM's name -> the field that means the same.
    Raises: ConfigError for one that would change an answer, or for two names of one field.
    """
    given = {name: value for name, value in options.items() if value is not None}
    wrong = first_refused(VLLM_OPTIONS, given, "LLM")
    if wrong is not None:
        what, because, hint = refusal_text(wrong, given[wrong], VLLM_OPTIONS[wrong])
        raise ConfigError(what, because=because, hint=hint)
    known: dict[str, Any] = {}
    for name, value in given.items():
        ours = (aliases or {}).get(name, name)
        if ours in known:
            raise ConfigError(f"{name} and {ours}", because="they are two names of one option", hint="one of them")
        if name not in VLLM_OPTIONS:
            known[ours] = value
    if "dtype" in known:  # a torch.dtype, which vLLM takes too, calls itself torch.float16
        known["dtype"] = str(known["dtype"]).removeprefix("torch.")
    return known
