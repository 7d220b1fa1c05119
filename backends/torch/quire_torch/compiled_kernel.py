"""What a kernel takes of a chip: compiled without one, read from what the compiler leaves behind."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from quire.errors import BackendError, ConfigError
from quire_torch.kernels.paged_attention import launch_config, paged_attention_kernel


@dataclass(frozen=True, slots=True)
class Chip:
    """A compilation target: the most shared memory one program can have there, and threads in a warp."""

    backend: str
    architecture: int | str
    warp_size: int
    shared_limit_bytes: int


CHIPS = {
    "sm_80": Chip("cuda", 80, 32, 166_912),
    "sm_90": Chip("cuda", 90, 32, 232_448),
    "sm_100": Chip("cuda", 100, 32, 232_448),
    "gfx90a": Chip("hip", "gfx90a", 64, 65_536),
    "gfx942": Chip("hip", "gfx942", 64, 65_536),
    "gfx950": Chip("hip", "gfx950", 64, 163_840),
}
"""A100; H100 and H200; B200; MI200; MI300; MI350. Limits from the vendors' tables of compute capabilities and ISAs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One specialization of the paged attention kernel."""

    dtype: str
    head_dim: int
    group: int
    decode: bool
    window: bool = False
    softcap: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        extras = [word for word, on in (("window", self.window), ("softcap", self.softcap)) if on]
        rows = "decode" if self.decode else "prefill"
        return " ".join([self.dtype, f"d{self.head_dim}", f"g{self.group}", rows, *extras])


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelUse:
    """Attributes:
    registers: for each thread; on AMD vector, accumulation and scalar registers.
    spilled: registers or bytes of them that did not fit and went to memory.
    matrix_instructions: the chip's matrix instructions found in the code.
    """

    variant: str
    chip: str
    registers: str
    spilled: int
    shared_bytes: int
    shared_limit_bytes: int
    binary_bytes: int
    matrix_instructions: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """No spills, and no more shared memory than the chip has."""
        return self.spilled == 0 and self.shared_bytes <= self.shared_limit_bytes


def compile_variant(variant: Variant, chip_name: str) -> KernelUse:
    """Compiles for a chip that need not be here. Raises BackendError where the compiler refuses."""
    if chip_name not in CHIPS:
        raise ConfigError(f"target {chip_name!r} is not known", because=f"the targets are {', '.join(CHIPS)}")
    chip = CHIPS[chip_name]
    config = launch_config(
        variant.head_dim,
        variant.group,
        4 if variant.dtype == "fp32" else 2,
        decode=variant.decode,
        warp_size=chip.warp_size,
    )
    target = GPUTarget(chip.backend, chip.architecture, chip.warp_size)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    try:
        compiled = triton.compile(_source(variant, config.block_m, config.block_n), target=target, options=options)
    except Exception as error:  # the compiler raises what it likes
        raise BackendError(
            f"the kernel {variant.name} does not compile for {chip_name}", because=f"{type(error).__name__}: {error}"
        ) from error
    registers, spilled, code = _nvidia(compiled) if chip.backend == "cuda" else _amd(compiled)
    return KernelUse(
        variant=variant.name,
        chip=chip_name,
        registers=registers,
        spilled=spilled,
        shared_bytes=compiled.metadata.shared,
        shared_limit_bytes=chip.shared_limit_bytes,
        binary_bytes=len(compiled.asm["cubin" if chip.backend == "cuda" else "hsaco"]),
        matrix_instructions=tuple(sorted(set(re.findall(_MATRIX, code)))),
    )


_MATRIX = r"wgmma\.mma_async|tcgen05\.mma|mma\.sync\.aligned\.m\d+n\d+k\d+|v_mfma_\w+"


def _source(variant: Variant, block_m: int, block_n: int) -> ASTSource:
    padded = max(16, triton.next_power_of_2(variant.head_dim))
    constants: dict[str, Any] = {
        "GROUP": variant.group,
        "HEAD_DIM": variant.head_dim,
        "HEAD_DIM_V": variant.head_dim,
        "PADDED": padded,
        "PADDED_V": padded,
        "PAGE": 16,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "CAUSAL": True,
        "HAS_WINDOW": variant.window,
        "HAS_SOFTCAP": variant.softcap,
        "HAS_SINKS": False,
        "HAS_ALIBI": False,
        "WIDEN": False,
    }
    names = paged_attention_kernel.arg_names
    types = dict.fromkeys(("out", "q", "k_cache", "v_cache"), f"*{variant.dtype}")
    types |= dict.fromkeys(("block_tables", "query_start_loc", "num_computed", "tile_seqs", "tile_rows"), "*i32")
    types |= {"scale": "fp32", "softcap": "fp32", "sinks": f"*{variant.dtype}", "alibi_slopes": "*fp32"}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [name for name in names if name in types and types[name].startswith("*")]
    aligned += [name for name in names if name.startswith("stride") and name != "stride_table"]
    return ASTSource(  # the alignment is what a launch finds by itself
        fn=paged_attention_kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )


def _nvidia(compiled: Any) -> tuple[str, int, str]:
    """(registers, bytes of stack and local memory, code) by the cuobjdump that comes with triton."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        usage = subprocess.run([tool, "-res-usage", cubin.name], capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    if "REG" not in found:
        raise BackendError("cuobjdump said nothing of registers", because=usage.strip() or "its output is empty")
    return str(found["REG"]), found.get("STACK", 0) + found.get("LOCAL", 0), compiled.asm["ptx"]


def _amd(compiled: Any) -> tuple[str, int, str]:
    """(registers, spilled vector registers, code) by the metadata at the end of the assembly."""
    code = compiled.asm["amdgcn"]
    counts = {}
    for name in ("vgpr_count", "agpr_count", "sgpr_count", "vgpr_spill_count"):
        found = re.search(rf"\.{name}:\s*(\d+)", code)
        if found is None:
            raise BackendError(f"the assembly says nothing of {name}", because="its metadata have another form")
        counts[name] = int(found[1])
    registers = f"{counts['vgpr_count']} v, {counts['agpr_count']} a, {counts['sgpr_count']} s"
    return registers, counts["vgpr_spill_count"], code
