"""One process of `quire bench startup`: reads a configuration, makes one token, tells when and with how much memory.

Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict


def main() -> int:
    """Standard input: {"config": fields of EngineConfig, "input_len": tokens}; standard output: one JSON object."""
    from quire.bench.memory import memory_use
    from quire.engine.config import EngineConfig
    from quire.engine.llm_engine import LLMEngine
    from quire.errors import QuireError
    from quire.graph.kv_budget import pool_block_bytes
    from quire.sampling_params import SamplingParams

    imported_s = time.monotonic()
    request = json.loads(sys.stdin.read())
    try:
        engine = LLMEngine(EngineConfig(**request["config"]))
    except QuireError as error:
        print(error, file=sys.stderr)
        return 2
    loaded_s = time.monotonic()
    prompt = [token % engine.loaded.limits.vocab_size for token in range(1, 1 + request["input_len"])]
    engine.add_request({"prompt_token_ids": prompt}, SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
    while engine.has_unfinished():
        engine.step()
    first_token_s = time.monotonic()
    loaded, resolved = engine.loaded, engine.loaded.resolved
    kv_bytes = sum(
        num_blocks * pool_block_bytes(loaded.model, pool, resolved.block_size, resolved.kv_dtype)
        for pool, num_blocks in loaded.kv_plan.num_blocks.items()
    )
    print(
        json.dumps(
            {
                "imported_s": imported_s,
                "loaded_s": loaded_s,
                "first_token_s": first_token_s,
                "weight_bytes": loaded.memory.bytes_by_purpose.get("weights", 0),
                "kv_bytes": kv_bytes,
                **asdict(memory_use()),
            }
        )
    )
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
