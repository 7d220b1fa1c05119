"""Finding, checking and choosing backends, with packages made of temporary dist-info folders."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quire.device import ContractError, registry
from quire.device.capabilities import CONTRACT_VERSION
from quire.device.plan_check import check_plan
from quire.device.registry import device_names, list_devices, resolve_device
from quire.errors import BackendError, ConfigError
from quire.graph.ir import CacheRef, Part, Src
from quire.graph.ops import FUSED_OPS, PLAIN_OPS
from quire.graph.passes import optimize
from quire.graph.shapes import T, shape_of
from quire.graph.trace import Tracer
from quire.reference.device import CAPABILITIES
from tests.device.conftest import make_plan

GOOD = """
    from quire.device import Capabilities, ConfigError, DeviceReport, hookimpl

    @hookimpl
    def quire_probe(device, options):
        return DeviceReport(available={available}, reason="{reason}", name="chip", priority={priority})

    @hookimpl
    def quire_capabilities(device, options):
        if set(options) - {{"speed"}}:
            raise ConfigError("no such option")
        return Capabilities(contract={contract}, act_dtypes=("float32",), weight_dtypes=("float32",),
                            kv_dtypes=("float32",), block_sizes=(16,), ops=frozenset())

    @hookimpl
    def quire_create_executor(device, plan):
        return "executor of " + device if plan.block_size == 16 else None
