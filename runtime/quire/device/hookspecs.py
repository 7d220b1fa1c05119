"""Hooks that a backend's module implements, with pluggy's marker `hookimpl` from this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pluggy

from quire.device.capabilities import Capabilities, DeviceReport, MachineLimits
from quire.device.contract import Executor, ExecutorPlan
from quire.device.option_spec import OptionSpec

PROJECT = "quire"
ENTRY_POINT_GROUP = "quire.backends"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def quire_probe(device: str, options: Mapping[str, str]) -> DeviceReport:  # type: ignore[empty-body]
    """Is the device here, and if not, why not. `device` is the entry point's name. Never raises; cheap."""


@hookspec(firstresult=True)
def quire_capabilities(device: str, options: Mapping[str, str]) -> Capabilities:  # type: ignore[empty-body]
    """What the device can do. Called only when it is available. Must not allocate device memory."""


@hookspec(firstresult=True)
def quire_create_executor(device: str, plan: ExecutorPlan) -> Executor:  # type: ignore[empty-body]
    """An executor for the plan. Raises BackendError with a reason when it cannot be made."""


@hookspec(firstresult=True)
def quire_measure_limits(device: str, options: Mapping[str, str]) -> MachineLimits:  # type: ignore[empty-body]
    """Optional: measures the device's read bandwidth and arithmetic peak, in about a second."""


@hookspec(firstresult=True)
def quire_options(device: str) -> Sequence[OptionSpec]:  # type: ignore[empty-body]
    """Optional, since contract 1.2: the options of the device. With it the core refuses bad ones before any other hook.

    Called where the device is asked for by name; must not import a framework.
    """
