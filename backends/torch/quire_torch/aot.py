"""`python -m quire_torch.aot`: compiles the Triton kernels for every target, on a machine without any of them.

Prints registers, spills, and shared memory beside the chip's limit. Exits with 1 where a kernel spills or takes more
shared memory than the chip has (the compiler does not refuse that), with 2 where one does not compile.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import triton

from quire.errors import QuireError
from quire_torch.compiled_kernel import CHIPS, KernelUse, Variant, compile_variant

VARIANTS = (
    *(Variant(dtype="bf16", head_dim=d, group=4, decode=decode) for d in (64, 128, 256) for decode in (False, True)),
    Variant(dtype="fp16", head_dim=128, group=8, decode=False),
    Variant(dtype="bf16", head_dim=256, group=2, decode=False, window=True, softcap=True),
    Variant(dtype="bf16", head_dim=256, group=2, decode=True, window=True, softcap=True),
)
"""Head dimensions and groups of today's models; the last two are Gemma 2's."""

_COLUMNS = ("kernel", "target", "registers", "spilled", "shared / limit, bytes", "binary, bytes", "matrix instructions")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m quire_torch.aot", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", action="append", choices=tuple(CHIPS), help="compile for this one; may be repeated")
    parser.add_argument("--kernel", default="", help="only kernels whose name has this text, as 'd128 g4 decode'")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="machine-readable output")
    output.add_argument("--markdown", action="store_true", help="a table for a page")
    args = parser.parse_args(arguments)
    variants = [variant for variant in VARIANTS if args.kernel in variant.name]
    if not variants:
        parser.error(f"no kernel has {args.kernel!r} in its name; they are {', '.join(v.name for v in VARIANTS)}")
    try:
        uses = [compile_variant(variant, chip) for chip in args.target or CHIPS for variant in variants]
    except QuireError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        kernels = [{**asdict(use), "fits": use.fits} for use in uses]
        print(json.dumps({"triton": triton.__version__, "kernels": kernels}, indent=2))
    else:
        _print_table(uses, markdown=args.markdown)
    for use in uses:
        if not use.fits:
            print(
                f"{use.variant} does not fit {use.chip}: {use.spilled} spilled, {use.shared_bytes} of "
                f"{use.shared_limit_bytes} bytes of shared memory",
                file=sys.stderr,
            )
    return 0 if all(use.fits for use in uses) else 1


def _print_table(uses: Sequence[KernelUse], *, markdown: bool) -> None:
    rows = [_COLUMNS]
    for use in uses:
        shared = f"{use.shared_bytes} / {use.shared_limit_bytes}"
        rows.append(
            (
                use.variant,
                use.chip,
                use.registers,
                str(use.spilled),
                shared,
                str(use.binary_bytes),
                ", ".join(use.matrix_instructions) or "none",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|" + "---|" * len(_COLUMNS))
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
