"""The demo model's tokenizer: byte-level BPE, digits one by one, trained on the demo text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .chat import (
    CHAT_TEMPLATE,
    END_OF_TEXT,
    IM_END,
    IM_START,
    TOOL_CALL,
    TOOL_CALL_END,
    TOOL_RESPONSE,
    TOOL_RESPONSE_END,
    render,
)  # fmt: skip
from .manual import TOPICS
from .mixture import stream
from .words import CITIES, NAMES, WORDS

# Words with their leading space, single digits, runs of signs, white space.
SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _texts(seed: int) -> Iterator[str]:
    for topic in TOPICS:
        yield from topic.answers * 40
        yield from (topic.questions + topic.subjects) * 10
    for word in [*WORDS, *NAMES, *CITIES]:
        yield from [word, f" {word}"] * 200  # an exercise's word is one token, with and without its space
    for conversation in islice(stream(seed), 8000):
        # Letters and invented words must not be learnt as pieces: only words of the lists may grow.
        if conversation.kind in ("manual", "elsewhere", "json", "tool_call", "tool_answer", "manual_with_tools"):
            yield "".join(given + answer for given, answer in render(conversation))


def train_tokenizer(vocab_size: int, seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    plain = [TOOL_CALL, TOOL_CALL_END, TOOL_RESPONSE, TOOL_RESPONSE_END]
    special = [END_OF_TEXT, IM_START, IM_END]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special + plain,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    fixed = json.loads(tokenizer.to_str())
    for token in fixed["added_tokens"]:
        token["special"] = token["content"] not in plain  # a tool call is text that a parser must see
    return Tokenizer.from_str(json.dumps(fixed))


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """tokenizer.json and tokenizer_config.json as transformers writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(token_id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
        if isinstance(token, AddedToken)
    }
    config = {
        "added_tokens_decoder": added,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "additional_special_tokens": [IM_START, IM_END],
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
