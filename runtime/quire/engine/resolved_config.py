"""What an engine runs with: the user's words, the model and the device's capabilities, resolved once."""

from __future__ import annotations

from dataclasses import dataclass

from quire.device.capabilities import Capabilities
from quire.engine.config import EngineConfig
from quire.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedConfig:
    """What an engine runs with: no `None`, no "auto"."""

    weight_dtype: str
    act_dtype: str
    kv_dtype: str
    max_model_len: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    memory_utilization: float
    async_depth: int

    def lines(self) -> list[str]:
        """For the start-up report."""
        return [f"{name} = {getattr(self, name)}" for name in self.__dataclass_fields__]


def resolve(
    config: EngineConfig, capabilities: Capabilities, *, model_max_len: int, model_dtype: str
) -> ResolvedConfig:
    """The configuration that runs.

    Args:
        model_max_len: longest sequence the model was made for. model_dtype: dtype of its checkpoint.
    Raises: ConfigError when the user's words and the device's or model's abilities do not meet.
    """
    if config.tensor_parallel_size > capabilities.max_tp:
        raise ConfigError(
            f"tensor_parallel_size={config.tensor_parallel_size}",
            because=f"the device declares max_tp={capabilities.max_tp}",
            hint=f"--tensor-parallel-size {capabilities.max_tp}",
        )
    max_model_len = config.max_model_len or model_max_len
    if max_model_len > model_max_len:
        raise ConfigError(
            f"max_model_len={max_model_len}",
            because=f"the model was made for {model_max_len} tokens",
            hint=f"--max-model-len {model_max_len} or less",
        )
    max_num_seqs = _limit("max_num_seqs", config.max_num_seqs, capabilities.max_num_seqs, capabilities.default_num_seqs)
    max_num_batched_tokens = _limit(
        "max_num_batched_tokens",
        config.max_num_batched_tokens,
        capabilities.max_num_batched_tokens,
        capabilities.default_num_batched_tokens,
    )
    if max_num_batched_tokens < max_num_seqs:
        if config.max_num_seqs is not None:
            raise ConfigError(
                f"max_num_batched_tokens={max_num_batched_tokens} is below max_num_seqs={max_num_seqs}",
                because="every running sequence needs one token a step",
                hint=f"--max-num-batched-tokens {max_num_seqs}, or fewer sequences",
            )
        max_num_seqs = max_num_batched_tokens
    weight_dtype = _choose("dtype", config.dtype, capabilities.weight_dtypes, model_dtype)
    act_dtype = weight_dtype if weight_dtype in capabilities.act_dtypes else capabilities.act_dtypes[0]
    return ResolvedConfig(
        weight_dtype=weight_dtype,
        act_dtype=act_dtype,
        kv_dtype=_choose("kv_cache_dtype", config.kv_cache_dtype, capabilities.kv_dtypes, weight_dtype),
        max_model_len=max_model_len,
        block_size=_choose_block_size(config.block_size, capabilities),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        memory_utilization=config.memory_utilization or capabilities.default_memory_utilization,
        async_depth=capabilities.async_depth if config.async_scheduling else 1,
    )


def _limit(name: str, asked: int | None, most: int | None, default: int) -> int:
    if asked is not None and most is not None and asked > most:
        raise ConfigError(
            f"{name}={asked}", because=f"the device takes at most {most}", hint=f"--{name.replace('_', '-')} {most}"
        )
    return asked if asked is not None else min(default, most) if most is not None else default


def _choose(name: str, asked: str, offered: tuple[str, ...], natural: str) -> str:
    """The asked dtype, or for "auto" the natural one where the device offers it, else its first."""
    if asked == "auto":
        return natural if natural in offered else offered[0]
    if asked not in offered:
        raise ConfigError(
            f"{name}={asked!r}",
            because=f"the device offers {', '.join(offered)}",
            hint=f"--{name.replace('_', '-')} {offered[0]}",
        )
    return asked


def _choose_block_size(asked: int | None, capabilities: Capabilities) -> int:
    if asked is None:
        return capabilities.block_sizes[0]
    if asked not in capabilities.block_sizes:
        raise ConfigError(
            f"block_size={asked}",
            because=f"the device offers {', '.join(map(str, capabilities.block_sizes))}",
            hint=f"--block-size {capabilities.block_sizes[0]}",
        )
    return asked