"""

Install = Callable[..., None]


def _module(package: str, folder: Path) -> str:
    """A module name that no other test has."""
    return f"{package}_{folder.name}".replace("-", "_")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package with one backend, and hides the real ones."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    real = registry.entry_points

    def only_temporary(group: str) -> list[object]:
        return [e for e in real(group=group) if e.dist is not None and e.dist.name.startswith("tmp-")]

    monkeypatch.setattr(registry, "entry_points", only_temporary)

    def write(
        name: str,
        source: str = GOOD,
        *,
        package: str | None = None,
        available: bool = True,
        reason: str = "",
        priority: int = 0,
        contract: tuple[int, int] = CONTRACT_VERSION,
    ) -> None:
        package = package or f"tmp-{name}"
        module = _module(package, tmp_path)
        text = textwrap.dedent(source)
        if source is GOOD:
            text = text.format(available=available, reason=reason, priority=priority, contract=contract)
        (tmp_path / f"{module}.py").write_text(text)
        info = tmp_path / f"{package.replace('-', '_')}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[quire.backends]\n{name} = {module}\n")

    return write


def test_a_named_backend_is_the_only_one_imported(install: Install, tmp_path: Path) -> None:
    install("alpha")
    install("beta")
    assert device_names() == ("alpha", "beta")
    alpha, beta = _module("tmp-alpha", tmp_path), _module("tmp-beta", tmp_path)
    assert alpha not in sys.modules
    backend = resolve_device("alpha", {"speed": "9"})
    assert alpha in sys.modules
    assert beta not in sys.modules
    assert (backend.name, backend.package, backend.version) == ("alpha", "tmp-alpha", "2.5")
    assert backend.report.name == "chip"
    assert backend.options == {"speed": "9"}
    assert backend.create_executor(make_plan(block_size=16)) == "executor of alpha"  # type: ignore[comparison-overlap]


def test_an_executor_that_is_nothing_breaks_the_contract(install: Install) -> None:
    install("alpha")
    with pytest.raises(ContractError, match="returned nothing"):
        resolve_device("alpha").create_executor(make_plan(block_size=8))


@pytest.mark.parametrize(("feature", "attrs"), [("sinks", {}), ("alibi", {"alibi": 8.0})])
def test_a_feature_of_an_op_that_came_later_is_not_left_out_silently(
    install: Install, feature: str, attrs: dict[str, float]
) -> None:
    install("alpha")  # declares no op_features, as a backend that was written before they were
    part = _attention_layer(feature == "sinks", **attrs)
    plan = make_plan(block_size=16)
    model = replace(plan.model, layers=(part, *plan.model.layers))
    with pytest.raises(BackendError, match=f"does not implement paged_attention.{feature}"):
        resolve_device("alpha").create_executor(replace(plan, model=model))


@pytest.mark.parametrize(("stated", "shown"), [((1, 1), True), ((1, 2), False)])
def test_a_plugin_of_contract_1_1_sees_the_nodes_that_it_promised(
    install: Install, stated: tuple[int, int], shown: bool
) -> None:
    source = GOOD.format(available=True, reason="", priority=0, contract=stated)
    answer = 'return "executor of " + device if plan.block_size == 16 else None'
    install("alpha", source.replace(answer, "return plan") + f"\n    QUIRE_CONTRACT = {stated}\n")
    plan = make_plan(block_size=16)
    plan = replace(plan, model=replace(plan.model, layers=(_attention_layer(sinks=False),)))
    seen: Any = resolve_device("alpha").create_executor(plan)
    (node,) = seen.model.layers[0].graph.nodes
    assert node.weights == (("",) if shown else ())
    assert ("alibi" in dict(node.attrs)) == shown
    assert "v_head_dim" not in dict(node.attrs)


def test_an_op_that_the_device_does_not_declare_is_named_before_anything_is_built(install: Install) -> None:
    source = GOOD.format(available=True, reason="", priority=0, contract=CONTRACT_VERSION)
    ops = PLAIN_OPS - {"paged_attention", "linear"}
    install("alpha", source.replace("ops=frozenset()", f"ops=frozenset({sorted(ops)})"))
    backend, plan = resolve_device("alpha"), make_plan(block_size=16)
    with pytest.raises(
        BackendError, match=r"device alpha does not implement paged_attention \(needed by layers.0"
    ) as e:
        backend.create_executor(plan)
    assert e.value.hint
    assert "linear" not in str(e.value)  # the reference may run it
    with pytest.raises(BackendError, match=r"linear \(needed by .*\), paged_attention \(needed by"):
        backend.create_executor(replace(plan, strict=True))


def test_a_fused_op_is_the_executors_own_business() -> None:
    """The reference runs them all, and asks for none."""
    plan = make_plan(block_size=16)
    plan = replace(plan, model=optimize(plan.model, FUSED_OPS))
    resolve_device("reference").create_executor(plan)
    with pytest.raises(BackendError, match="device alpha does not implement add_rms_norm"):
        check_plan(plan, CAPABILITIES, "alpha")


def test_an_executor_of_its_own_runs_every_op_itself() -> None:
    plan = make_plan(block_size=16)
    check_plan(plan, CAPABILITIES, "alpha")
    with pytest.raises(BackendError, match=r"device alpha does not implement linear \(needed by layers.0 and"):
        check_plan(plan, replace(CAPABILITIES, ops=CAPABILITIES.ops - {"linear"}), "alpha")


def test_a_device_that_runs_no_graph_is_asked_for_no_op() -> None:
    plan = make_plan(block_size=16)
    check_plan(plan, replace(CAPABILITIES, ops=frozenset()), "stand-in")


def _attention_layer(sinks: bool, **attrs: float) -> Part:
    t = Tracer()
    cache = t.cache("kv", CacheRef("full", 0))
    weight = t.weight("sinks", (4,), Src("sinks", shape_of(4))) if sinks else None
    t.output("out", t.paged_attention(t.input("q", (T, 4, 8)), cache, weight, scale=1.0, **attrs))
    return t.part("layer.")


def test_an_unknown_name_lists_the_known_ones(install: Install) -> None:
    install("alpha")
    install("beta")
    with pytest.raises(ConfigError, match=r"device 'gamma' is not installed\n.*alpha, beta"):
        resolve_device("gamma")


def test_an_absent_device_says_why(install: Install) -> None:
    install("alpha", available=False, reason="no /dev/alpha")
    with pytest.raises(BackendError, match=r"alpha is not available\n  because: no /dev/alpha"):
        resolve_device("alpha")


@pytest.mark.parametrize(
    ("contract", "word"),
    [
        ((CONTRACT_VERSION[0] + 1, 0), "newer"),
        ((CONTRACT_VERSION[0], CONTRACT_VERSION[1] + 1), "newer"),
        ((CONTRACT_VERSION[0] - 1, 9), "older"),
    ],
)
def test_another_contract_is_refused_in_one_line(install: Install, contract: tuple[int, int], word: str) -> None:
    install("alpha", contract=contract)
    with pytest.raises(ContractError, match=f"the backend is {word}") as caught:
        resolve_device("alpha")
    theirs, ours = ".".join(map(str, contract)), ".".join(map(str, CONTRACT_VERSION))
    assert caught.value.what == f"device alpha (tmp-alpha 2.5) speaks contract {theirs}, this Quire speaks {ours}"
    assert word in list_devices()[0].report.reason
    assert not list_devices()[0].report.available


def test_an_import_failure_is_a_reason(install: Install) -> None:
    install("alpha", "import a_module_that_nobody_has\n")
    with pytest.raises(BackendError, match=r"cannot be imported\n.*a_module_that_nobody_has"):
        resolve_device("alpha")
    (row,) = list_devices()
    assert not row.report.available
    assert "a_module_that_nobody_has" in row.report.reason


def test_hooks_that_do_not_fit_are_named(install: Install) -> None:
    install(
        "extra",
        GOOD.format(available=True, reason="", priority=0, contract=(1, 0))
        + """
    @hookimpl
    def quire_fly(device):
        return 1
