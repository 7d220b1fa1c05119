"""Finds backends by entry point, loads the one that is asked for, and says why others are not usable.

Names come from package metadata; nothing is imported to list them. `auto` and `quire devices` import every
plugin, a name imports only its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from quire.device.capabilities import Capabilities, DeviceReport, MachineLimits
from quire.device.contract import Executor, ExecutorPlan
from quire.device.hookspecs import ENTRY_POINT_GROUP
from quire.device.option_spec import OptionSpec
from quire.device.plugin import Plugin, check_contract, load_plugin
from quire.errors import BackendError, ConfigError, QuireError

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class LoadedBackend:
    """A device that is here, speaks this core's contract, and is ready to make executors.

    Attributes:
        name: entry point's name, the value of `--device`. package, version: the distribution it came from.
        report, capabilities: what its hooks said. options: as given by the user.
        passed_over: (name, reason) of the devices that `auto` could not use; for the start-up report.
    """

    name: str
    package: str
    version: str
    report: DeviceReport
    capabilities: Capabilities
    options: Mapping[str, str]
    plugin: Plugin = field(repr=False)
    passed_over: tuple[tuple[str, str], ...] = ()

    def create_executor(self, plan: ExecutorPlan) -> Executor:
        """An executor for the plan. Raises BackendError with the backend's reason when it cannot be made."""
        return self.plugin.create_executor(self.name, plan)

    def measure_limits(self) -> MachineLimits | None:
        """The machine's limits measured now, or None where the backend does not measure them."""
        return self.plugin.measure_limits(self.name, self.options)


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One line of `quire devices`."""

    name: str
    package: str
    version: str
    report: DeviceReport


def device_names() -> tuple[str, ...]:
    """Names of all installed backends, sorted; imports none of them."""
    return tuple(sorted({entry.name for entry in _entries()}))


def resolve_device(name: str, options: Mapping[str, str] | None = None) -> LoadedBackend:
    """The backend called `name`, or with "auto" the first usable one in the order of `DeviceReport.priority`.

    "auto" never chooses a device whose priority is negative; such a one wants to be asked for by name.

    Raises: ConfigError for a name that no installed package has, or an option the backend does not know;
        ContractError for a backend made for another contract; BackendError when the device is not usable,
        with "auto" listing why each is not.
    """
    options = dict(options or {})
    if name == AUTO:
        return _first_usable(options)
    entry = _entry_of(name)
    plugin = load_plugin(entry.value, entry.load)
    report = plugin.probe(name, options)
    if not report.available:
        raise BackendError(f"device {name} is not available", because=report.reason, hint="`quire devices`")
    return _loaded(entry, plugin, report, options)


def _entry_of(name: str) -> EntryPoint:
    matching = [entry for entry in _entries() if entry.name == name]
    if not matching:
        raise ConfigError(
            f"device {name!r} is not installed",
            because=f"installed devices are {', '.join(device_names()) or 'none'}",
            hint="one of those, auto, or the package that brings it",
        )
    if len(matching) > 1:
        raise BackendError(
            f"device {name!r} is ambiguous",
            because=f"packages {', '.join(_package(entry)[0] for entry in matching)} all register it",
            hint="uninstalling all but one of them",
        )
    return matching[0]


def device_options(name: str) -> tuple[OptionSpec, ...] | None:
    """The options of one device, or None where its backend does not say. Raises as `resolve_device` for its plugin."""
    entry = _entry_of(name)
    return load_plugin(entry.value, entry.load).options(name)


def list_devices() -> list[DeviceRow]:
    """Every installed backend, usable or with the reason why not, in the order in which `auto` tries them."""
    candidates = [_Candidate.look(entry, {}) for entry in _entries()]
    return [DeviceRow(c.entry.name, *_package(c.entry), c.checked()) for c in sorted(candidates, key=_Candidate.order)]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An entry point, its plugin unless that could not be loaded, and what its probe said."""

    entry: EntryPoint
    plugin: Plugin | None
    report: DeviceReport

    @staticmethod
    def look(entry: EntryPoint, options: Mapping[str, str]) -> _Candidate:
        try:
            plugin = load_plugin(entry.value, entry.load)
        except BackendError as error:
            return _Candidate(entry, None, DeviceReport(available=False, reason=_one_line(error)))
        return _Candidate(entry, plugin, plugin.probe(entry.name, options))

    def order(self) -> tuple[int, str]:
        return -self.report.priority, self.entry.name

    def checked(self) -> DeviceReport:
        """The report; a device that is here but does not speak the contract is not available."""
        if self.plugin is None or not self.report.available:
            return self.report
        try:
            _loaded(self.entry, self.plugin, self.report, {})
        except QuireError as error:
            return DeviceReport(available=False, reason=_one_line(error), priority=self.report.priority)
        return self.report


def _first_usable(options: Mapping[str, str]) -> LoadedBackend:
    refusals: list[tuple[str, str]] = []
    by_name_only: list[str] = []
    candidates = [_Candidate.look(entry, options) for entry in _entries()]
    chosen: LoadedBackend | None = None
    for candidate in sorted(candidates, key=_Candidate.order):
        if candidate.plugin is None or not candidate.report.available:
            refusals.append((candidate.entry.name, candidate.report.reason))
        elif candidate.report.priority < 0:
            by_name_only.append(candidate.entry.name)
        elif chosen is None:
            try:
                chosen = _loaded(candidate.entry, candidate.plugin, candidate.report, options)
            except BackendError as error:
                refusals.append((candidate.entry.name, _one_line(error)))
    if chosen is None:
        reasons = [*refusals, *((name, "chosen by name only") for name in by_name_only)]
        raise BackendError(
            "no device is usable",
            because="; ".join(map(": ".join, reasons)) or "no backend is installed",
            hint="`quire devices`, or "
            + (f"--device {by_name_only[0]}" if by_name_only else "a package that brings a backend"),
        )
    return LoadedBackend(
        chosen.name,
        chosen.package,
        chosen.version,
        chosen.report,
        chosen.capabilities,
        chosen.options,
        chosen.plugin,
        tuple(refusals),
    )


def _loaded(entry: EntryPoint, plugin: Plugin, report: DeviceReport, options: Mapping[str, str]) -> LoadedBackend:
    capabilities = plugin.capabilities(entry.name, options)
    package, version = _package(entry)
    check_contract(f"device {entry.name} ({package} {version})", capabilities.contract)
    return LoadedBackend(entry.name, package, version, report, capabilities, options, plugin)


def _entries() -> list[EntryPoint]:
    """Entry points of the group, each once, by name."""
    found = {(entry.name, entry.value, _package(entry)[0]): entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return [found[key] for key in sorted(found)]


def _package(entry: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that registers the entry point."""
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else ("unknown package", "")


def _one_line(error: QuireError) -> str:
    return f"{error.what}: {error.because}" if error.because else error.what
