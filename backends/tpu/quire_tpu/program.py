"""The compiled step: embed, layers, one slice of the head, sampling. One program for each bucket, made at first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from quire.device.contract import ExecutorPlan
from quire.device.step_vector import StepShape
from quire.errors import BackendError
from quire.graph.ir import KVGroupSpec, Part
from quire.graph.rope import RopeSpec, rope_table
from quire_tpu.attention import paged_attention
from quire_tpu.layer_stack import LayerRunner, Storages, cut_into_segments
from quire_tpu.lowering import Attention, lower
from quire_tpu.plain_ops import TP
from quire_tpu.sampler import Mode, sample
from quire_tpu.step_inputs import unpack
from quire_tpu.step_state import StepState
from quire_tpu.weight_format import stacked_format

Weights = dict[str, Any]
"""{"embed": bound, "segments": [[bound of each body]], "heads": {name: bound}, "rope": [(cos, sin)]}; bound = weights
by local name, stacked [repeats, ...] where a segment repeats. With several ranks each has a leading axis of ranks."""


class StepProgram:
    """Functions of a plan, compiled for one device or for a mesh of ranks.

    Args:
        devices: one, or as many as the plan's world size. attention: of the `paged_attention` op.
    """

    def __init__(self, plan: ExecutorPlan, devices: Sequence[Any], attention: Attention = paged_attention) -> None:
        self.plan, self.devices = plan, list(devices)
        self.segments = cut_into_segments(plan.model.layers)
        if "logits" not in plan.model.heads:
            raise BackendError("this model has no logits head", because=f"its heads are {sorted(plan.model.heads)}")
        self.ropes = _rope_specs(plan)
        kernels = {
            id(part): tuple(lower(node, part.graph, plan, attention) for node in part.graph.nodes)
            for part in plan.model.parts()
        }
        self._runner = LayerRunner(kernels, storage_names(plan.model.kv_groups))
        self.mesh = Mesh(np.array(self.devices), (TP,)) if len(self.devices) > 1 else None
        static = ("shape", "mode", "keep", "more")
        self.step: Callable[..., Any] = jax.jit(self._on_ranks(self._step), static_argnames=static, donate_argnums=1)
        self.head: Callable[..., Any] = jax.jit(self._on_ranks(self._head))

    @property
    def world_size(self) -> int:
        return len(self.devices)

    def sharding(self, *, by_rank: bool) -> Sharding:
        """Of arrays with a leading axis of ranks, or of those that are the same on all ranks."""
        if self.mesh is None:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(TP) if by_rank else PartitionSpec())

    def weight_format(self, weight_dims: int, repeats: int, dtype: Any) -> Sharding | Format:
        """Of a weight [repeats, ...] (without that axis for one layer), which is the same for every bucket."""
        sharding = self.sharding(by_rank=True)
        if repeats == 1 or weight_dims < 2 or self.world_size > 1:  # XLA drops the tiles of what is cut over ranks
            return sharding
        return stacked_format(sharding, self.devices[0].device_kind, weight_dims + 1, dtype)

    def rope_tables(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rotary tables in the order in which the program takes them."""
        return [rope_table(spec, self.plan.max_model_len) for spec in self.ropes]

    def _step(
        self,
        weights: Weights,
        storages: Storages,
        feedback: jax.Array,
        vector: jax.Array,
        *,
        shape: StepShape,
        mode: Mode,
        keep: bool,
        more: bool,
    ) -> tuple[Storages, jax.Array, jax.Array | None, Any]:
        """One step of one rank.

        Args:
            feedback: int32 [F], what the step before sampled. vector: `quire.device.pack_step`.
            keep: give the slice's logits. more: give the head's inputs, for further slices.
        Returns: storages, tokens int32 [max(F, R)], logits float32 [L, V], environment.
        """
        arrays = unpack(vector, shape)
        rope = dict(zip(self.ropes, weights["rope"], strict=True))
        storage_of = self._runner.storage_of
        trash = {group: next(iter(storages[storage_of[group]].values())).shape[1] - 1 for group in shape.groups}
        state = StepState.derive(arrays, trash, self.plan.block_size, rope)
        environment: dict[str, Any] = {
            "token_ids": _with_feedback(arrays, feedback, state),
            "positions": state.positions,
        }
        outputs, storages = self._runner.part(self.plan.model.embed, weights["embed"], environment, storages, state)
        environment |= outputs
        for segment, bound in zip(self.segments, weights["segments"], strict=True):
            environment, storages = self._runner.segment(segment, bound, environment, storages, state)
        logits = self._logits(weights, environment, arrays["logits_indices"], state)
        tokens = jnp.zeros(shape.rows, jnp.int32) if mode == "host" else sample(logits, arrays, mode)
        tokens = jnp.pad(tokens, (0, max(0, feedback.shape[0] - shape.rows)))
        kept = {name: environment[name] for name, _ in self._head_part.graph.inputs if name in environment}
        return storages, tokens, logits if keep else None, kept if more else None

    def _head(self, weights: Weights, environment: dict[str, Any], rows: jax.Array) -> jax.Array:
        """float32 [L, V]: the head on further rows of a step."""
        return self._logits(weights, environment, rows, None)

    def _logits(self, weights: Weights, environment: Mapping[str, Any], rows: jax.Array, state: Any) -> jax.Array:
        outputs, _ = self._runner.part(
            self._head_part, weights["heads"]["logits"], {**environment, "logits_indices": rows}, {}, state
        )
        return outputs["logits"]

    @property
    def _head_part(self) -> Part:
        return self.plan.model.heads["logits"]

    def _on_ranks(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function on every rank: its first argument, and the storages, have a leading axis of ranks."""
        if self.mesh is None:
            return function
        ranked, same = PartitionSpec(TP), PartitionSpec()
        steps = function == self._step

        def on_all(weights: Weights, *rest: Any, **static: Any) -> Any:
            def on_one(own: Weights, *others: Any) -> Any:
                rope = own.pop("rope")
                own = {**jax.tree.map(lambda array: array[0], own), "rope": rope}
                if not steps:
                    return function(own, *others, **static)
                held, *values = function(own, jax.tree.map(lambda a: a[0], others[0]), *others[1:], **static)
                return jax.tree.map(lambda a: a[None], held), *values

            weight_specs = {name: same if name == "rope" else ranked for name in weights}
            rest_specs = (ranked, *[same] * (len(rest) - 1)) if steps else (same,) * len(rest)
            out_specs = (ranked, same, same, same) if steps else same
            return jax.shard_map(
                on_one, mesh=self.mesh, in_specs=(weight_specs, *rest_specs), out_specs=out_specs, check_vma=False
            )(weights, *rest)

        return on_all


def storage_names(groups: Mapping[str, KVGroupSpec]) -> dict[str, str]:
    """KV group -> storage: groups of one pool whose arrays are equal share one, as their blocks are never shared."""
    known: dict[tuple[Any, ...], str] = {}
    return {name: known.setdefault((group.pool, group.arrays), name) for name, group in groups.items()}


def _rope_specs(plan: ExecutorPlan) -> tuple[RopeSpec, ...]:
    found = {
        value: None
        for part in plan.model.parts()
        for node in part.graph.nodes
        for _, value in node.attrs
        if isinstance(value, RopeSpec)
    }
    return tuple(found)


def _with_feedback(arrays: Mapping[str, jax.Array], feedback: jax.Array, state: StepState) -> jax.Array:
    """Token ids with each -1 replaced by what its sequence's row drew in the step before (0 where it drew nothing)."""
    token_ids = arrays["token_ids"]
    row = arrays["prev_row"][state.seq_ids]
    drawn = jnp.maximum(jnp.take(feedback, jnp.maximum(row, 0), mode="clip"), 0)
    return jnp.where(token_ids < 0, drawn, token_ids)
