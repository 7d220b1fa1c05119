"""Writes the tables of options in docs/guide.md from the options of the configuration classes.

python tools/option_tables.py            into the page
python tools/option_tables.py --check    1 when the page is not what the code says
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from quire.engine.config import EngineConfig
from quire.engine.supervision import Supervision
from quire.options import options_table
from quire.server.config import ServerConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide.md"
TABLES: Mapping[str, type] = {"engine": EngineConfig, "server": ServerConfig, "engine process": Supervision}


def page(text: str) -> str:
    """The page with every table anew: what stands between `<!-- options: NAME -->` and `<!-- end -->`."""
    for name, config in TABLES.items():
        begin, end = f"<!-- options: {name} -->\n\n", "\n\n<!-- end -->"
        before, found, rest = text.partition(begin)
        _, ends, after = rest.partition(end)
        if not (found and ends):
            raise SystemExit(f"{PAGE.name} has no table of options: {name}")
        text = before + begin + "\n".join(options_table(config)) + end + after
    return text


def main(words: list[str]) -> int:
    """Exit status."""
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if words == ["--check"]:
        return int(new != old)
    if words:
        raise SystemExit("usage: python tools/option_tables.py [--check]")
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
