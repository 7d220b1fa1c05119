"""How many KV blocks fit: bytes of a block, pools that groups share, and memory divided between pools.

A pool's memory belongs to all its groups: a block id is used by one of them at a time, and groups with equal
arrays keep a layer slot's blocks in one storage.
"""

from __future__ import annotations

from collections.abc import Mapping

from quire.errors import ConfigError, InternalError
from quire.graph.ir import CacheArray, KVGroupSpec, ModelGraph
from quire.graph.kv_arrays import held_arrays
from quire.graph.shapes import num_elements

DTYPE_BYTES: Mapping[str, float] = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "fp8": 1,
    "int8": 1,
    "int4": 0.5,
}
"""Bytes per element of dtypes in which weights, activations and KV are held."""


def dtype_bytes(dtype: str) -> float:
    """Bytes per element; raises ConfigError for a name that Quire does not know."""
    if dtype not in DTYPE_BYTES:
        raise ConfigError(f"dtype {dtype!r}", because="its size is not known", hint=f"one of {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]


def bytes_per_block(group: KVGroupSpec, axis_sizes: Mapping[str, int], block_size: int, kv_dtype: str) -> int:
    """Bytes of one block over all layers of a group; of one sequence's state for `state` groups."""
    return group.layers * _slot_bytes(group, axis_sizes, block_size, kv_dtype)


def kv_bytes_per_token(model: ModelGraph, kv_dtype: str) -> int:
    """Bytes that one more token adds while every layer keeps it (before sliding layers forget)."""
    sizes, groups = model.axis_sizes(), model.kv_groups.values()
    return sum(bytes_per_block(group, sizes, 1, kv_dtype) for group in groups if group.kind != "state")


def kv_pools(model: ModelGraph) -> dict[str, tuple[str, ...]]:
    """Pool name -> names of the groups that share its block ids."""
    pools: dict[str, list[str]] = {}
    for name, group in model.kv_groups.items():
        pools.setdefault(group.pool, []).append(name)
    return {pool: tuple(groups) for pool, groups in pools.items()}


def pool_block_bytes(model: ModelGraph, pool: str, block_size: int, kv_dtype: str) -> int:
    """Bytes of one block of a pool: groups with equal arrays share storage slot by slot, others add up."""
    storages: dict[tuple[CacheArray, ...], int] = {}
    sizes = model.axis_sizes()
    for name in kv_pools(model)[pool]:
        group = model.kv_groups[name]
        storages[group.arrays] = max(storages.get(group.arrays, 0), bytes_per_block(group, sizes, block_size, kv_dtype))
    return sum(storages.values())


def pools_bytes(model: ModelGraph, num_blocks: Mapping[str, int], block_size: int, kv_dtype: str) -> int:
    """Bytes of so many blocks of each pool."""
    return sum(count * pool_block_bytes(model, pool, block_size, kv_dtype) for pool, count in num_blocks.items())


def blocks_needed(
    group: KVGroupSpec, num_seqs: int, num_tokens: int, block_size: int, max_num_batched_tokens: int
) -> int:
    """Most blocks that `num_seqs` sequences of `num_tokens` tokens each hold at one time.

    A sliding layer holds its window (which starts anywhere in a block) and the tokens of the step in flight. Of a state
    group a block is a slot.
    """
    if group.kind == "state":
        return num_seqs * state_slots(group)
    all_blocks = num_seqs * _ceil_div(num_tokens, block_size)
    if not group.window:
        return all_blocks
    windows = num_seqs * (_ceil_div(group.window, block_size) + 1)
    return min(all_blocks, windows + _ceil_div(max_num_batched_tokens, block_size))


def state_slots(group: KVGroupSpec) -> int:
    """Most slots of a state group that a sequence holds: to read, to write, and one that the prefix cache gets."""
    return 3 if group.checkpoint_every else 2


def fit_kv_blocks(
    model: ModelGraph,
    available_bytes: int,
    *,
    block_size: int,
    kv_dtype: str,
    max_model_len: int,
    max_num_seqs: int,
    max_num_batched_tokens: int = 2048,
) -> dict[str, int]:
    """Pool name -> number of blocks that fit in `available_bytes`, as `KVPlan.num_blocks` takes them.

    One block of each pool is left to the executor (its trash block). Several pools are divided by need: as many
    sequences (up to max_num_seqs) of one length (up to max_model_len) as fit, so that no pool runs dry while
    another lies idle; with the condition that one sequence of max_model_len fits.

    Raises: ConfigError when not even that one fits, with the numbers and what to change.
    """
    need = _Need(model, block_size, kv_dtype, max_num_batched_tokens)
    usable = available_bytes - sum(need.block_bytes.values())
    if not need.pools:
        raise InternalError("the model has no KV groups")
    if need.bytes(1, max_model_len) > usable:
        raise _too_small(need, available_bytes, usable, max_model_len, kv_dtype)
    if len(need.pools) == 1:
        (pool,) = need.pools
        return {pool: usable // need.block_bytes[pool]}
    least = need.blocks(1, max_model_len)
    num_seqs = max_num_seqs
    while True:
        num_tokens = need.longest(num_seqs, max_model_len, usable)
        blocks = need.blocks(num_seqs, num_tokens) if num_tokens else {}
        if blocks and all(blocks[pool] >= least[pool] for pool in need.pools):
            break
        num_seqs = max(1, num_seqs * 7 // 8)
    spare = usable / need.bytes(num_seqs, num_tokens)
    return {pool: int(count * spare) for pool, count in blocks.items()}


def sequence_kv_bytes(
    model: ModelGraph, num_tokens: int, *, block_size: int, kv_dtype: str, max_num_batched_tokens: int
) -> int:
    """Bytes of the smallest KV cache that holds one sequence of `num_tokens`: its blocks and one more of each pool."""
    need = _Need(model, block_size, kv_dtype, max_num_batched_tokens)
    return sum(need.block_bytes.values()) + need.bytes(1, num_tokens)


def longest_sequence(
    model: ModelGraph, available_bytes: int, limit: int, *, block_size: int, kv_dtype: str, max_num_batched_tokens: int
) -> int:
    """Tokens, up to `limit`, of the longest sequence whose KV cache fits (see `sequence_kv_bytes`); 0 = none does."""
    need = _Need(model, block_size, kv_dtype, max_num_batched_tokens)
    return need.longest(1, limit, available_bytes - sum(need.block_bytes.values()))


def most_kv_blocks(
    model: ModelGraph, *, block_size: int, max_model_len: int, max_num_seqs: int, max_num_batched_tokens: int
) -> dict[str, int]:
    """Pool name -> blocks that `max_num_seqs` sequences of `max_model_len` tokens hold at one time."""
    return {
        pool: sum(
            blocks_needed(model.kv_groups[name], max_num_seqs, max_model_len, block_size, max_num_batched_tokens)
            for name in names
        )
        for pool, names in kv_pools(model).items()
    }


class _Need:
    """Blocks and bytes that sequences of a length need, by pool."""

    def __init__(self, model: ModelGraph, block_size: int, kv_dtype: str, max_num_batched_tokens: int) -> None:
        self._model, self._block_size, self._budget = model, block_size, max_num_batched_tokens
        self.pools = kv_pools(model)
        self.block_bytes = {pool: pool_block_bytes(model, pool, block_size, kv_dtype) for pool in self.pools}

    def blocks(self, num_seqs: int, num_tokens: int) -> dict[str, int]:
        groups = self._model.kv_groups
        return {
            pool: sum(
                blocks_needed(groups[name], num_seqs, num_tokens, self._block_size, self._budget) for name in names
            )
            for pool, names in self.pools.items()
        }

    def bytes(self, num_seqs: int, num_tokens: int) -> int:
        return sum(count * self.block_bytes[pool] for pool, count in self.blocks(num_seqs, num_tokens).items())

    def longest(self, num_seqs: int, limit: int, usable: int) -> int:
        """Tokens, up to `limit`, that each of `num_seqs` sequences may have at once; 0 = not even one."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes(num_seqs, middle) <= usable else (low, middle - 1)
        return low


def _slot_bytes(group: KVGroupSpec, axis_sizes: Mapping[str, int], block_size: int, kv_dtype: str) -> int:
    tokens = 1 if group.kind == "state" else block_size
    held = held_arrays(group, kv_dtype)
    return int(sum(num_elements(a.shape).evaluate(axis_sizes) * dtype_bytes(a.dtype) for a in held) * tokens)


def _too_small(need: _Need, available_bytes: int, usable: int, max_model_len: int, kv_dtype: str) -> ConfigError:
    required = available_bytes - usable + need.bytes(1, max_model_len)
    fitting = need.longest(1, max_model_len, usable)
    advice = [f"--max-model-len {fitting}"] if fitting else []
    advice.append("a higher --memory-utilization")
    if dtype_bytes(kv_dtype) > 2:
        advice.append("--kv-cache-dtype bfloat16")
    num_blocks = sum(need.blocks(1, max_model_len).values())
    return ConfigError(
        f"a sequence of max_model_len={max_model_len} tokens needs {num_blocks} KV blocks,"
        f" {required / 2**20:.1f} MiB; {max(available_bytes, 0) / 2**20:.1f} MiB is free",
        because=f"the KV cache is {kv_dtype} and lies beside weights and activations",
        hint=", or ".join(advice),
    )


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
