"""What quantized weights do to a model's output: the demo model on the text it was made for, scheme by scheme.

    python benchmarks/quantization_accuracy.py                                    the table of docs/quantization.md
    python benchmarks/quantization_accuracy.py --device reference --scheme int8   another device, some schemes

Everything is held against float32 weights on the same device; activations and KV cache are float32 in every row unless
the device rounds activations for its integer kernels. Logits are compared at the tokens of answers that are given, so
that an early difference does not move what follows; greedy answers are generated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from demo_data.chat import IM_END, encode
from demo_data.mixture import stream

from quire.demo import demo_model_path
from quire.device import Capabilities, ExecutorPlan, KVPlan
from quire.device.registry import LoadedBackend, resolve_device
from quire.engine.quantization import ALIASES, choose_schemes
from quire.graph.passes import optimize
from quire.models import build_model
from quire.testing.conform.step_driver import StepDriver
from quire.weights import open_weights

MAX_MODEL_LEN, BLOCK_SIZE, NUM_BLOCKS = 256, 16, 64


@dataclass(frozen=True)
class Prompt:
    """A conversation of one turn: its tokens, and where the answer begins (the end token belongs to it)."""

    tokens: tuple[int, ...]
    answer_start: int

    @property
    def answer(self) -> tuple[int, ...]:
        return self.tokens[self.answer_start :]


@dataclass(frozen=True)
class Outputs:
    """What one kind of weights gives.

    Attributes:
        logits: for each prompt those that predict its answer, float32 [answer tokens, vocab].
        greedy: for each prompt the tokens that are generated, end token included.
    """

    logits: list[np.ndarray]
    greedy: list[tuple[int, ...]]
    weight_mib: float


@dataclass(frozen=True)
class Row:
    """One line of the table; errors are against float32 weights."""

    weights: str
    weight_mib: float
    mean_logit_error: float
    max_logit_error: float
    mean_kl: float
    same_top_token: float
    perplexity: float
    same_greedy: float
    right_answers: float


def draw_prompts(count: int, seed: int) -> list[Prompt]:
    """Conversations of the demo's own kinds, drawn by a seed that training did not use."""
    tokenizer = Tokenizer.from_file(str(demo_model_path() / "tokenizer.json"))
    single = (c for c in stream(seed) if len(c.turns) == 1 and not c.tools)
    prompts = []
    for conversation in islice(single, count):
        tokens, learn = encode(conversation, tokenizer)
        prompts.append(Prompt(tuple(tokens), learn.index(True)))
    return prompts


def outputs_of(backend: LoadedBackend, quantization: str | None, dtype: str, prompts: Sequence[Prompt]) -> Outputs:
    """Runs every prompt, its answer given, and then once more generating greedily."""
    spec = build_model(demo_model_path())
    chosen = choose_schemes(spec, None, quantization, backend.capabilities)
    model = optimize(chosen.model, backend.capabilities.fused_ops)
    plan = ExecutorPlan(
        model=model,
        weight_dtype=dtype,
        act_dtype="float32",
        kv_dtype="float32",
        block_size=BLOCK_SIZE,
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=MAX_MODEL_LEN,
        max_num_seqs=4,
        max_logits_rows=64,
        return_logits=True,
        options=backend.options,
    )
    executor = backend.create_executor(plan)
    weights = open_weights(demo_model_path(), model, ignorable_tensors=spec.ignorable_tensors)
    memory = executor.load(weights, lambda done, total: None)
    executor.allocate_kv(KVPlan(num_blocks=dict.fromkeys({g.pool for g in model.kv_groups.values()}, NUM_BLOCKS)))
    driver = StepDriver(executor, plan, NUM_BLOCKS, memory, poison=False)
    end = Tokenizer.from_file(str(demo_model_path() / "tokenizer.json")).token_to_id(IM_END)
    logits, answers = [], []
    for prompt in prompts:
        line = driver.line(prompt.tokens)
        driver.run([(line, len(prompt.tokens))])
        logits.append(line.all_logits()[prompt.answer_start - 1 : -1])
        driver.release(line)
        answers.append(greedy_answer(driver, prompt, end))
    executor.close()
    return Outputs(logits, answers, memory.bytes_by_purpose["weights"] / 2**20)


