#!/usr/bin/env bash
# What every change is held to before it is shown to others: layout, linters, types, imports. About 30 seconds.
# `tools/check.sh --fix` writes the layout instead of checking it.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t cpp < <(git ls-files '*.h' '*.cpp')
if [ "${1:-}" = --fix ]; then
  ruff format .
  ruff check --fix .
  clang-format -i "${cpp[@]}"
fi
ruff format --check .
ruff check .
clang-format --dry-run -Werror "${cpp[@]}"
mypy
lint-imports
