"""Writes docs/api-fields.md: every field of both endpoints, of SamplingParams and of LLM, and what happens with it.

    python tools/api_fields.py            to docs/api-fields.md
    python tools/api_fields.py --check    1 when the page is not what the code says

The rows come from the tables and classes that the server itself uses; only what OpenAI and vLLM have, and where they
differ, is written down here.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from quire.engine.config import EngineConfig
from quire.engine.vllm_options import VLLM_OPTIONS
from quire.field_ranges import INTEGER_RANGES, MAX_N, MAX_STRING_CHARS, MAX_STRINGS, NUMBER_RANGES
from quire.foreign_fields import ForeignField
from quire.options import aliases_of, options_of
from quire.sampling_params import SamplingParams
from quire.server.foreign_request_fields import STREAM_OPTIONS_FOREIGN
from quire.server.sampling_fields import SamplingFields, StreamOptions
from quire.server.schemas import ChatCompletionRequest, CompletionRequest
from quire.vllm_sampling_fields import VLLM_SAMPLING_FIELDS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api-fields.md"

OPENAI: Mapping[str, str] = {
    "completions": """model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty
        seed stop stream stream_options suffix temperature top_p user""",
    "chat": """messages model audio frequency_penalty function_call functions logit_bias logprobs
        max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls prediction
        presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format
        safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools top_logprobs
        top_p user verbosity web_search_options""",
}
"""Fields of OpenAI's API, by the types of openai-python 3.57; words."""

NOT_VLLM: Mapping[str, str] = {
    "completions": """best_of service_tier guided_json guided_regex guided_choice guided_grammar early_stopping
        guided_decoding_backend guided_whitespace_pattern logits_processors""",
    "chat": """best_of service_tier guided_json guided_regex guided_choice guided_grammar early_stopping
        guided_decoding_backend guided_whitespace_pattern logits_processors functions function_call audio modalities
        moderation prediction prompt_cache_key metadata prompt_cache_options prompt_cache_retention safety_identifier
        store verbosity web_search_options""",
    "SamplingParams": """best_of truncate_prompt_tokens logits_processors guided_decoding use_beam_search length_penalty
        early_stopping""",
}
"""Fields here that vLLM 0.33 does not have, or no longer; words."""

NOTES: Mapping[str, str] = {
    "model": "One of the served names; left out, the first.",
    "messages": "Text only. A message has `role`, `content`, `name`, `tool_calls`, `tool_call_id` and reasoning.",
    "prompt": f"A text, token ids, or a list of them. Prompts times `n` (or `best_of`): {MAX_N} at most.",
    "echo": "The prompt comes first, with its logprobs where `logprobs` asks for them.",
    "best_of": "Draws so many and returns the `n` likeliest per token; not while streaming.",
    "max_tokens": "Null = up to the model's length. In completions 0 goes with `echo`, and scores the prompt: "
    "nothing is generated or counted.",
    "max_completion_tokens": "The same limit as `max_tokens` under its newer name.",
    "logprobs": "In completions a count: that many, and the drawn token where it is not among them. In chats a switch.",
    "top_logprobs": "Exactly so many, with `logprobs`.",
    "prompt_logprobs": "Not while streaming.",
    "add_special_tokens": "What tokenizer.json adds, such as bos. Off in chats, whose template writes them.",
    "tools": 'Shown to the model, with `tool_choice` "none"; calls are not parsed.',
    "tool_choice": 'Only "none".',
    "add_generation_prompt": "Passed to the template.",
    "continue_final_message": "The last message is left open.",
    "chat_template_kwargs": "Variables of the template.",
    "priority": "Lower first; needs `--scheduling-policy priority`.",
    "cache_salt": "Prefixes are shared only among requests of one salt; 1024 characters at most.",
    "request_id": "Part of the answer's id; visible ASCII, 128 characters at most.",
    "user": "Written to the log beside the request's id.",
    "stream": "Server-sent events.",
    "stream_options": "Only with `stream`.",
    "return_token_ids": "`token_ids` in every choice, `prompt_token_ids` once.",
    "return_tokens_as_token_ids": "Tokens of logprobs are called `token_id:N`.",
    "include_usage": "A last chunk without choices has the counts; `usage` is null in the others.",
    "continuous_usage_stats": "The counts so far in every chunk.",
}
"""What a field that is honoured means, where the docstrings of SamplingParams and EngineConfig do not say it."""