def greedy_answer(driver: StepDriver, prompt: Prompt, end: int, most: int = 64) -> tuple[int, ...]:
    """Likeliest tokens up to the end token, or `most`."""
    line = driver.line(prompt.tokens[: prompt.answer_start])
    driver.run([(line, prompt.answer_start)])
    while len(line.tokens) - prompt.answer_start < most and line.tokens[-1] != end:
        line.tokens.append(int(np.argmax(line.logits[-1])))
        if line.tokens[-1] != end:
            driver.run([(line, 1)])
    driver.release(line)
    return tuple(line.tokens[prompt.answer_start :])


def compare(name: str, found: Outputs, exact: Outputs, prompts: Sequence[Prompt]) -> Row:
    """One line of the table."""
    actual, expected = (np.concatenate(outputs.logits).astype(np.float64) for outputs in (found, exact))
    answers = np.concatenate([prompt.answer for prompt in prompts])
    log_q, log_p = _log_softmax(actual), _log_softmax(expected)
    return Row(
        weights=name,
        weight_mib=found.weight_mib,
        mean_logit_error=float(np.abs(actual - expected).mean()),
        max_logit_error=float(np.abs(actual - expected).max()),
        mean_kl=float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()),
        same_top_token=float((actual.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        perplexity=float(np.exp(-log_q[np.arange(len(answers)), answers].mean())),
        same_greedy=_share(a == b for a, b in zip(found.greedy, exact.greedy, strict=True)),
        right_answers=_share(a == prompt.answer for a, prompt in zip(found.greedy, prompts, strict=True)),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| weights | MiB | logits: mean error | max | KL, nats | same likeliest token | perplexity"
        " | same greedy answer | right answer |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r.weights} | {r.weight_mib:.2f} | {r.mean_logit_error:.4f} | {r.max_logit_error:.2f} | "
        f"{r.mean_kl:.5f} | {r.same_top_token:.2%} | {r.perplexity:.4f} | {r.same_greedy:.1%} | "
        f"{r.right_answers:.1%} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--device-option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--scheme", action="append", help="a value of --quantization; default: all of the device's")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=20, help="of the prompts; training used 1, its evaluation 2")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    args = parser.parse_args()
    prompts = draw_prompts(args.prompts, args.seed)
    backend = resolve_device(args.device, dict(option.split("=", 1) for option in args.device_option))
    capabilities = backend.capabilities
    exact = outputs_of(backend, None, "float32", prompts)
    rows = [compare("float32", exact, exact, prompts)]
    for dtype in ("bfloat16", "float16"):
        if dtype in capabilities.weight_dtypes:
            rows.append(compare(dtype, outputs_of(backend, None, dtype, prompts), exact, prompts))
    for scheme in args.scheme or _schemes(capabilities):
        rows.append(compare(scheme, outputs_of(backend, scheme, "float32", prompts), exact, prompts))
    tokens = sum(len(prompt.answer) for prompt in prompts)
    how = ", ".join([args.device, *args.device_option, backend.report.driver])
    print(f"device {how}; {len(prompts)} prompts (seed {args.seed}), {tokens} answer tokens\n\n{table(rows)}")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def _schemes(capabilities: Capabilities) -> list[str]:
    """Aliases first, then every scheme of the device."""
    names = sorted(capabilities.weight_schemes - {"plain"})
    return [*(alias for alias in ALIASES if alias not in names and set(ALIASES[alias].values()) <= set(names)), *names]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _share(hits: Iterable[bool]) -> float:
    counted = list(hits)
    return sum(counted) / len(counted)


if __name__ == "__main__":
    main()
