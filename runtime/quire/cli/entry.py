"""What the `quire` command calls: Ctrl-C while Python still imports is an exit code too, not a traceback."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs one command; returns its exit code."""
    try:
        from quire.cli.main import main as run_command

        return run_command()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
