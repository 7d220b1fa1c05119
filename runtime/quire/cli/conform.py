"""`quire conform`: holds a backend against the contract and the reference."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from quire.cli.result_file import require_writable, write_result
from quire.errors import ConfigError

if TYPE_CHECKING:
    from quire.testing.conform.case import CaseResult
    from quire.testing.conform.op_case import OpCase
    from quire.testing.conform.subject import Subject


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire conform`."""
    parser.add_argument("-d", "--device", required=True, help="backend to check; `quire devices` lists them")
    parser.add_argument(
        "--level", action="append", metavar="L", help="L0, L1, L2, L3, L4 or L6, may be repeated; default: all"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results for machines")
    parser.add_argument("--gaps", type=Path, metavar="FILE", help='declared gaps: {"L2/experts/*": "reason"}')
    parser.add_argument(
        "--from-model", metavar="MODEL", help="also check ops in the shapes of this model's config.json"
    )
    parser.add_argument(
        "--device-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the backend, may be repeated",
    )
    parser.add_argument("--seed", type=int, default=0, help="of drawn shapes and operands")
    parser.add_argument("--quiet", action="store_true", help="no line for each case that fails as it does")


def run(args: argparse.Namespace) -> int:
    """Runs the levels. 0 = conforms, 1 = does not; a device that cannot be used is an error (2)."""
    from quire.testing.conform import LEVELS, run_conformance, subject_of
    from quire.testing.conform.gaps import read_gaps

    require_writable(args.json, "--json")
    levels = [level.upper() for level in args.level] if args.level else list(LEVELS)
    gaps = read_gaps(args.gaps) if args.gaps else {}
    subject = subject_of(args.device, _options(args))
    report = run_conformance(
        subject,
        levels,
        seed=args.seed,
        gaps=gaps,
        op_cases=_model_cases(args, subject),
        progress=lambda result: None if args.quiet else _say(result),
    )
    print("\n".join(report.lines()))
    if args.json:
        write_result(args.json, report.json_text(), "--json")
    return 0 if report.passed else 1


def _say(result: CaseResult) -> None:
    if result.status in ("failed", "unexpected pass"):
        print(f"{result.status}: {result.name}: {result.reason}", file=sys.stderr, flush=True)


def _model_cases(args: argparse.Namespace, subject: Subject) -> list[OpCase]:
    """Cases of `--from-model`; only its config.json is read."""
    if not args.from_model:
        return []
    from quire.testing.conform.from_model import model_cases
    from quire.weights.hub import resolve_model

    return model_cases(subject, Path(resolve_model(args.from_model)), args.seed)


def _options(args: argparse.Namespace) -> dict[str, str]:
    """`--device-option KEY=VALUE` and `--NAME-KEY VALUE` of this device."""
    options = dict(_key_value(pair) for pair in args.device_option)
    for option in getattr(args, "backend_options", ()):
        if option.device != args.device:
            raise ConfigError(
                f"{option.flag} is an option of device {option.device}", because=f"--device {args.device} is checked"
            )
        options[option.key] = option.value
    return options


def _key_value(pair: str) -> tuple[str, str]:
    key, separator, value = pair.partition("=")
    if not separator or not key:
        raise ConfigError(f"--device-option {pair}", because="it is not KEY=VALUE", hint="--device-option threads=4")
    return key, value
