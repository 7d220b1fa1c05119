"""`quire devices`: every backend found, available or why not."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quire.device.option_spec import OptionSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire devices`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one device, with its options")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Prints the table. Absence of a device is not an error, but a name that no package has is one."""
    from quire.device.registry import device_options, list_devices, resolve_device

    options = None if args.name is None else device_options(args.name)
    rows = [row for row in list_devices() if args.name in (None, row.name)]
    if args.json:
        found = [asdict(row) for row in rows]
        if args.name is not None:
            found[0]["options"] = None if options is None else [asdict(spec) for spec in options]
        print(json.dumps(found, indent=2))
        return 0
    for row in rows:
        report = row.report
        state = "available" if report.available else f"not available: {report.reason}"
        print(f"{row.name:<12} {state}")
        facts = [
            report.name,
            f"{report.num_devices} device(s)" if report.num_devices > 1 else "",
            f"{report.total_memory_bytes / 2**30:.1f} GiB memory, {report.free_memory_bytes / 2**30:.1f} GiB free"
            if report.total_memory_bytes
            else "",
            f"driver {report.driver}" if report.driver else "",
            *(f"{key} {value}" for key, value in report.details),
            f"from {row.package} {row.version}",
        ]
        print(f"{'':<12} {', '.join(fact for fact in facts if fact)}")
    if args.name is not None:
        _print_options(args.name, options)
        if rows[0].report.available:
            for feature, value in resolve_device(args.name).capabilities.extensions.items():
                print(f"extension {feature}: {value}")
    return 0


def _print_options(device: str, options: Sequence[OptionSpec] | None) -> None:
    if options is None:
        print("its backend does not list its options")
        return
    print("options:" if options else "it has no options")
    for spec in options:
        print(f"  --{device}-{spec.name.replace('_', '-'):<20} {spec.help}")
        print(f"  {'':<{len(device) + 23}} {spec.range_text()}; default: {spec.default}")
