"""Holds the devices that any machine has to the conformance kit, as long as the time lasts; says what was not run.

    python ci/conform.py --budget-s 240

The devices are run in the order of RUNS, two at once, each in a process of its own. Those that are required are run
whatever it takes. Of the others, what would begin after the budget is spent is not begun, what is running then is
stopped, and both are listed with the reason. Exit status: 1 when a device does not conform.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One call of `quire conform`.

    Attributes:
        levels: () = all of the kit. required: it is run also where the budget is spent.
    """

    device: str
    levels: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    required: bool = True

    @property
    def name(self) -> str:
        return " ".join((self.device, *self.options, *(self.levels or ("all levels",))))

    def words(self) -> list[str]:
        """The command."""
        flags = [word for level in self.levels for word in ("--level", level)]
        flags += [word for option in self.options for word in ("--device-option", option)]
        return [sys.executable, "-m", "quire.cli.main", "conform", "--quiet", "--device", self.device, *flags]


_JAX = ("platform=cpu",)
RUNS = (
    Run("torch"),
    Run("reference"),
    Run("cpu"),
    Run("template_ops"),
    Run("template_step"),
    *(Run("tpu", (level,), _JAX, required=False) for level in ("L0", "L1", "L6", "L2", "L4", "L3")),
)
"""The kit compiles each of its cases on JAX, which takes many minutes in all; what does not fit is run by the target
jax-cpu of ci/matrix.toml."""


def run_all(runs: Sequence[Run], budget_s: float, at_once: int = 2) -> int:
    """Runs what fits, some at once, and prints a line for each; the exit status."""
    end_s = time.monotonic() + budget_s
    with ThreadPoolExecutor(at_once) as pool:
        outcomes = list(pool.map(lambda run: _run_one(run, end_s, budget_s), runs))
    return 1 if False in outcomes else 0


def _run_one(run: Run, end_s: float, budget_s: float) -> bool | None:
    """Whether the device conforms; None where the time did not last."""
    start_s = time.monotonic()
    if not run.required and start_s >= end_s:
        print(f"-- {run.name}: NOT RUN, the budget of {budget_s:.0f} s is spent", flush=True)
        return None
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(
            run.words(),
            env=one_thread,
            capture_output=True,
            text=True,
            check=False,
            timeout=None if run.required else end_s - start_s,
        )
    except subprocess.TimeoutExpired:
        print(f"-- {run.name}: NOT RUN TO ITS END, stopped as the budget of {budget_s:.0f} s was spent", flush=True)
        return None
    conforms = ended.returncode == 0
    said = f"-- {run.name}: {'conforms' if conforms else 'DOES NOT CONFORM'} ({time.monotonic() - start_s:.0f} s)"
    print(said if conforms else f"{said}\n{ended.stdout}{ended.stderr}", flush=True)
    return conforms


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget-s", type=float, default=240.0, help="seconds for all of it (default: %(default)s)")
    return run_all(RUNS, parser.parse_args(arguments).budget_s)


if __name__ == "__main__":
    sys.exit(main())
