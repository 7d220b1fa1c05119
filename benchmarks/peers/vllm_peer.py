"""The vLLM side of a comparison, its offline LLMEngine in this process; run by compare.py in the peer's environment.

Formats: dtypes; bfloat16 is fast on processors that multiply it (AVX512_BF16, AMX), float32 on others. Options: any of
EngineArgs, and "isa": "avx2", which holds it to AVX2 on a processor that has more. Eager mode, the default here, was
the faster one in every row but the batch (by 2 %) where this was written.
"""

from __future__ import annotations

import os
import time
from typing import Any

from protocol import Arguments, serve


def hold_to_avx2() -> None:
    """Hides wider instructions from oneDNN, MKL and ATen, and from the choice of vLLM's own library of kernels."""
    os.environ.update(ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2", ATEN_CPU_CAPABILITY="avx2")
    import torch

    wider = ("avx512", "avx10", "avx_vnni", "avx_ne", "amx")
    found = torch.cpu.get_capabilities()
    narrow = {name: False if name.startswith(wider) else value for name, value in found.items()}
    torch.cpu.get_capabilities = lambda: narrow


def make_engine(args: Arguments, options: dict[str, Any]) -> Any:
    """An engine with its core in this process, bound to as many cores as there are threads."""
    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    from vllm import EngineArgs, LLMEngine

    settings = {
        "dtype": args.format,
        "max_model_len": 2048,
        "max_num_seqs": 32,
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "disable_log_stats": True,
        "enforce_eager": True,
        **options,
    }
    return LLMEngine.from_engine_args(EngineArgs(model=str(args.checkpoint), **settings))


def main() -> None:
    """Loads, serves."""
    args = Arguments.parse()
    options = dict(args.options)
    isa = options.pop("isa", None)
    if isa not in (None, "avx2"):
        raise SystemExit(f"isa {isa!r}: vLLM can be held to avx2 only")
    if isa:
        hold_to_avx2()
    engine = make_engine(args, options)
    import vllm
    from vllm import SamplingParams

    def run(prompts: list[list[int]], output_len: int) -> dict[str, float]:
        params = SamplingParams(temperature=0.0, max_tokens=output_len, ignore_eos=True, detokenize=False)
        start_s = time.perf_counter()
        for number, prompt in enumerate(prompts):
            engine.add_request(f"{start_s}-{number}", {"prompt_token_ids": prompt}, params)
        first_s = 0.0
        while engine.has_unfinished_requests():
            if engine.step() and not first_s:
                first_s = time.perf_counter() - start_s
        return {"first_s": first_s, "total_s": time.perf_counter() - start_s}

    serve(f"vllm {vllm.__version__}, {args.format}{' (AVX2 alone)' if isa else ''}", run)


if __name__ == "__main__":
    main()
