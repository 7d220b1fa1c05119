"""Train Quire's demo model: a small Qwen3 checkpoint, on CPU, from the text in tools/demo_data.

    python tools/train_demo_model.py --out runtime/quire/demo --minutes 55

Needs torch, tokenizers and safetensors; transformers, if present, proves at the end that the files load. The
learning rate follows the wall clock, so a slower machine ends in the same time having seen less text. Matrices are
trained by Muon (Jordan et al. 2024: momentum, orthogonalized by Newton-Schulz), the rest by AdamW.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from demo_data.card import write_card
from demo_data.chat import END_OF_TEXT, IM_END, Conversation, encode
from demo_data.manual import TOPICS
from demo_data.mixture import draw, stream
from demo_data.tokenizer import save_tokenizer, train_tokenizer
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

TOKENIZER_SEED, TRAIN_SEED, EVAL_SEED = 0, 1, 2


@dataclass(frozen=True)
class Shape:
    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6


# Shapes here: B = rows  L = tokens of a row  D = hidden_size  H = heads  K = kv heads  E = head_dim
class Norm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, e = shape.hidden_size, shape.head_dim
        self.heads, self.kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.q_proj = nn.Linear(d, self.heads * e, bias=False)
        self.k_proj = nn.Linear(d, self.kv_heads * e, bias=False)
        self.v_proj = nn.Linear(d, self.kv_heads * e, bias=False)
        self.o_proj = nn.Linear(self.heads * e, d, bias=False)
        self.q_norm, self.k_norm = Norm(e, shape.rms_norm_eps), Norm(e, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(rows, length, self.heads, -1)).transpose(1, 2)  # [B, H, L, E]
        k = self.k_norm(self.k_proj(x).view(rows, length, self.kv_heads, -1)).transpose(1, 2)  # [B, K, L, E]
        v = self.v_proj(x).view(rows, length, self.kv_heads, -1).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), MLP(shape)
        self.input_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = Norm(shape.hidden_size, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    """Qwen3 with a tied head; parameter names are those of the Hugging Face format without `model.`"""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = Norm(shape.hidden_size, shape.rms_norm_eps)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith("proj.weight"):
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.04 / (math.sqrt(2 * shape.num_hidden_layers) if out else 1))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states [B, L, D] after the last norm; mask [B, 1, L, L] is True where a token may look."""
        half = self.shape.head_dim // 2
        speed = self.shape.rope_theta ** (-torch.arange(half, dtype=torch.float32) / half)
        angle = torch.arange(ids.shape[1], dtype=torch.float32)[:, None] * speed
        cos, sin = angle.cos(), angle.sin()
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.embed_tokens.weight.T


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is replaced by the nearest matrix with singular values about 1."""

    def __init__(self, weights: list[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.02) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                by_shape[weight.shape].append(weight)
            for size, weights in by_shape.items():
                grads = torch.stack([weight.grad for weight in weights])
                state = self.state[weights[0]].setdefault("momentum", torch.zeros_like(grads))
                state.lerp_(grads, 1 - group["momentum"])
                update = orthogonalize(grads.lerp(state, group["momentum"]))
                scale = group["lr"] * max(1.0, size[0] / size[1]) ** 0.5
                for weight, direction in zip(weights, update, strict=True):
                    weight.mul_(1 - group["lr"] * group["decay"]).sub_(direction, alpha=scale)


def orthogonalize(x: Tensor) -> Tensor:
    """Newton-Schulz iteration of fifth order on a stack of matrices; coefficients of the Muon paper."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


@dataclass(frozen=True)
class Batch:
    ids: Tensor  # i64[B, L]
    mask: Tensor  # bool[B, 1, L, L]: causal, and within one conversation
    where: Tensor  # i64[N]: flat positions whose next token is learnt
    targets: Tensor  # i64[N]


