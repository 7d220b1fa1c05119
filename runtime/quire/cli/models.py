"""`quire models`: the architectures that Quire runs."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `quire models`."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Prints one architecture a line."""
    import json

    from quire.models import ARCHITECTURES

    names = sorted(ARCHITECTURES)
    print(json.dumps(names) if args.json else "\n".join(names))
    return 0