DIFFERENCES: Mapping[str, str] = {
    "unknown fields": "OpenAI refuses them, vLLM ignores them; Quire refuses them by name, unless they are null.",
    "null": "Left out, everywhere: in the request, in `stream_options`, in `logit_bias`, in a message.",
    "1.0 for 1": 'Taken where a whole number is wanted, as by vLLM. vLLM takes the text "1" too, Quire refuses it.',
    "max_tokens": "0: OpenAI and vLLM take it with `echo`; so does Quire. Without `echo` it is refused.",
    "temperature": "OpenAI and vLLM: 2 at most; vLLM raises what is under 0.01. Quire: 1e6 at most; below 1e-5 greedy.",
    "stop": f"OpenAI: 4 at most. Quire: {MAX_STRINGS}, of {MAX_STRING_CHARS} characters together. A stop string that "
    "holds a special token's text is found though special tokens are not shown; vLLM does not find it.",
    "logit_bias": "vLLM cuts values to [-100, 100]; OpenAI and Quire refuse others.",
    "logprobs": "OpenAI: 5 at most in completions, 20 in chats. vLLM and Quire: `--max-logprobs`, 20 by default.",
    "top_logprobs": "Names never collide: a part of a character is `bytes:\\xe2`, as with OpenAI, a second token of "
    "one text `token_id:N`. vLLM drops such tokens from completions.",
    "text_offset": "Counted in the answer's text, the same streamed and whole. vLLM adds up the tokens' texts, "
    "which differ behind characters that several tokens make up.",
    "best_of": "vLLM no longer has it. SamplingParams takes it where it equals `n`.",
    "seed": "Draws depend on seed and position alone, never on what else runs.",
    "suffix, functions, response_format": "OpenAI honours them, Quire refuses them by name.",
    "skip_special_tokens": "vLLM may take its default from the model; here it is true.",
    "SamplingParams": "vLLM's can be written to. Quire's are frozen: `dataclasses.replace(params, ...)`; `clone()` and "
    "`from_optional()` are there.",
    "LLM": f"`{'`, `'.join(aliases_of(EngineConfig))}` are taken under those names too; None means left out.",
}
"""Subject -> where OpenAI, vLLM and Quire differ."""


def described(owner: type) -> dict[str, str]:
    """Field -> its sentence in the `Attributes` of a class's docstring, where one sentence stands for it alone."""
    lines = (owner.__doc__ or "").split("Attributes:")[1].split("Raises:")[0].splitlines()
    names = {item.name for item in fields(owner)}
    found: dict[str, str] = {}
    text = " ".join(line.strip() for line in lines)
    marks = [
        mark
        for mark in re.finditer(r"(?:^|(?<=[.;] )|(?<=  ))((?:\w+, )*\w+): ", f" {text}")
        if set(mark[1].split(", ")) <= names
    ]
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        sentence = f" {text}"[mark.end() : following.start() if following else None].strip()
        for name in mark[1].split(", "):
            found[name] = sentence[:1].upper() + sentence[1:]
    return found


def allowed(name: str) -> str:
    """The range of a field's numbers, as errors say it."""
    specs = [table[name].text for table in (INTEGER_RANGES, NUMBER_RANGES) if name in table]
    if name == "logit_bias":
        return "keys: token ids; values: " + NUMBER_RANGES[name].text
    return "; ".join(specs)


def request_rows(endpoint: str, model: type[SamplingFields]) -> Iterator[tuple[str, ...]]:
    """(field, OpenAI, vLLM, what happens, range, note) of an endpoint."""
    notes = {**described(SamplingParams), **NOTES}
    for name in sorted({*model.model_fields, *model.foreign}):
        spec = model.foreign.get(name)
        owners = (yes(name in OPENAI[endpoint].split()), yes(name not in NOT_VLLM[endpoint].split()))
        if spec is None:
            yield (code(name), *owners, "honoured", request_range(endpoint, name), notes[name])
        else:
            yield (code(name), *owners, fate(spec), neutral_text(spec), sentence(spec))