def pack(rows: list[list[tuple[list[int], list[bool]]]], length: int) -> Batch:
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    owner = torch.full((len(rows), length), -1)
    where, targets = [], []
    for r, row in enumerate(rows):
        at = 0
        for number, (tokens, learn) in enumerate(row):
            ids[r, at : at + len(tokens)] = torch.tensor(tokens)
            owner[r, at : at + len(tokens)] = number
            for i in range(1, len(tokens)):
                if learn[i]:
                    where.append(r * length + at + i - 1)
                    targets.append(tokens[i])
            at += len(tokens)
    mask = (owner[:, :, None] == owner[:, None, :]).tril()[:, None]
    return Batch(ids, mask, torch.tensor(where), torch.tensor(targets))


def batches(tokenizer: Tokenizer, seed: int, rows: int, length: int, seen: set[str]) -> Iterator[Batch]:
    """Endless packed batches. A conversation goes into the fullest open row that still holds it."""
    open_rows: list[list[tuple[list[int], list[bool]]]] = [[] for _ in range(rows)]
    room = [length] * rows
    for conversation in stream(seed):
        seen.add(conversation.prompt)
        item = encode(conversation, tokenizer)
        if len(item[0]) > length:
            raise ValueError(f"a conversation has {len(item[0])} tokens; --length {length} is too short")
        fits = [r for r in range(rows) if room[r] >= len(item[0])]
        if not fits:
            yield pack(open_rows, length)
            open_rows, room, fits = [[] for _ in range(rows)], [length] * rows, [0]
        r = min(fits, key=lambda r: room[r])
        open_rows[r].append(item)
        room[r] -= len(item[0])


@torch.no_grad()
def evaluate(model: Qwen3, tokenizer: Tokenizer, seen: set[str], per_kind: int) -> dict[str, tuple[int, int]]:
    """Right answers and tries per kind, on prompts that training never drew (but for the manual's questions).

    An answer is right if every token of it is the most likely one, which is when greedy decoding would give it.
    A manual question may be answered with any of its topic's answers.
    """
    same = {answer: topic.answers for topic in TOPICS for answer in topic.answers}
    score: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for kind, conversation in held_out(seen, per_kind):
        user, answer = conversation.turns[-1]
        right = False
        for candidate in same.get(answer, [answer]):
            turns = (*conversation.turns[:-1], (user, candidate))
            ids, learn = encode(Conversation(kind, turns, conversation.tools), tokenizer)
            first = len(ids) - learn[::-1].index(False)  # where the last answer begins
            tokens = torch.tensor([ids])
            mask = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool).tril()
            best = model.logits(model(tokens, mask)[0, first - 1 : -1]).argmax(-1)
            right = right or best.tolist() == ids[first:]
        hits, tries = score[kind]
        score[kind] = (hits + right, tries + 1)
    return dict(sorted(score.items()))


def held_out(seen: set[str], per_kind: int) -> Iterator[tuple[str, Conversation]]:
    rng = random.Random(EVAL_SEED)
    count: dict[str, int] = defaultdict(int)
    for _ in range(per_kind * 150):
        conversation = draw(rng)
        kind = conversation.kind
        manual = kind in ("manual", "elsewhere", "manual_with_tools")
        if count[kind] < per_kind and (manual or conversation.prompt not in seen):
            count[kind] += 1
            seen.add(conversation.prompt)
            yield kind, conversation


