"""Holds the devices that any machine has to the conformance kit, as long as the time lasts; says what was not run.

    python ci/conform.py --budget-s 240

The devices are run in the order of RUNS, each in a process of its own. What would begin after the budget is spent is
not begun, what is running then is stopped, and both are listed with the reason. Exit status: 1 when a device does not
conform or a run that is required did not end in time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One call of `quire conform`.

    Attributes:
        levels: () = all of the kit. required: it must end within the budget, else the exit status is 1.
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
    Run("cpu"),
    Run("reference"),
    Run("torch"),
    Run("tpu", ("L0",), _JAX),
    *(Run("tpu", (level,), _JAX, required=False) for level in ("L6", "L1", "L2", "L4", "L3")),
)
"""On two quiet cores the required ones take about three minutes. The kit compiles each of its cases on JAX, which takes
ten minutes in all; what does not fit is run by the target jax-cpu of ci/matrix.toml."""


def run_all(runs: Sequence[Run], budget_s: float) -> int:
    """Runs what fits and prints one line for each; the exit status."""
    end_s = time.monotonic() + budget_s
    failed, missing = [], []
    for run in runs:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            print(f"-- {run.name}: NOT RUN, the budget of {budget_s:.0f} s is spent", flush=True)
            missing.append(run)
            continue
        start_s = time.monotonic()
        try:
            ended = subprocess.run(run.words(), capture_output=True, text=True, timeout=left_s, check=False)
        except subprocess.TimeoutExpired:
            print(f"-- {run.name}: NOT RUN TO ITS END, stopped as the budget of {budget_s:.0f} s was spent", flush=True)
            missing.append(run)
            continue
        print(f"-- {run.name}: {'conforms' if ended.returncode == 0 else 'DOES NOT CONFORM'}"
              f" ({time.monotonic() - start_s:.0f} s)", flush=True)
        if ended.returncode:
            print(ended.stdout + ended.stderr, flush=True)
            failed.append(run)
    late = [run for run in missing if run.required]
    if late:
        print(f"these must fit into the budget: {', '.join(run.name for run in late)}")
    return 1 if failed or late else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget-s", type=float, default=240.0, help="seconds for all of it (default: %(default)s)")
    return run_all(RUNS, parser.parse_args(arguments).budget_s)


if __name__ == "__main__":
    sys.exit(main())
