"""One backend's module behind pluggy: its hooks are checked as it is loaded, and its answers as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from quire.device import hookspecs
from quire.device.backend_errors import backend_error
from quire.device.capabilities import CONTRACT_VERSION, Capabilities, DeviceReport, MachineLimits
from quire.device.contract import Executor, ExecutorPlan
from quire.device.older_contracts import plan_for
from quire.device.option_spec import OptionSpec, parse_options
from quire.device.plan_check import check_features, check_ops
from quire.errors import BackendError, ContractError, QuireError

_HOOKS = ("quire_probe", "quire_capabilities", "quire_create_executor")


class Plugin:
    """A loaded backend module. Its own failures come out as BackendError, never as its own exceptions.

    Attributes:
        contract: what the module states as `QUIRE_CONTRACT`, None where it states nothing.
        conformance_gaps: its `QUIRE_CONFORMANCE_GAPS`, case pattern -> reason, for `quire conform`.
    """

    def __init__(
        self,
        module: str,
        hook: Any,
        contract: tuple[int, int] | None = None,
        conformance_gaps: Mapping[str, str] | None = None,
    ) -> None:
        self._module, self._hook = module, hook
        self.contract = contract
        self.conformance_gaps: Mapping[str, str] = conformance_gaps or {}

    def probe(self, device: str, options: Mapping[str, str]) -> DeviceReport:
        """What the backend's probe found; one that raises or answers nonsense is reported as not available."""
        try:
            report = self._hook.quire_probe(device=device, options=options)
        except Exception as error:
            return DeviceReport(available=False, reason=f"its probe raised {type(error).__name__}: {error}")
        if not isinstance(report, DeviceReport):
            return DeviceReport(available=False, reason=f"its probe returned {type(report).__name__}, not DeviceReport")
        return report

    def capabilities(self, device: str, options: Mapping[str, str]) -> Capabilities:
        """What the device can do. Raises ConfigError for unknown options, ContractError for no proper answer."""
        specs = self.options(device)
        if specs is not None:
            parse_options(device, specs, options)
        answer = self._call("quire_capabilities", device, options=options)
        if not isinstance(answer, Capabilities):
            raise ContractError(
                f"quire_capabilities of {self._module} returned {type(answer).__name__}",
                because="the contract says Capabilities",
            )
        return answer

    def options(self, device: str) -> tuple[OptionSpec, ...] | None:
        """The options that the device has, or None where the backend does not say."""
        answer = self._call("quire_options", device)
        if answer is None:
            return None
        if not isinstance(answer, Sequence) or not all(isinstance(spec, OptionSpec) for spec in answer):
            raise ContractError(
                f"quire_options of {self._module} returned something else than OptionSpec",
                because="the contract says a sequence of them",
            )
        return tuple(answer)

    def create_executor(self, device: str, plan: ExecutorPlan) -> Executor:
        """An executor for the plan.

        Raises: BackendError for a graph with features of ops that were not declared, or with ops that were not and
            that the reference cannot lend.
        """
        capabilities = self.capabilities(device, plan.options)
        check_ops(plan, capabilities, device)
        check_features(plan, capabilities, device)
        plan = plan_for(self.contract or capabilities.contract, plan)
        executor = self._call("quire_create_executor", device, plan=plan)
        if executor is None:
            raise ContractError(
                f"quire_create_executor of {self._module} returned nothing", because="the contract says Executor"
            )
        return executor

    def measure_limits(self, device: str, options: Mapping[str, str]) -> MachineLimits | None:
        """The machine's limits measured now, or None where the backend does not measure them."""
        answer = self._call("quire_measure_limits", device, options=options)
        return answer if isinstance(answer, MachineLimits) else None

    def _call(self, hook: str, device: str, **arguments: Any) -> Any:
        try:
            return getattr(self._hook, hook)(device=device, **arguments)
        except QuireError:
            raise
        except Exception as error:
            raise backend_error(error, f"{hook} of {self._module} failed for device {device}") from error


def load_plugin(module: str, load: Callable[[], Any]) -> Plugin:
    """Imports a backend's module by `load` and checks its contract version and its hooks; calls none of them.

    Raises: BackendError when the import fails; ContractError when the module states a `QUIRE_CONTRACT` that this core
        does not speak, or a hook is missing, unknown to this core, or takes arguments that this core does not pass.
    """
    try:
        implementation = load()
    except Exception as error:
        raise BackendError(
            f"{module} cannot be imported",
            because=f"{type(error).__name__}: {error}",
            hint="installing what it needs, or uninstalling it",
        ) from error
    contract = _stated_contract(module, implementation)
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(implementation, name=module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise ContractError(
            f"{module} does not fit the contract",
            because=" ".join(str(error).split()),
            hint="the version of the backend that was made for this quire",
        ) from error
    missing = [hook for hook in _HOOKS if not getattr(manager.hook, hook).get_hookimpls()]
    if missing:
        raise ContractError(
            f"{module} does not implement {', '.join(missing)}",
            because="every backend implements all three hooks with quire.device.hookimpl",
        )
    return Plugin(module, manager.hook, contract, getattr(implementation, "QUIRE_CONFORMANCE_GAPS", None))


def check_contract(who: str, contract: tuple[int, int]) -> None:
    """Raises ContractError, in one line that says which of the two to update, unless this core speaks the version."""
    theirs, ours = ".".join(map(str, contract)), ".".join(map(str, CONTRACT_VERSION))
    line = f"{who} speaks contract {theirs}, this Quire speaks {ours}"
    if contract[0] > CONTRACT_VERSION[0] or (contract[0] == CONTRACT_VERSION[0] and contract[1] > CONTRACT_VERSION[1]):
        raise ContractError(line, because="the backend is newer", hint="a newer quire, or an older backend")
    if contract[0] < CONTRACT_VERSION[0]:
        raise ContractError(line, because="the backend is older", hint="a newer backend, or an older quire")


def _stated_contract(module: str, implementation: Any) -> tuple[int, int] | None:
    """The module's `QUIRE_CONTRACT`, checked, so that a plugin for another contract is refused before it is called."""
    stated = getattr(implementation, "QUIRE_CONTRACT", None)
    if stated is None:
        return None
    if not (isinstance(stated, tuple) and len(stated) == 2 and all(isinstance(number, int) for number in stated)):
        raise ContractError(
            f"{module} states QUIRE_CONTRACT = {stated!r}",
            because="it is a pair (major, minor)",
            hint=f"QUIRE_CONTRACT = {CONTRACT_VERSION}",
        )
    check_contract(module, stated)
    return stated
