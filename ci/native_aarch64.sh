#!/usr/bin/env bash
# Native tests built for 64-bit ARM and run in the emulator: every NEON table, the plan and the thread pool.
set -euo pipefail
cd "$(dirname "$0")/.."
compiler="${QUIRE_AARCH64_CXX:-aarch64-linux-gnu-g++}"
emulator="${QUIRE_AARCH64_EMULATOR:-$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)}"
if ! command -v "$compiler" >/dev/null || [ -z "$emulator" ]; then
  echo "qemu-aarch64 or the cross compiler missing: not run"
  exit 0
fi
build="${QUIRE_AARCH64_BUILD:-$(mktemp -d)}"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DQUIRE_BUILD_PYTHON=OFF -DQUIRE_BUILD_TESTS=ON \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_EXE_LINKER_FLAGS=-static >/dev/null
cmake --build "$build" --parallel "$(nproc)" --target kernel_test plan_test >/dev/null
run() { timeout 300 "$emulator" -cpu max "$(find "$build" -type f -name "$1" -perm -u+x)" "${@:2}"; }
tables=(neon neon_dotprod:linear neon_i8mm:linear)  # what else these have is the source of neon
pids=()
for table in "${tables[@]}"; do
  run kernel_test "$table" >"$build/$table.txt" 2>&1 &
  pids+=($!)
done
failed=0
for i in "${!tables[@]}"; do
  wait "${pids[$i]}" || failed=1
  printf '\n-- aarch64: kernel_test %s\n' "${tables[$i]}"
  cat "$build/${tables[$i]}.txt"
done
printf '\n-- aarch64: plan_test\n'
run plan_test
[ "$failed" = 0 ]
printf '\n-- aarch64: headers of the kernels\n'
python3 csrc/tests/check_headers.py "$build"
printf '\naarch64 under %s: passed\n' "$(basename "$emulator")"
