"""The llama.cpp side of a comparison, through llama-cpp-python's low-level interface; run in the peer's environment.

Formats: BF16, and what llama.cpp's own quantizer makes of it (F16, Q8_0, Q4_0, Q4_K_M, ...); files are made once, in
the scratch folder. Options: n_batch, n_ubatch, flash_attn, kv_type, kv_unified, pure; the defaults are the settings
that were fastest where this was written. A single request and many at once have a context each, as a user would set it.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as api
import numpy as np
from protocol import Arguments, serve

GGML_F16 = 1
"""ggml's number of the dtype of the KV cache; 30 is bfloat16, 8 is Q8_0."""


def gguf_file(args: Arguments) -> Path:
    """The checkpoint in the wanted format, made where it is not there yet."""
    stem = f"{args.checkpoint.resolve().name}{'-pure' if args.options.get('pure') else ''}"
    wanted = args.scratch / f"{stem}-{args.format}.gguf"
    if wanted.exists():
        return wanted
    args.scratch.mkdir(parents=True, exist_ok=True)
    unfinished = wanted.with_suffix(".part")
    if args.format == "BF16":
        from gguf_checkpoint import write_bf16_gguf

        write_bf16_gguf(args.checkpoint, unfinished)
    else:
        source = gguf_file(Arguments(args.checkpoint, "BF16", args.threads, args.scratch, {}))
        params = api.llama_model_quantize_default_params()
        params.nthread, params.pure = args.threads, bool(args.options.get("pure"))
        params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{args.format}")
        if api.llama_model_quantize(str(source).encode(), str(unfinished).encode(), ctypes.byref(params)) != 0:
            raise SystemExit(f"llama.cpp could not make {wanted}")
    unfinished.rename(wanted)
    return wanted


class Engine:
    """A model and its contexts, made when first needed; every step is one llama_decode."""

    def __init__(self, path: Path, args: Arguments) -> None:
        api.llama_backend_init()
        self._args = args
        self._model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp could not load {path}")
        self._vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._contexts: dict[int, Any] = {}
        self._max_batch = int(args.options.get("n_batch", 2048))
        self._batch = api.llama_batch_init(self._max_batch, 0, 1)

    def _context(self, num_sequences: int, tokens_each: int) -> Any:
        """The context for so many sequences, emptied."""
        if num_sequences not in self._contexts:
            options, params = self._args.options, api.llama_context_default_params()
            params.n_ctx = num_sequences * -(-max(tokens_each, 256) // 256) * 256 if num_sequences > 1 else 4096
            params.n_batch, params.n_ubatch = self._max_batch, int(options.get("n_ubatch", 512))
            params.n_seq_max, params.kv_unified = num_sequences, bool(options.get("kv_unified", False))
            params.n_threads = params.n_threads_batch = self._args.threads
            params.flash_attn_type = int(options.get("flash_attn", 1))
            params.type_k = params.type_v = int(options.get("kv_type", GGML_F16))
            params.no_perf = True
            self._contexts[num_sequences] = api.llama_init_from_model(self._model, params)
        context = self._contexts[num_sequences]
        if not context:
            raise SystemExit("llama.cpp could not make the context")
        api.llama_memory_clear(api.llama_get_memory(context), True)
        return context

    def run(self, prompts: list[list[int]], output_len: int) -> dict[str, float]:
        """Continuous batching: running sequences first, then as much of the waiting prompts as the batch takes."""
        context = self._context(len(prompts), max(map(len, prompts)) + output_len)
        positions = [0] * len(prompts)
        generated: list[list[int]] = [[] for _ in prompts]
        first_s = 0.0
        start_s = time.perf_counter()
        while any(len(tokens) < output_len for tokens in generated):
            rows: list[tuple[int, int, int, bool]] = []  # sequence, token, position, whether its logits are wanted
            for sequence, tokens in enumerate(generated):
                if tokens and len(tokens) < output_len:
                    rows.append((sequence, tokens[-1], positions[sequence], True))
            for sequence, prompt in enumerate(prompts):
                start = positions[sequence]
                for position in range(start, min(len(prompt), start + self._max_batch - len(rows))):
                    rows.append((sequence, prompt[position], position, position == len(prompt) - 1))
            for sequence, token in self._decode(context, rows):
                generated[sequence].append(token)
            for sequence, _, position, _ in rows:
                positions[sequence] = position + 1
            first_s = first_s or time.perf_counter() - start_s
        return {"first_s": first_s, "total_s": time.perf_counter() - start_s}

    def _decode(self, context: Any, rows: list[tuple[int, int, int, bool]]) -> list[tuple[int, int]]:
        """Runs one batch; (sequence, its next token by argmax) of the rows that wanted one."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (sequence, token, position, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if api.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")
        return [
            (sequence, int(self._logits(context, i).argmax()))
            for i, (sequence, _, _, wanted) in enumerate(rows)
            if wanted
        ]

    def _logits(self, context: Any, row: int) -> np.ndarray:
        return np.ctypeslib.as_array(api.llama_get_logits_ith(context, row), shape=(self._vocab_size,))


def main() -> None:
    """Makes the file, loads it, serves."""
    args = Arguments.parse()
    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, ctypes.c_void_p(0))
    engine = Engine(gguf_file(args), args)
    words = api.llama_print_system_info().decode().replace(" = ", "=").split()
    features = ",".join(word[:-2] for word in words if word.endswith("=1"))
    serve(f"llama-cpp-python {llama_cpp.__version__}, {args.format} ({features})", engine.run)


if __name__ == "__main__":
    main()
