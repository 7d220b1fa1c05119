"""`quire devices`: every backend found, available or why not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire devices`."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Prints the table. Absence of a device is not an error."""
    from quire.device.registry import list_devices

    rows = list_devices()
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
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
    return 0