""",
    )
    install(
        "wrong",
        """
    from quire.device import hookimpl

    @hookimpl
    def quire_probe(device, altitude):
        return None
""",
    )
    install(
        "partial",
        """
    from quire.device import DeviceReport, hookimpl

    @hookimpl
    def quire_probe(device):
        return DeviceReport(available=True)
""",
    )
    for name, match in (
        ("extra", "quire_fly"),
        ("wrong", "altitude"),
        ("partial", "does not implement quire_capabilities, quire_create_executor"),
    ):
        with pytest.raises(ContractError, match=match):
            resolve_device(name)
    assert all(not row.report.available for row in list_devices())


@pytest.mark.parametrize(("body", "reason"), [("raise OSError('bus')", "OSError: bus"), ("return True", "bool")])
def test_a_probe_that_misbehaves_is_a_reason(install: Install, body: str, reason: str) -> None:
    source = GOOD.format(available=True, reason="", priority=0, contract=(1, 0))
    start, end = source.index("return DeviceReport"), source.index("@hookimpl\n    def quire_capabilities")
    install("alpha", source[:start] + body + "\n\n    " + source[end:])
    with pytest.raises(BackendError, match=reason):
        resolve_device("alpha")
    assert reason in list_devices()[0].report.reason


def test_auto_takes_the_first_usable_by_priority_and_says_what_it_passed_over(install: Install) -> None:
    install("slow", priority=-100)
    install("fast", available=False, reason="no driver", priority=50)
    install("broken", "raise RuntimeError('half installed')\n")
    install("future", contract=(99, 0), priority=70)
    install("good", priority=10)
    backend = resolve_device("auto")
    assert backend.name == "good"
    passed_over = dict(backend.passed_over)
    assert set(passed_over) == {"fast", "broken", "future"}
    assert passed_over["fast"] == "no driver"
    assert "half installed" in passed_over["broken"]
    assert "99.0" in passed_over["future"]
    assert [row.name for row in list_devices()] == ["future", "fast", "good", "broken", "slow"]


def test_auto_never_takes_a_device_of_negative_priority(install: Install) -> None:
    install("fake", priority=-1)
    install("fast", available=False, reason="no driver", priority=50)
    with pytest.raises(BackendError, match="no device is usable") as caught:
        resolve_device("auto")
    assert caught.value.because == "fast: no driver; fake: chosen by name only"
    assert "--device fake" in caught.value.hint
    assert resolve_device("fake").name == "fake"
    install("plain", priority=0)
    assert resolve_device("auto").name == "plain"


def test_auto_lists_every_refusal(install: Install) -> None:
    install("fast", available=False, reason="no driver", priority=50)
    install("broken", "raise RuntimeError('half installed')\n")
    with pytest.raises(BackendError, match="no device is usable") as caught:
        resolve_device("auto")
    assert "fast: no driver; broken: " in caught.value.because
    assert "half installed" in caught.value.because


def test_auto_without_any_backend(install: Install) -> None:
    with pytest.raises(BackendError, match="no backend is installed"):
        resolve_device("auto")


def test_options_that_the_chosen_device_does_not_know_are_refused(install: Install) -> None:
    install("alpha")
    for name in ("alpha", "auto"):
        with pytest.raises(ConfigError, match="no such option"):
            resolve_device(name, {"colour": "red"})


def test_two_packages_with_one_name_are_both_named(install: Install) -> None:
    install("alpha", package="tmp-first")
    install("alpha", package="tmp-second")
    with pytest.raises(BackendError, match=r"ambiguous\n.*tmp-first, tmp-second"):
        resolve_device("alpha")
    assert [row.package for row in list_devices()] == ["tmp-first", "tmp-second"]


def test_capabilities_that_fail_are_the_backends_fault(install: Install) -> None:
    source = GOOD.format(available=True, reason="", priority=0, contract=(1, 0))
    install("alpha", source.replace("ops=frozenset()", "ops=frozenset(), teleport=True"))
    with pytest.raises(BackendError, match="teleport"):
        resolve_device("alpha")


def test_a_stated_contract_is_checked_before_any_hook_is_called(install: Install) -> None:
    source = (
        GOOD.format(available=True, reason="", priority=0, contract=(1, 0))
        .replace("return DeviceReport", "raise AssertionError; return DeviceReport")
        .replace("ops=frozenset()", "ops=frozenset(), teleport=True")
    )
    for name, stated, match in (
        ("newer", "(1, 99)", r"speaks contract 1\.99, this Quire speaks 1\.2\n.*newer"),
        ("older", "(0, 9)", r"speaks contract 0\.9.*\n.*older"),
        ("text", "'1.0'", "is a pair"),
    ):
        install(name, source + f"\n    QUIRE_CONTRACT = {stated}\n")
        with pytest.raises(ContractError, match=match) as caught:
            resolve_device(name)
        assert "raised" not in str(caught.value)
    assert all(not row.report.available for row in list_devices())


def test_a_stated_contract_that_fits_is_kept(install: Install) -> None:
    source = GOOD.format(available=True, reason="", priority=0, contract=(1, 0))
    install("alpha", source + "\n    QUIRE_CONTRACT = (1, 0)\n")
    assert resolve_device("alpha").plugin.contract == (1, 0)


def test_the_reference_is_installed_and_usable() -> None:
    assert "reference" in device_names()
    backend = resolve_device("reference")
    assert backend.package == "quire"
    assert backend.capabilities.row_determinism == "batch_invariant"
    with pytest.raises(ConfigError, match="colour"):
        resolve_device("reference", {"colour": "red"})


def test_listing_names_imports_no_backend() -> None:
    code = "import sys; from quire.device.registry import device_names; print(device_names(), *sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "'reference'" in out
    assert "quire.reference.device" not in out
    assert "quire_cpu.plugin" not in out.split(")")[1]


def test_options_are_checked_before_the_backend_sees_them(install: Install) -> None:
    hook = (
        "\n    from quire.device import OptionSpec\n"
        "    @hookimpl\n"
        "    def quire_options(device):\n"
        "        return [OptionSpec(name='speed', type='integer', help='speed', default='8', least=1)]\n"
    )
    source = GOOD.format(available=True, reason="", priority=0, contract=(1, 2))
    install("lists", source + hook)
    install("silent", source)
    resolve_device("lists", {"speed": "4"})
    for wrong in ({"sped": "4"}, {"speed": "0"}):
        with pytest.raises(ConfigError, match="spe"):
            resolve_device("lists", wrong)
    assert [spec.name for spec in registry.device_options("lists") or ()] == ["speed"]
    assert registry.device_options("silent") is None


def test_options_of_another_kind_are_a_fault_of_the_plugin(install: Install) -> None:
    hook = "\n    @hookimpl\n    def quire_options(device):\n        return ['lanes']\n"
    install("odd", GOOD.format(available=True, reason="", priority=0, contract=(1, 2)) + hook)
    with pytest.raises(ContractError, match="something else than OptionSpec"):
        resolve_device("odd")
