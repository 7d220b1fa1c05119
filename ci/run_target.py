"""Runs the steps of one target of ci/matrix.toml on this machine: what a vendor's runner executes.

    python ci/run_target.py --target cuda-sm_90 --results ci/results
    python ci/run_target.py --list                      all targets
    python ci/run_target.py --github cuda-sm_90,...     the matrix of a workflow: hosted targets, and those named

Needs nothing but Python 3.11. Every step is run, also after one that failed; the exit status says whether all passed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATRIX = ROOT / "ci" / "matrix.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One entry of the matrix.

    Attributes:
        device: value of `--device`, "" where nothing is run on one. hardware: for people. chip: as compilers call it.
        runner: labels. own_runner: GitHub has none of that kind. before: commands ahead of the steps.
        extras: of the package, as "[cuda]". packages: further ones. options: of the backend. env: of every command.
    """

    name: str
    hardware: str
    runner: tuple[str, ...]
    steps: tuple[str, ...]
    device: str = ""
    own_runner: bool = False
    chip: str = ""
    extras: str = ""
    packages: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """Commands to run in order; `output` names a file for what they print."""

    about: str
    run: tuple[str, ...]
    output: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a target, filled in."""

    step: str
    words: tuple[str, ...]
    output: Path | None


def read_matrix(path: Path = MATRIX) -> tuple[dict[str, Target], dict[str, Step]]:
    """Targets and steps by name. Raises ValueError where the file is not a matrix."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    if data.get("schema") != 1:
        raise ValueError(f"{path} has schema {data.get('schema')}, this program reads 1")
    steps = {name: Step(**_tuples(entry)) for name, entry in data["steps"].items()}
    targets: dict[str, Target] = {}
    for entry in data["target"]:
        target = Target(**_tuples(entry))
        unknown = sorted(set(target.steps) - set(steps))
        if unknown or target.name in targets:
            raise ValueError(f"target {target.name}: {f'no step {unknown[0]}' if unknown else 'its name is taken'}")
        targets[target.name] = target
    return targets, steps


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def commands(target: Target, steps: Mapping[str, Step], results: Path, only: Sequence[str] = ()) -> list[Command]:
    """The commands of a target's steps, in order."""
    values = {
        "python": shlex.quote(sys.executable),
        "quire": f"{shlex.quote(sys.executable)} -m quire.cli.main",
        "name": target.name,
        "device": target.device,
        "chip": target.chip,
        "extras": target.extras,
        "packages": " ".join(map(shlex.quote, target.packages)),
        "options": " ".join(f"--device-option {shlex.quote(f'{key}={text}')}" for key, text in target.options.items()),
        "results": shlex.quote(str(results)),
    }
    found = [
        Command("before", tuple(shlex.split(text.format_map(values))), None)
        for text in target.before
        if not only or "install" in only
    ]
    for name in target.steps:
        if only and name not in only:
            continue
        file = steps[name].output.format_map({**values, "results": str(results)})
        output = Path(file) if file else None
        found += [Command(name, tuple(shlex.split(text.format_map(values))), output) for text in steps[name].run]
    return found


def run(found: Sequence[Command], env: Mapping[str, str]) -> int:
    """Runs commands from the checkout's root and prints how each went; 0 when all passed."""
    outcomes: list[tuple[str, int, float]] = []
    whole = {**os.environ, **env}
    for command in found:
        print(f"\n== {command.step}: {shlex.join(command.words)}", flush=True)
        start_s = time.monotonic()
        if command.output is None:
            code = subprocess.run(command.words, cwd=ROOT, env=whole, check=False).returncode
        else:
            with command.output.open("w", encoding="utf-8") as file:
                code = subprocess.run(command.words, cwd=ROOT, env=whole, stdout=file, check=False).returncode
        outcomes.append((command.step, code, time.monotonic() - start_s))
    print()
    for step, code, seconds in outcomes:
        print(f"{step:<16} {'passed' if code == 0 else f'FAILED with {code}'} in {seconds:.0f} s")
    return 0 if all(code == 0 for _, code, _ in outcomes) else 1


def github_matrix(targets: Mapping[str, Target], own_runners: Sequence[str]) -> list[dict[str, Any]]:
    """Targets that have a runner: hosted ones, and those of `own_runners`. Raises ValueError on an unknown name."""
    unknown = sorted(set(own_runners) - set(targets))
    if unknown:
        raise ValueError(f"no target {', '.join(unknown)} in {MATRIX.name}")
    return [
        {"name": target.name, "runner": list(target.runner)}
        for target in targets.values()
        if not target.own_runner or target.name in own_runners
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--target", help="run this one")
    what.add_argument("--list", action="store_true", help="name the targets")
    what.add_argument("--github", metavar="NAMES", help="JSON of hosted targets, and of these")
    parser.add_argument("--step", action="append", default=[], help="only this step, may be repeated")
    parser.add_argument("--results", type=Path, default=ROOT / "ci" / "results", help="folder for JSON results")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    args = parser.parse_args(arguments)
    targets, steps = read_matrix()
    if args.list:
        for target in targets.values():
            print(f"{target.name:<16} {target.hardware:<48} {' '.join(target.runner):<28} {' '.join(target.steps)}")
        return 0
    if args.github is not None:
        print(json.dumps(github_matrix(targets, [name.strip() for name in args.github.split(",") if name.strip()])))
        return 0
    if args.target not in targets:
        parser.error(f"no target {args.target!r}; `--list` names them")
    strange = sorted(set(args.step) - set(targets[args.target].steps))
    if strange:
        parser.error(f"target {args.target} has no step {strange[0]}; it has {', '.join(targets[args.target].steps)}")
    found = commands(targets[args.target], steps, args.results.resolve(), args.step)
    env = targets[args.target].env
    if args.dry_run:
        settings = "".join(f"{name}={shlex.quote(value)} " for name, value in env.items())
        print("\n".join(settings + shlex.join(command.words) for command in found))
        return 0
    args.results.mkdir(parents=True, exist_ok=True)
    return run(found, env)


if __name__ == "__main__":
    sys.exit(main())
