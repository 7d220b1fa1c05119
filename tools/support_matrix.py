"""Writes docs/support-matrix.md: what passed, failed or was never run, for each target of ci/matrix.toml.

    python tools/support_matrix.py                                   from ci/results/, to docs/support-matrix.md
    python tools/support_matrix.py --results DIR --output FILE       from other results
    python tools/support_matrix.py --check                           1 when the page is not what the results say

A result is `quire conform --json DIR/TARGET.json`, `python -m quire_torch.aot --json > DIR/aot-torch.json`, or
`python -m quire_tpu.aot --json > DIR/aot-tpu.json`. Nothing is run here, and a target without a result is shown as
untested. Needs nothing but Python 3.11.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MATRIX, RESULTS, PAGE = ROOT / "ci" / "matrix.toml", ROOT / "ci" / "results", ROOT / "docs" / "support-matrix.md"

UNTESTED = "untested"
AOT_FILES = ("aot-torch", "aot-tpu")
"""Results of compilers, beside those of the kit."""

NOT_TRIED = ("it needs several ranks", "tensor parallelism needs two devices")
"""Beginnings of the kit's reasons for cases that it cannot judge on any device."""

LEVELS = {"L0": "metadata", "L1": "memory", "L2": "ops", "L3": "steps", "L4": "scheduling", "L6": "determinism"}
NOT_IN_KIT = {"L5": "serving", "L7": "soak", "L8": "share of limit"}

FEATURES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Dtypes": {
        f"{what} {dtype}": (pattern.format(dtype),)
        for what, pattern in (
            ("compute", "L3/*/act={},*"),
            ("weights", "L0/has_dtype/weight/{}"),
            ("KV", "L0/has_dtype/kv/{}"),
        )
        for dtype in ("float32", "bfloat16", "float16")
    }
    | {"KV int8": ("L0/has_dtype/kv/int8",)},
    "Models": {
        "qwen3": ("L3/qwen3*",),
        "gemma2": ("L3/gemma2*",),
        "mixtral": ("L3/mixtral*",),
        "gpt2": ("L3/gpt2*",),
    },
    "Serving": {
        "chunked prefill": ("L3/*/chunked/*",),
        "prefix cache": ("L3/*/cached_prefix/*",),
        "copy on write": ("L3/*/copied_block/*",),
        "overlapped steps": ("L3/*/token_feedback/*",),
        "sampling": ("L3/*/sampled_tokens/*",),
        "pages to the host": ("L1/pages/round_trip/*",),
        "same bits in any batch": ("L6/*/batch_invariant/*",),
        "tensor parallelism": ("L3/*/two_ranks/*",),
    },
}
"""Table -> column -> patterns over the kit's cases. A column passes where every case that applies does."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target as the page needs it; `result` is the kit's JSON, None = never run."""

    name: str
    hardware: str
    device: str
    chip: str
    result: Mapping[str, Any] | None

    def state(self, patterns: Iterable[str]) -> str:
        """pass, **fail**, gap, no (not declared), or untested, over the cases that match a pattern."""
        chosen = tuple(patterns)
        levels = {pattern.partition("/")[0] for pattern in chosen}
        if self.result is None or not levels <= set(self.result["levels"]):
            return UNTESTED
        cases = [case for case in self.result["cases"] if any(fnmatchcase(case["name"], pattern) for pattern in chosen)]
        found = Counter(case["status"] for case in cases)
        if found["failed"] or found["unexpected pass"]:
            return "**fail**"
        if found["gap"]:
            return "gap"
        if found["passed"]:
            return "pass"
        return UNTESTED if any(case["reason"].startswith(NOT_TRIED) for case in cases) else "no"

    def level(self, level: str) -> str:
        """A level's counts: what passed of what applies."""
        if self.result is None or level not in self.result["levels"]:
            return UNTESTED
        counts = self.result["levels"][level]
        bad, gaps = counts["failed"] + counts["unexpected_pass"], counts["gap"]
        judged = counts["passed"] + bad + gaps
        text = f"{counts['passed']} of {judged}"
        return f"**{text}**" if bad else f"{text}, {gaps} gaps" if gaps else text


def read_targets(matrix: Path, results: Path) -> tuple[list[Target], dict[str, Any]]:
    """Targets of the matrix with their results, and the compilers' results by file.

    Raises ValueError for a result that belongs to no target, or to another device than its target's.
    """
    entries = tomllib.loads(matrix.read_text(encoding="utf-8"))["target"]
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    compiled = {name: found.pop(name) for name in AOT_FILES if name in found}
    devices = {entry["name"]: entry["device"] for entry in entries if entry.get("device")}
    for name, result in found.items():
        if name not in devices:
            raise ValueError(f"{name}.json belongs to no target of {matrix.name}")
        if result["schema"] != 1 or result["device"] != devices[name]:
            raise ValueError(
                f"{name}.json: schema {result['schema']}, device {result['device']}; expected 1, {devices[name]}"
            )
    return [
        Target(entry["name"], entry["hardware"], entry["device"], entry.get("chip", ""), found.get(entry["name"]))
        for entry in entries
        if entry.get("device")
    ], compiled


def page(targets: Sequence[Target], compiled: Mapping[str, Any]) -> str:
    """The page."""
    return (
        "\n".join(
            [
                *_head(targets),
                *_levels(targets),
                *_features(targets),
                *_ops(targets),
                *_compiled(targets, compiled),
                *_shortcomings(targets),
            ]
        )
        + "\n"
    )


