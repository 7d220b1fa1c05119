"""From the start of a process to its first token, and the memory it took: a fresh process for every run."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from dataclasses import asdict, replace

from quire.bench.report import Figure, Report
from quire.child_process import python_command, python_environment
from quire.engine.config import EngineConfig
from quire.errors import BackendError

STAGES = (("interpreter and imports", "imported_s"), ("model loaded", "loaded_s"), ("first token", "first_token_s"))


def run_startup(config: EngineConfig, *, input_len: int, repeats: int) -> Report:
    """Starts `repeats` processes one after the other, each of which loads the model and makes one token.

    Times count from before the process is made, so they hold the interpreter's start; medians. One run before them
    fills the page cache. The tokenizer is loaded unless the configuration says skip_tokenizer_init.
    Raises: BackendError when a process ends without a token; what it said is on standard error.
    """
    if config.max_num_seqs is None:
        config = replace(config, max_num_seqs=1)
    runs = [_run_process(config, input_len) for _ in range(1 + repeats)][1:]

    def median(key: str) -> float:
        return statistics.median(run[key] for run in runs)

    figures = [Figure(f"start to {name}", median(key), "s") for name, key in STAGES]
    held = median("weight_bytes") + median("kv_bytes")
    figures.append(Figure("peak memory", median("peak_bytes") / 2**20, "MiB", held / 2**20, "weights and KV"))
    for name, key in (("private memory at the end", "private_bytes"), ("file pages at the end", "mapped_bytes")):
        if all(key in run for run in runs):
            figures.append(Figure(name, median(key) / 2**20, "MiB"))
    settings = {
        "model": config.model,
        "device": config.device,
        "input_len": input_len,
        "repeats": repeats,
        "tokenizer": not config.skip_tokenizer_init,
        "weights_mib": round(median("weight_bytes") / 2**20),
        "kv_mib": round(median("kv_bytes") / 2**20),
    }
    return Report("start of a process to its first token, page cache warm", settings, figures, None)


def _run_process(config: EngineConfig, input_len: int) -> dict[str, float]:
    request = json.dumps({"config": asdict(config), "input_len": input_len})
    start_s = time.monotonic()
    done = subprocess.run(
        python_command("quire.bench.first_token"),
        env=python_environment(),
        input=request,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BackendError(
            "a process that was to make one token failed",
            because=f"it ended with {done.returncode}",
            hint="its own message, above",
        )
    answer = json.loads(done.stdout)
    for _, key in STAGES:
        answer[key] -= start_s
    return {key: float(value) for key, value in answer.items() if value is not None}