def save(model: Qwen3, tokenizer: Tokenizer, folder: Path) -> None:
    """config.json, generation_config.json, model.safetensors (bf16) and the tokenizer, as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = model.shape
    ids = {"eos_token_id": tokenizer.token_to_id(IM_END), "pad_token_id": tokenizer.token_to_id(END_OF_TEXT)}
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **asdict(shape),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "rope_scaling": None,
        "bos_token_id": None,
        **ids,
        "torch_dtype": "bfloat16",
    }
    generation = {**ids, "do_sample": False, "max_new_tokens": 256}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tensors = {
        f"model.{name}": weight.detach().to(torch.bfloat16).contiguous() for name, weight in model.named_parameters()
    }
    part = folder / "model.safetensors.part"
    save_file(tensors, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(folder / "model.safetensors")
    save_tokenizer(tokenizer, folder, shape.max_position_embeddings)


def train(model: Qwen3, tokenizer: Tokenizer, args: argparse.Namespace, seen: set[str]) -> dict[str, float]:
    matrices = [w for name, w in model.named_parameters() if name.endswith("proj.weight")]
    others = [w for name, w in model.named_parameters() if not name.endswith("proj.weight")]
    muon = Muon(matrices, lr=args.muon_lr)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    start = saved = logged = time.monotonic()
    steps = tokens = learnt = 0
    running = 0.0
    for batch in batches(tokenizer, TRAIN_SEED, args.rows, args.length, seen):
        now = time.monotonic()
        done = (now - start) / (60 * args.minutes)
        if done >= 1 or steps == args.max_steps:
            break
        rate = min(1.0, (steps + 1) / 40) * max(0.02, min(1.0, (1 - done) / 0.6))
        for optimizer, peak in ((muon, args.muon_lr), (adam, args.adam_lr)):
            optimizer.param_groups[0]["lr"] = peak * rate
        hidden = model(batch.ids, batch.mask).flatten(0, 1)[batch.where]
        loss = F.cross_entropy(model.logits(hidden), batch.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        muon.step()
        adam.step()
        model.zero_grad(set_to_none=True)
        steps, tokens, learnt = steps + 1, tokens + batch.ids.numel(), learnt + len(batch.targets)
        running = loss.item() if steps == 1 else 0.95 * running + 0.05 * loss.item()
        if now - logged > 15:
            logged = now
            print(
                f"{now - start:6.0f} s  step {steps}  {tokens / (now - start):5.0f} tok/s  loss {running:.4f}",
                flush=True,
            )
        if args.checkpoint and now - saved > 300:
            saved = now
            save(model, tokenizer, args.checkpoint)
            rates = evaluate(model, tokenizer, set(seen), 20)
            print("  ".join(f"{kind} {hits}/{tries}" for kind, (hits, tries) in rates.items()), flush=True)
    return {
        "steps": steps,
        "tokens": tokens,
        "learnt_tokens": learnt,
        "conversations": len(seen),
        "loss": running,
        "minutes": (time.monotonic() - start) / 60,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--minutes", type=float, default=55, help="wall-clock time of training")
    parser.add_argument("--max-steps", type=int, default=-1, help="stop earlier, after so many steps")
    parser.add_argument("--checkpoint", type=Path, help="folder for a checkpoint every five minutes")
    parser.add_argument("--layers", type=int, default=Shape.num_hidden_layers)
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--remark", default="", help="what the card shall say about the load of the machine")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--per-kind", type=int, default=100, help="exercises per kind in the final score")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(TRAIN_SEED)
    shape = Shape(num_hidden_layers=args.layers)
    tokenizer = train_tokenizer(shape.vocab_size, TOKENIZER_SEED)
    model = Qwen3(shape)
    seen: set[str] = set()
    figures = train(model, tokenizer, args, seen)
    save(model, tokenizer, args.out)
    for weight in model.parameters():
        weight.data = weight.data.to(torch.bfloat16).float()  # score what was saved
    figures["parameters"] = sum(weight.numel() for weight in model.parameters())
    rates = evaluate(model, tokenizer, seen, args.per_kind)
    print(
        json.dumps({**figures, "exact": {kind: f"{hits}/{tries}" for kind, (hits, tries) in rates.items()}}, indent=2)
    )
    write_card(args.out, asdict(shape), figures, rates, limit=args.minutes, shared=args.remark)
    check_with_transformers(args.out)
    return 0


def check_with_transformers(folder: Path) -> None:
    """Load the finished folder as any user of transformers would, and ask it a question."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        print("transformers is not installed: the final load check was not made")
        return
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "What is a block table?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    print(tokenizer.decode(model.generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]))


if __name__ == "__main__":
    sys.exit(main())
