#!/usr/bin/env bash
# All native tests under sanitizers: memory and undefined behaviour, then data races.
set -euo pipefail
cd "$(dirname "$0")/.."
build="${QUIRE_SANITIZE_BUILD:-$(mktemp -d)}"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)

run() {  # run NAME SANITIZERS TARGET...
  local name="$1" sanitizers="$2"
  shift 2
  printf '\n-- %s: %s\n' "$name" "$*"
  cmake -S . -B "$build/$name" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DQUIRE_BUILD_PYTHON=OFF \
    -DQUIRE_BUILD_TESTS=ON -DQUIRE_SANITIZE="$sanitizers" >/dev/null
  cmake --build "$build/$name" --parallel "$(nproc)" --target "$@" >/dev/null
  local target
  for target in "$@"; do
    timeout 600 "$(find "$build/$name" -type f -name "$target" -perm -u+x)"
  done
}

export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
run memory address,undefined kernel_test plan_test
run races thread kernel_test plan_test
printf '\nsanitizers: nothing found\n'
