"""The transformers side of a comparison; run by compare.py in the peer's own environment.

Formats: torch dtypes. Options: attn_implementation ("sdpa"). Many requests are one left-padded batch: transformers has
no continuous batching on a CPU.
"""

from __future__ import annotations

import time

import torch
import transformers
from protocol import Arguments, serve
from transformers import AutoModelForCausalLM


class FirstToken:
    """Notes when the first token has come; generate calls it with the prompt first."""

    def __init__(self) -> None:
        self.calls, self.first_s = 0, 0.0

    def put(self, _: torch.Tensor) -> None:
        self.calls += 1
        if self.calls == 2:
            self.first_s = time.perf_counter()

    def end(self) -> None:
        pass


def one_stream(model: torch.nn.Module, prompt: list[int], output_len: int) -> tuple[float, float]:
    """(first token, total) in seconds of a single request."""
    streamer = FirstToken()
    start_s = time.perf_counter()
    model.generate(
        torch.tensor([prompt]),
        max_new_tokens=output_len,
        min_new_tokens=output_len,
        do_sample=False,
        streamer=streamer,
        pad_token_id=0,
    )
    return streamer.first_s - start_s, time.perf_counter() - start_s


def padded_batch(model: torch.nn.Module, prompts: list[list[int]], output_len: int) -> tuple[float, float]:
    """(0, total) in seconds of all requests at once, left-padded."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    start_s = time.perf_counter()
    model.generate(
        ids, attention_mask=mask, max_new_tokens=output_len, min_new_tokens=output_len, do_sample=False, pad_token_id=0
    )
    return 0.0, time.perf_counter() - start_s


def main() -> None:
    """Loads, serves."""
    args = Arguments.parse()
    torch.set_num_threads(args.threads)
    attention = args.options.get("attn_implementation", "sdpa")
    model = AutoModelForCausalLM.from_pretrained(
        args.checkpoint, dtype=getattr(torch, args.format), attn_implementation=attention
    ).eval()

    def run(prompts: list[list[int]], output_len: int) -> dict[str, float]:
        with torch.inference_mode():
            if len(prompts) == 1:
                first_s, total_s = one_stream(model, prompts[0], output_len)
            else:
                first_s, total_s = padded_batch(model, prompts, output_len)
        return {"first_s": first_s, "total_s": total_s}

    serve(f"transformers {transformers.__version__}, torch {torch.__version__}, {args.format}", run)


if __name__ == "__main__":
    main()