def request_range(endpoint: str, name: str) -> str:
    """The range of a field in a request; of `logprobs`, which is a switch in chats and never -1, its own."""
    if name == "logprobs":
        return "" if endpoint == "chat" else allowed("top_logprobs")
    return allowed(name)


def yes(is_so: bool) -> str:
    return "yes" if is_so else ""


def sampling_rows() -> Iterator[tuple[str, ...]]:
    notes = {**NOTES, **described(SamplingParams)}
    for item in fields(SamplingParams):
        spec = VLLM_SAMPLING_FIELDS.get(item.name)
        has_vllm = yes(item.name not in NOT_VLLM["SamplingParams"].split())
        if spec is None:
            yield code(item.name), has_vllm, "honoured", f"`{item.default!r}`", allowed(item.name), notes[item.name]
        else:
            yield code(item.name), has_vllm, fate(spec), "", neutral_text(spec), sentence(spec)


def engine_rows() -> Iterator[tuple[str, ...]]:
    for item in options_of(EngineConfig):
        default = "" if item.default is MISSING else f"`{item.default!r}`"
        other = "".join(f"Also as `{alias}`. " for alias in item.option.aliases)
        yield code(item.name), "honoured", default, other + item.option.help[:1].upper() + item.option.help[1:] + "."
    for name, spec in sorted(VLLM_OPTIONS.items()):
        yield code(name), fate(spec), neutral_text(spec), sentence(spec)


def code(text: str) -> str:
    return f"`{text}`"


def fate(spec: ForeignField) -> str:
    return "taken, said once" if spec.kind == "ignored" else "**refused**"


def neutral_text(spec: ForeignField) -> str:
    """The values that mean nothing; null always does."""
    if spec.kind == "ignored" or not spec.neutral:
        return ""
    return "taken: " + ", ".join(code(repr(value)) for value in spec.neutral)


def sentence(spec: ForeignField) -> str:
    text = spec.reason[:1].upper() + spec.reason[1:] + "."
    return f"{text} Instead: {spec.hint}." if spec.hint else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def page() -> str:
    """The whole page."""
    head = ("field", "OpenAI", "vLLM", "Quire", "values", "meaning")
    lines = [
        "# Fields of the API",
        "",
        "Generated by `python tools/api_fields.py` from the tables that the server uses; do not edit.",
        "Compared with OpenAI's API (openai-python 3.57) and vLLM 0.33.",
        "",
        "- **honoured**: does what it says.",
        "- **taken, said once**: changes no answer here; one line in the log, per process and field.",
        "- **refused**: would change the answer: a 400 (or an error) that names the field. Null is always taken.",
        "",
        "## Where they differ",
        "",
        *table(("subject", "difference"), DIFFERENCES.items()),
        "",
        "## POST /v1/completions",
        "",
        *table(head, request_rows("completions", CompletionRequest)),
        "",
        "## POST /v1/chat/completions",
        "",
        *table(head, request_rows("chat", ChatCompletionRequest)),
        "",
        "## stream_options",
        "",
        *table(
            ("field", "Quire", "meaning"),
            [
                *((code(name), "honoured", NOTES[name]) for name in StreamOptions.model_fields),
                *((code(name), fate(spec), sentence(spec)) for name, spec in STREAM_OPTIONS_FOREIGN.items()),
            ],
        ),
        "",
        "## SamplingParams",
        "",
        "In the order of its positions.",
        "",
        *table(("field", "vLLM", "Quire", "default", "values", "meaning"), sampling_rows()),
        "",
        "## LLM",
        "",
        *table(("argument", "Quire", "default", "meaning"), engine_rows()),
        "",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true")
    args: Any = parser.parse_args(argv)
    text = page()
    if not args.check:
        args.output.write_text(text, encoding="utf-8")
        return 0
    if not args.output.exists() or args.output.read_text(encoding="utf-8") != text:
        print(f"{args.output} is not what the code says; run python tools/api_fields.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
