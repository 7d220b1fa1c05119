"""The contract between the core and devices: everything that the author of a backend imports from here.

Start with `hookimpl` and the three hooks of `quire.device.hookspecs`; return an `Executor` of your own, or
`GraphExecutor(library, plan)` over an `OpLibrary`.
"""

from __future__ import annotations

from quire.device.batch import (
    DerivedIndices,
    GroupBatch,
    StepBatch,
    StepResult,
    derive,
    pad,
    token_indices,
)
from quire.device.capabilities import CONTRACT_VERSION, Capabilities, DeviceReport, RowDeterminism
from quire.device.contract import (
    CacheHandle,
    Executor,
    ExecutorPlan,
    Kernel,
    KVPlan,
    LikelyStep,
    MemoryReport,
    OpLibrary,
    ParallelRank,
    Pending,
    QuantizedLibrary,
    StepContext,
)
from quire.device.device_sampling import NOT_FINITE, SamplingLibrary
from quire.device.dtypes import numpy_dtype
from quire.device.graph_executor import GraphExecutor
from quire.device.hookspecs import ENTRY_POINT_GROUP, hookimpl
from quire.device.library_hooks import LibraryHooks, PartKernel, RunStep
from quire.device.option_spec import OptionSpec, parse_options
from quire.device.plan_check import check_plan
from quire.device.plan_weights import PlanWeight, WeightUse, plan_weights
from quire.device.sliced_sampling import SlicedSampler
from quire.device.step_buckets import StepBuckets
from quire.device.step_context import step_context
from quire.device.step_executor import PaddedStep, PoolArray, StepExecutor
from quire.device.step_line import PendingStep, StartedStep, StepLine, fed_places
from quire.device.step_vector import StepField, StepLayout, StepShape, pack_step
from quire.device.weight_source import LoadProgress, WeightPiece, WeightSource
from quire.device.weight_stream import WeightReader, WeightStream
from quire.errors import BackendError, ConfigError, ContractError, InternalError
from quire.sampling.batch import FEATURES, LogprobRows, SampleResult, SamplingBatch, TokenLists, features_used
from quire.weights.schemes import QuantizedMatrix, WeightScheme, dequantize, quantize

__all__ = [
    "CONTRACT_VERSION",
    "ENTRY_POINT_GROUP",
    "FEATURES",
    "NOT_FINITE",
    "BackendError",
    "CacheHandle",
    "Capabilities",
    "ConfigError",
    "ContractError",
    "DerivedIndices",
    "DeviceReport",
    "Executor",
    "ExecutorPlan",
    "GraphExecutor",
    "GroupBatch",
    "InternalError",
    "KVPlan",
    "Kernel",
    "LibraryHooks",
    "LikelyStep",
    "LoadProgress",
    "LogprobRows",
    "MemoryReport",
    "OpLibrary",
    "OptionSpec",
    "ParallelRank",
    "PaddedStep",
    "PartKernel",
    "Pending",
    "PendingStep",
    "PoolArray",
    "PlanWeight",
    "QuantizedLibrary",
    "QuantizedMatrix",
    "RowDeterminism",
    "RunStep",
    "SampleResult",
    "SamplingBatch",
    "SamplingLibrary",
    "SlicedSampler",
    "StartedStep",
    "StepBatch",
    "StepBuckets",
    "StepContext",
    "StepExecutor",
    "StepField",
    "StepLayout",
    "StepLine",
    "StepResult",
    "StepShape",
    "TokenLists",
    "WeightPiece",
    "WeightReader",
    "WeightScheme",
    "WeightSource",
    "WeightStream",
    "WeightUse",
    "check_plan",
    "dequantize",
    "derive",
    "features_used",
    "fed_places",
    "hookimpl",
    "numpy_dtype",
    "pack_step",
    "pad",
    "parse_options",
    "plan_weights",
    "quantize",
    "step_context",
    "token_indices",
]
