"""Fails when a hot loop of the kernels touches the stack with a vector register.

    check_spills.py [--objdump objdump] BINARY

Disassembles the functions named below, finds their innermost loops (a backward jump that encloses no other), and
reports vector instructions in them whose memory operand is relative to rsp or rbp: a spilled accumulator costs
more than any choice of layout.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

# Demangled names: function, and how many instances at least must exist (a renamed function must not pass unseen).
HOT = {
    r"quire::avx2::float_tile<": 24,
    r"quire::avx2::int8_tile<": 14,
    r"quire::avx2::int4_tile<": 22,
    r"quire::avx2::multiply_tile<": 20,
    r"quire::avx512::float_tile<": 48,
    r"quire::avx512::quantized_tile<": 40,
    r"quire::avx512::multiply_tile<": 20,
    r"quire::avx512_vnni::quantized_tile<": 40,
    r"quire::avx512_bf16::float_tile<": 16,
    r"quire::avx512_bf16::pair_(tile|tail)<": 40,
}
HEADER = re.compile(r"^[0-9a-f]+ <(.*)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(.*)$")
JUMP = re.compile(r"^j\w+\s+([0-9a-f]+)\b")
STACK = re.compile(r"\[r[sb]p")
VECTOR = re.compile(r"\b[xyz]mm\d+")
MIN_VECTOR_INSTRUCTIONS = 4  # loops with fewer are set-up code


def functions(binary: str, objdump: str) -> dict[str, list[tuple[int, str]]]:
    """Demangled name -> instructions (address, text)."""
    command = [objdump, "-d", "-C", "--no-show-raw-insn", "-M", "intel", binary]
    found: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] | None = None
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        if header := HEADER.match(line):
            current = found.setdefault(header.group(1), [])
        elif current is not None and (instruction := INSTRUCTION.match(line)):
            current.append((int(instruction.group(1), 16), instruction.group(2)))
    return found


def innermost_loops(code: list[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    start = code[0][0]
    spans = []
    for address, text in code:
        if (jump := JUMP.match(text)) and start <= (target := int(jump.group(1), 16)) <= address:
            spans.append((target, address))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [[(a, t) for a, t in code if low <= a <= high] for low, high in inner]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--objdump", default="objdump")
    parser.add_argument("binary")
    args = parser.parse_args()
    code = functions(args.binary, args.objdump)
    failures = 0
    for pattern, at_least in HOT.items():
        names = [name for name in code if re.search(pattern, name) and code[name]]
        loops = 0
        for name in names:
            for loop in innermost_loops(code[name]):
                if sum(bool(VECTOR.search(text)) for _, text in loop) < MIN_VECTOR_INSTRUCTIONS:
                    continue
                loops += 1
                for address, text in loop:
                    if STACK.search(text) and VECTOR.search(text):
                        failures += 1
                        print(f"spill in {name[:110]} at {address:x}: {text}")
        if len(names) < at_least or loops == 0:
            failures += 1
            print(f"expected {at_least} functions like {pattern}, found {len(names)} with {loops} loops")
        else:
            print(f"{pattern}: {len(names)} functions, {loops} innermost loops")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