def _head(targets: Sequence[Target]) -> Iterator[str]:
    run = sum(target.result is not None for target in targets)
    yield "# Support matrix"
    yield ""
    yield "Generated by `python tools/support_matrix.py` from the results in `ci/results/`; do not edit."
    yield f"Targets are those of `ci/matrix.toml`. {run} of {len(targets)} have been run; the others are written for,"
    yield "not proved, and say untested."
    yield ""
    yield "- **pass**: every case of [the conformance kit](conformance.md) that applies passed."
    yield "- **fail**: at least one did not; it is listed at the end."
    yield "- **gap**: what fails is declared, with a reason; listed at the end too."
    yield "- **no**: the device does not declare it."
    yield "- **untested**: nobody has run it there. It may work."
    yield ""


def _levels(targets: Sequence[Target]) -> Iterator[str]:
    yield "## Levels of the kit"
    yield ""
    yield "Cases that passed, of those that apply."
    yield ""
    names = [f"{level} {what}" for level, what in {**LEVELS, **NOT_IN_KIT}.items()]
    rows = []
    for target in targets:
        where = UNTESTED if target.result is None else target.result["run"]["hardware"]
        cells = [target.level(level) for level in LEVELS] + [UNTESTED] * len(NOT_IN_KIT)
        rows.append([f"`{target.name}`", target.hardware, where, *cells])
    yield from table(["target", "for", "run on", *names], rows)
    yield f"{', '.join(NOT_IN_KIT)} are not in the kit yet, so they are untested everywhere."
    yield ""


def _features(targets: Sequence[Target]) -> Iterator[str]:
    for title, columns in FEATURES.items():
        yield f"## {title}"
        yield ""
        yield from table(
            ["target", *columns],
            [[f"`{target.name}`", *(target.state(patterns) for patterns in columns.values())] for target in targets],
        )


def _ops(targets: Sequence[Target]) -> Iterator[str]:
    """Targets that were run, one column each; the others are named once, as untested."""
    run = [target for target in targets if target.result is not None]
    ops = sorted(
        {
            case["name"].split("/")[1]
            for target in run
            for case in (target.result or {})["cases"]
            if case["name"].startswith("L2/") and not case["name"].startswith("L2/gaps/")
        }
    )
    yield "## Ops"
    yield ""
    yield from table(
        ["op", *(f"`{target.name}`" for target in run)],
        [[f"`{op}`", *(target.state((f"L2/{op}", f"L2/{op}/*")) for target in run)] for op in ops],
    )
    rest = ", ".join(f"`{target.name}`" for target in targets if target.result is None)
    yield f"Untested, every op: {rest or 'none'}."
    yield ""


def _compiled(targets: Sequence[Target], compiled: Mapping[str, Any]) -> Iterator[str]:
    """What a compiler alone can say: that kernels build, and fit the chip."""
    yield "## Compiled ahead of time"
    yield ""
    yield "For a chip that was not there: that a program builds and fits says nothing of its results or its speed."
    yield ""
    built = {file: list(_programs(file, compiled[file])) for file in AOT_FILES if file in compiled}
    rows = []
    for target in targets:
        if target.chip:
            cells = [cell for programs in built.values() if (cell := _fits(programs, target.chip))]
            rows.append([f"`{target.name}`", target.hardware, cells[0] if cells else UNTESTED])
    yield from table(["target", "for", "programs that build and fit"], rows)
    problems = [program for programs in built.values() for program in programs if program.problem]
    yield from (f"- {program.chip}, {program.name}: {program.problem}" for program in problems)
    if problems:
        yield ""


@dataclass(frozen=True, slots=True)
class Program:
    """One kernel or step compiled for one chip; `problem` is "" when it builds and fits."""

    name: str
    chip: str
    problem: str


def _fits(programs: Sequence[Program], chip: str) -> str:
    """How many fit a chip, and how many that were compiled for another one were not tried; "" = none was."""
    problems = [program.problem for program in programs if program.chip == chip]
    if not problems:
        return ""
    fitting, missing = problems.count(""), len({program.name for program in programs}) - len(problems)
    text = f"{fitting} of {len(problems)}"
    return (text if fitting == len(problems) else f"**{text}**") + (f", {missing} untested" if missing else "")


def _programs(file: str, result: Any) -> Iterator[Program]:
    """What the backends' `aot` commands wrote: Triton's kernels, or JAX's steps by topology, as "v5e:2x2"."""
    if file == "aot-torch":
        for kernel in result["kernels"]:
            problem = "" if kernel["fits"] else f"{kernel['spilled']} spilled, {kernel['shared_bytes']} bytes shared"
            yield Program(kernel["variant"], kernel["chip"], problem)
    else:
        for step in result:
            yield Program(step["case"], step["topology"].partition(":")[0], step["problem"])


def _shortcomings(targets: Sequence[Target]) -> Iterator[str]:
    """Failures and gaps by target, equal reasons together."""
    yield "## Failures and declared gaps"
    yield ""
    lines = []
    for target in targets:
        groups: dict[tuple[str, str], list[str]] = {}
        for case in (target.result or {"cases": ()})["cases"]:
            if case["status"] in ("failed", "unexpected pass", "gap"):
                groups.setdefault((case["status"], " ".join(case["reason"].split())), []).append(case["name"])
        for (status, reason), names in groups.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            lines.append(f"- `{target.name}`, {status}: `{names[0]}`{more}: {reason}")
    yield from lines or ["None."]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table and an empty line."""
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON results")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when the page would change")
    args = parser.parse_args(arguments)
    text = page(*read_targets(MATRIX, args.results))
    if args.check:
        current = args.output.read_text(encoding="utf-8") if args.output.exists() else ""
        if current != text:
            print(f"{args.output} is not what {args.results} says; run python tools/support_matrix.py", file=sys.stderr)
        return int(current != text)
    args.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
