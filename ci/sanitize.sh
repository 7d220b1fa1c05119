#!/usr/bin/env bash
# All native tests under sanitizers, two builds side by side: memory and undefined behaviour, data races. Then the headers.
set -euo pipefail
cd "$(dirname "$0")/.."
build="${QUIRE_SANITIZE_BUILD:-$(mktemp -d)}"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
targets=(kernel_test plan_test)

run() {  # run NAME SANITIZERS
  local name="$1" sanitizers="$2" target
  cmake -S . -B "$build/$name" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DQUIRE_BUILD_PYTHON=OFF \
    -DQUIRE_BUILD_TESTS=ON -DQUIRE_SANITIZE="$sanitizers" >/dev/null
  cmake --build "$build/$name" --parallel "$(nproc)" --target "${targets[@]}" >/dev/null
  for target in "${targets[@]}"; do
    printf '\n-- %s (%s): %s\n' "$name" "$sanitizers" "$target"
    timeout 600 "$(find "$build/$name" -type f -name "$target" -perm -u+x)"
  done
}

export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
mkdir -p "$build"
# A shell turns `set -e` off inside `run || ...`, so each run is a process of its own and its status is asked of `wait`.
(run memory address,undefined) >"$build/memory.txt" 2>&1 &
memory=$!
(run races thread) >"$build/races.txt" 2>&1 &
races=$!
failed=0
wait "$memory" || failed=1
cat "$build/memory.txt"
wait "$races" || failed=1
cat "$build/races.txt"
[ "$failed" = 0 ] || exit 1
printf '\n-- headers of the kernels\n'
python3 csrc/tests/check_headers.py "$build/memory"
printf '\nsanitizers: nothing found\n'
