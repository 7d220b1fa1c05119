"""Our own side of a comparison; run by compare.py with the interpreter that runs compare.py.

Formats: a weight dtype (bfloat16, float16, float32), or what `--quantization` takes. Options: EngineConfig's fields.
An answer also tells what the work must read and compute at least, for the shares of the limits.
"""

from __future__ import annotations

from typing import Any

from protocol import Arguments, serve

import quire
from quire.bench.bounds import batch_operations, decode_bytes, prefill_operations
from quire.bench.runs import run_once
from quire.bench.workload import Workload
from quire.engine.config import EngineConfig
from quire.engine.llm_engine import LLMEngine

DTYPES = ("bfloat16", "float16", "float32")


def engine_config(args: Arguments) -> EngineConfig:
    """The engine of a format."""
    scheme: dict[str, Any] = {"dtype": args.format} if args.format in DTYPES else {"quantization": args.format}
    settings = {"max_model_len": 2048, "max_num_seqs": 32, "device": "cpu", **scheme, **args.options}
    settings["device_options"] = {"threads": str(args.threads), **settings.get("device_options", {})}
    return EngineConfig(model=str(args.checkpoint), skip_tokenizer_init=True, enable_prefix_caching=False, **settings)


def main() -> None:
    """Loads, serves."""
    args = Arguments.parse()
    engine = LLMEngine(engine_config(args))

    def run(prompts: list[list[int]], output_len: int) -> dict[str, float]:
        load = Workload(tuple(map(tuple, prompts)), output_len)
        first_s, total_s = run_once(engine, load)
        answer = {"first_s": first_s, "total_s": total_s}
        if len(prompts) > 1:
            answer["batch_operations"] = batch_operations(engine.loaded, load)
        else:
            answer["decode_bytes"] = decode_bytes(engine.loaded, len(prompts[0]) + output_len // 2)
            answer["prefill_operations"] = prefill_operations(engine.loaded, len(prompts[0]))
        return answer

    driver, act_dtype = engine.loaded.backend.report.driver, engine.loaded.resolved.act_dtype
    serve(f"quire {quire.__version__}, {args.format}, {driver}, {act_dtype} activations", run)


if __name__ == "__main__":
    main()
