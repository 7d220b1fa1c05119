"""L0: the plugin loads, says who it is, and refuses what it does not declare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from quire.device.capabilities import CONTRACT_VERSION
from quire.device.contract import ExecutorPlan
from quire.device.dtypes import numpy_dtype
from quire.errors import BackendError, ConfigError, QuireError
from quire.graph.ops import FUSED_OPS, OP_FEATURES, PLAIN_OPS
from quire.ops import DECLARED
from quire.sampling.batch import FEATURES
from quire.testing.conform.case import Case, CheckFailedError, Finding, NotApplicableError, require
from quire.testing.conform.op_case import op_model, op_weights
from quire.testing.conform.op_cases import fixed_cases
from quire.testing.conform.ops import require_on_device
from quire.testing.conform.subject import Dtypes, Subject
from quire.testing.conform.tiny_models import CONFIGS, tiny_model

PROBE_LIMIT_S = 2.0
"""Most that a second probe may take: `auto` asks every device."""

_UNKNOWN_OPTION = {"an_option_that_nobody_has": "1"}


def load_level(subject: Subject) -> Iterator[Case]:
    """The cases of L0."""
    for name, check in (
        ("contract_version", _contract_version),
        ("probe", _probe),
        ("capabilities", _capabilities),
        ("unknown_option", _unknown_option),
        ("unknown_option_of_a_plan", _unknown_plan_option),
        ("close_twice", _close_twice),
        ("closed_refuses_steps", _closed_refuses_steps),
    ):
        yield Case(f"L0/metadata/{name}", check)
    for what in (
        "act",
        "weight",
        "kv",
        "block_size",
        "group_kind",
        "weight_scheme",
        "tensor_parallel",
        "max_num_seqs",
        "max_num_batched_tokens",
    ):
        yield Case(f"L0/refuses/{what}", lambda s, what=what: _refuses(s, what))  # type: ignore[misc]
    for op in sorted(subject.capabilities.ops | subject.capabilities.fused_ops):
        yield Case(f"L0/has_op/{op}", lambda s, op=op: _has_op(s, op))  # type: ignore[misc]
    for kind in ("act", "weight", "kv"):
        for dtype in getattr(subject.capabilities, f"{kind}_dtypes"):
            yield Case(f"L0/has_dtype/{kind}/{dtype}", lambda s, k=kind, d=dtype: _has_dtype(s, k, d))  # type: ignore[misc]
    for size in subject.capabilities.block_sizes:
        yield Case(f"L0/has_block_size/{size}", lambda s, size=size: _has_block_size(s, size))  # type: ignore[misc]


def _contract_version(subject: Subject) -> Finding:
    stated = subject.plugin.contract
    if stated is None:
        raise CheckFailedError("the plugin's module does not state QUIRE_CONTRACT = (major, minor)")
    require(
        stated == subject.capabilities.contract,
        f"QUIRE_CONTRACT is {stated}, Capabilities.contract is {subject.capabilities.contract}",
    )
    return Finding(note=f"contract {stated}, this Quire speaks {CONTRACT_VERSION}")


def _probe(subject: Subject) -> Finding:
    subject.plugin.probe(subject.name, subject.options)
    start_s = time.perf_counter()
    report = subject.plugin.probe(subject.name, subject.options)
    seconds = time.perf_counter() - start_s
    require(seconds < PROBE_LIMIT_S, f"a repeated probe took {seconds:.1f} s, at most {PROBE_LIMIT_S} s is allowed")
    require(report.available or bool(report.reason), "the report says not available without a reason")
    require(not report.available or bool(report.name), "the report of an available device has no name")
    require(report.free_memory_bytes <= report.total_memory_bytes, "the report has more free memory than memory")
    for strange in (_UNKNOWN_OPTION, {"": ""}):
        answer = subject.plugin.probe(subject.name, {**subject.options, **strange})
        require(not answer.reason.startswith("its probe raised"), f"the probe raises: {answer.reason}")
    return Finding()


def _capabilities(subject: Subject) -> Finding:
    declared = subject.capabilities
    for name in ("act_dtypes", "weight_dtypes", "kv_dtypes", "block_sizes"):
        values = getattr(declared, name)
        require(len(values) > 0, f"{name} is empty")
        require(len(set(values)) == len(values), f"{name} names something twice: {values}")
    for name in ("act_dtypes", "weight_dtypes", "kv_dtypes"):
        for dtype in getattr(declared, name):
            numpy_dtype(dtype)
    for what, stray in (
        ("ops", declared.ops - PLAIN_OPS),
        ("fused_ops", declared.fused_ops - FUSED_OPS),
        ("op_features", declared.op_features - OP_FEATURES),
        ("device_sampling", declared.device_sampling - set(FEATURES)),
    ):
        require(not stray, f"{what} has {', '.join(sorted(stray))}, which this contract does not know")
    require(all(size > 0 for size in declared.block_sizes), f"block sizes are {declared.block_sizes}")
    require("plain" in declared.weight_schemes, "weight_schemes lacks plain")
    require(declared.async_depth >= 1, f"async_depth is {declared.async_depth}")
    require(declared.max_tp >= 1, f"max_tp is {declared.max_tp}")
    require(0 < declared.default_memory_utilization <= 1, "default_memory_utilization is not a share")
    require(
        declared.default_num_seqs <= declared.default_num_batched_tokens,
        "default_num_seqs is above default_num_batched_tokens",
    )
    again = subject.plugin.capabilities(subject.name, subject.options)
    require(declared == again, "asked twice, it declares other things")
    return Finding()


def _unknown_option(subject: Subject) -> Finding:
    options = {**subject.options, **_UNKNOWN_OPTION}
    return _refuses_option(lambda: subject.plugin.capabilities(subject.name, options))


def _unknown_plan_option(subject: Subject) -> Finding:
    plan = _plan(subject, subject.default_dtypes())
    plan = replace(plan, options={**subject.options, **_UNKNOWN_OPTION})
    return _refuses_option(lambda: subject.create(plan).close())


def _refuses_option(call: Callable[[], object]) -> Finding:
    try:
        call()
    except ConfigError as error:
        require("an_option_that_nobody_has" in str(error), f"the error does not name the option: {error}")
        return Finding()
    raise CheckFailedError("it takes an option that does not exist")


def _close_twice(subject: Subject) -> Finding:
    executor = subject.create(_plan(subject, subject.default_dtypes()))
    executor.close()
    executor.close()
    plan = _plan(subject, subject.default_dtypes())
    with subject.driver(plan, tiny_model(usable_family(subject)).weights(plan.model)) as driver:
        driver.run([(driver.line([1, 2, 3]), 3)])
        driver.executor.close()
    return Finding()


def _closed_refuses_steps(subject: Subject) -> Finding:
    plan = _plan(subject, subject.default_dtypes())
    with subject.driver(plan, tiny_model(usable_family(subject)).weights(plan.model), poison=False) as driver:
        batch = driver.batch([(driver.line([1, 2, 3]), 3)])
        driver.executor.close()
        try:
            driver.executor.submit(batch).result()
        except QuireError:
            return Finding()
    raise CheckFailedError("a closed executor takes a step")


def _refuses(subject: Subject, what: str) -> Finding:
    plan = _undeclared_plan(subject, what)
    try:
        subject.create(plan).close()
    except (BackendError, ConfigError):
        return Finding()
    except Exception as error:
        raise CheckFailedError(f"an undeclared {what} raises {type(error).__name__}, not BackendError") from error
    raise CheckFailedError(f"an undeclared {what} is not refused")


def _undeclared_plan(subject: Subject, what: str) -> ExecutorPlan:
    """A plan with one thing that the capabilities do not cover."""
    declared, plan = subject.capabilities, _plan(subject, subject.default_dtypes())
    if what in ("act", "weight", "kv"):
        other = [name for name in ("float32", "bfloat16", "float16") if name not in getattr(declared, f"{what}_dtypes")]
        if not other:
            raise NotApplicableError("it declares every dtype of the contract")
        return replace(plan, **{f"{what}_dtype": other[0]})  # type: ignore[arg-type]
    if what == "block_size":
        return replace(plan, block_size=max(declared.block_sizes) * 2 + 1)
    if what == "tensor_parallel":
        return replace(plan, parallel=replace(plan.parallel, world_size=declared.max_tp + 1))
    if what == "group_kind":
        groups = {name: replace(group, kind="latent") for name, group in plan.model.kv_groups.items()}
        if "latent" in declared.group_kinds:
            raise NotApplicableError("it declares latent caches")
        return replace(plan, model=replace(plan.model, kv_groups=groups))
    if what == "weight_scheme":
        embed = plan.model.embed
        weights = {name: replace(w, scheme="a_scheme_that_nobody_has") for name, w in embed.graph.weights.items()}
        embed = replace(embed, graph=replace(embed.graph, weights=weights))
        return replace(plan, model=replace(plan.model, embed=embed))
    most = getattr(declared, what)
    if most is None:
        raise NotApplicableError("it declares no limit")
    return replace(plan, **{what: most + 1})


def _has_op(subject: Subject, op: str) -> Finding:
    """The op runs on the device itself: the placement table says so."""
    if op not in DECLARED:
        raise CheckFailedError(f"op {op} is not in the op set")
    case = next(fixed_cases(op, subject.capabilities, 0))
    body = DECLARED[op].kit.body(case)
    model = op_model(case, body)
    plan = subject.op_plan(model, case.dtypes)
    executor = subject.create(plan)
    try:
        report = executor.load(op_weights(case, model, body), lambda done, total: None)
    finally:
        executor.close()
    require_on_device(subject, report, op)
    return Finding()


def _has_dtype(subject: Subject, kind: str, dtype: str) -> Finding:
    _runs(subject, _plan(subject, replace(subject.default_dtypes(), **{kind: dtype})))
    return Finding()


def _has_block_size(subject: Subject, size: int) -> Finding:
    _runs(subject, replace(_plan(subject, subject.default_dtypes()), block_size=size))
    return Finding()


def _runs(subject: Subject, plan: ExecutorPlan) -> None:
    """One step of two tokens goes through."""
    family = usable_family(subject)
    with subject.driver(plan, tiny_model(family).weights(plan.model), num_blocks=4) as driver:
        driver.run([(driver.line([1, 2]), 2)])


def usable_family(subject: Subject) -> str:
    """The first tiny model whose ops the device declares."""
    for family in CONFIGS:
        if tiny_model(family).ops() <= subject.capabilities.ops:
            return family
    raise NotApplicableError("it declares the ops of no tiny model")


def _plan(subject: Subject, dtypes: Dtypes) -> ExecutorPlan:
    return subject.plan(tiny_model(usable_family(subject)).graph, dtypes)
