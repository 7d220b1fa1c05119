"""What is compared: one stream's decode, one prompt, many requests, the start of a process, and its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quire.bench.workload import Workload, random_workload
from quire.device.capabilities import MachineLimits

Kind = Literal["decode", "prefill", "batch", "start", "memory"]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        workload: what is asked for. fair_to: "width": compared with the best peer whose weights are of the same
            width (for us in 16 bits, of that or more), "all": with the best peer in any format.
    """

    kind: Kind
    name: str
    unit: str
    workload: Workload
    fair_to: Literal["width", "all"] = "width"

    @property
    def lower_is_better(self) -> bool:
        return self.kind in ("start", "memory")

    def figure(self, answer: dict[str, float]) -> float:
        """The row's figure from the times of an answer."""
        load, first_s, total_s = self.workload, answer["first_s"], answer["total_s"]
        if self.kind == "prefill":
            return load.num_prompt_tokens / first_s
        if self.kind == "decode":
            return (load.output_len - 1) / (total_s - first_s)
        return len(load.prompts) * load.output_len / total_s

    def limit(self, answer: dict[str, float], limits: MachineLimits, bits: int) -> float | None:
        """What the machine's measured limits allow for the bytes or operations that our answer tells; None = neither.

        Prefill and batches of integers stand beside the peak of 8-bit integer arithmetic, of floats beside float32's.
        """
        load, integers = self.workload, limits.int8_ops_per_s if bits <= 8 else None
        if self.kind == "decode":
            return limits.read_bytes_per_s / answer["decode_bytes"]
        if self.kind == "prefill":
            return (integers or limits.flops_per_s) * load.num_prompt_tokens / answer["prefill_operations"]
        if self.kind == "batch":
            num_output_tokens = len(load.prompts) * load.output_len
            return (integers or limits.flops_per_s) * num_output_tokens / answer["batch_operations"]
        return None


def speed_rows(vocab_size: int, *, decode_len: int, prefill_len: int, num_prompts: int) -> list[Row]:
    """Rows that one process runs again and again; the last only with `num_prompts`."""

    def load(num: int, low: int, high: int, out: int) -> Workload:
        return random_workload(
            num_prompts=num, min_input_len=low, input_len=high, output_len=out, vocab_size=vocab_size, seed=7
        )

    rows = [
        Row("decode", f"decode, 1 stream, {decode_len} tokens after 32", "tokens/s", load(1, 32, 32, decode_len)),
        Row("prefill", f"prefill, {prefill_len} tokens", "tokens/s", load(1, prefill_len, prefill_len, 2)),
    ]
    if num_prompts:
        name = f"{num_prompts} requests of 32-256, 64 out each"
        rows.append(Row("batch", name, "output tokens/s", load(num_prompts, 32, 256, 64), "all"))
    return rows


def process_rows(vocab_size: int) -> list[Row]:
    """Rows that want a fresh process: the time to its first token, and its peak memory by then."""
    load = random_workload(num_prompts=1, input_len=32, output_len=1, vocab_size=vocab_size, seed=7)
    return [
        Row("start", "process start to first token", "s", load),
        Row("memory", "peak resident memory", "MiB", load),
    ]
