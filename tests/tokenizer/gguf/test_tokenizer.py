"""Tokenizers from metadata against the ones whose vocabularies were written into it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from quire.errors import ModelError
from quire.tokenizer import Tokenizer
from quire.tokenizer.gguf import gguf_tokenizer
from quire.tokenizer.gguf.pre_tokenizers import PRE_TOKENIZERS

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog's owner sleeps on. It'll be 1234567 o'clock!",
    "Ein Käfer läuft über die große Straße; naïve façade, déjà vu.  Two  spaces   three    four",
    "Быстрая лиса прыгает через ленивую собаку. HTTPServer camelCase XMLParser",
    "敏捷的狐狸跳过懒狗。 日本語のテキスト。 한국어 문장.",
    "def main() -> None:\n    print('hello')\n\n\n# done\r\n\tx = {1: 2}\n",
] * 3
TEXTS = [
    *CORPUS[:5],
    "",
    " ",
    "  lead and trail  ",
    "a<|end|>b<tool> c",
    "<s>x</s>",
    "🙂👩‍👩‍👧 ﷽",
    "e\u0301 é ﬁ",
    "\n\n\n\n",
    "I'LL don't WE'RE",
    "3.14159 and 2024-11-22",
    "中文 mixed with English",
    "tab\tand\u00a0nbsp\u3000wide",
]
SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>"]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


ORIGINALS: Mapping[str, Any] = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False), None, False),
    "llama-bpe": (split(LLAMA3), None, True),
    "dbrx": (split(LLAMA3), None, False),
    "qwen2": (split(QWEN2), normalizers.NFC(), False),
    "tekken": (split(TEKKEN), None, True),
    "starcoder": (
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        None,
        False,
    ),
}
"""Pre-tokenizer's name -> what the tokenizer.json of its models has: pre-tokenizer, normalizer, ignore_merges."""


def metadata_of(backend: Backend, **values: Any) -> dict[str, Any]:
    """What a converter writes of a tokenizer: tokens, their types, merges."""
    content = json.loads(backend.to_str())
    by_id = {index: token for token, index in backend.get_vocab(with_added_tokens=True).items()}
    added = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in content["added_tokens"]}
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(max(by_id) + 1)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    types = [added.get(index, NORMAL if index in by_id else UNUSED) for index in range(len(tokens))]
    return {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        **{f"tokenizer.ggml.{name}": value for name, value in values.items()},
    }


def byte_level(name: str) -> Backend:
    """A tokenizer as the models that use this way of cutting publish it."""
    pre_tokenizer, normalizer, ignores_merges = ORIGINALS[name]
    backend = Backend(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=520,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    content = json.loads(backend.to_str())
    content["model"]["ignore_merges"] = ignores_merges
    if ignores_merges:  # words that no merge makes
        vocab = content["model"]["vocab"]
        vocab |= {
            word: max(vocab.values()) + 2 + index for index, word in enumerate(("Ġquick", "HTTP")) if word not in vocab
        }
    return Backend.from_str(json.dumps(content))


def assert_same(ours: Tokenizer, original: Backend) -> None:
    for text in TEXTS:
        expected = original.encode(text)
        assert ours.encode(text) == expected.ids, text
        assert ours.encode(text, add_special_tokens=False) == original.encode(text, add_special_tokens=False).ids
        for skip in (True, False):
            assert ours.decode(expected.ids, skip) == original.decode(expected.ids, skip_special_tokens=skip), text


@pytest.mark.parametrize("name", ORIGINALS)
def test_byte_level(name: str) -> None:
    original = byte_level(name)
    metadata = metadata_of(original, model="gpt2", pre=name, add_bos_token=True)
    original.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = gguf_tokenizer(metadata, special_ids={"bos": 1, "eos": 2}, eos_token_ids=[2, 3])
    assert_same(tokenizer, original)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.eos_token_ids) == (1, 2, (2, 3))
    assert tokenizer.special_token_ids == {0, 1, 2, 3}


@pytest.mark.parametrize(("name", "adds_bos"), [("gpt-2", False), ("llama-bpe", True), ("qwen2", False)])
def test_bos_where_the_file_says_nothing(name: str, adds_bos: bool) -> None:
    metadata = metadata_of(byte_level(name), model="gpt2", pre=name)
    tokenizer = gguf_tokenizer(metadata, special_ids={"bos": 1}, eos_token_ids=[])
    assert (tokenizer.encode("x")[0] == 1) is adds_bos


def test_eos_where_the_file_asks_for_it() -> None:
    metadata = metadata_of(byte_level("gpt-2"), model="gpt2", pre="gpt-2", add_eos_token=True)
    tokenizer = gguf_tokenizer(metadata, special_ids={"eos": 2}, eos_token_ids=[2])
    assert tokenizer.encode("x")[-1] == 2
    assert 2 not in tokenizer.encode("x", add_special_tokens=False)


def sentencepiece(prefix: bool) -> tuple[Backend, dict[str, Any]]:
    """A SentencePiece BPE model as tokenizer.json (merges) and as GGUF (scores): Llama 2 and, without prefix, Gemma."""
    steps = [normalizers.Prepend("▁")] if prefix else []
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    backend.train_from_iterator(
        CORPUS[:3] * 3, trainers.BpeTrainer(vocab_size=620, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    )
    content = json.loads(backend.to_str())
    vocab = content["model"]["vocab"]
    runs = ["▁" * length for length in range(2, 6)]
    pieces = [token for token in sorted(vocab, key=lambda token: vocab[token]) if token not in (*SPECIAL, *bytes_)]
    tokens = [*SPECIAL, *runs, *bytes_, *(piece for piece in pieces if piece not in runs), "<tool>"]
    ids = {token: index for index, token in enumerate(tokens)}
    content["model"]["vocab"] = ids
    content["model"]["merges"] = [
        [token[:cut], token[cut:]]
        for token in (*runs, *pieces)
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids and (token in runs) == (token.strip("▁") == "")
    ]
    content["pre_tokenizer"] = None
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    original = Backend.from_str(json.dumps(content))
    original.decoder = decoders.Sequence([*decoding, decoders.Strip(" ", 1, 0)] if prefix else decoding)
    original.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    original.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    kinds = {
        "<unk>": UNKNOWN,
        **dict.fromkeys(SPECIAL[1:], CONTROL),
        **dict.fromkeys(bytes_, BYTE),
        **dict.fromkeys((*runs, "<tool>"), USER_DEFINED),
    }
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [token.replace("▁", " ") if token in runs else token for token in tokens],
        "tokenizer.ggml.scores": [-1000.0 if token in kinds else float(-index) for index, token in enumerate(tokens)],
        "tokenizer.ggml.token_type": [kinds.get(token, NORMAL) for token in tokens],
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    return original, metadata


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(prefix: bool) -> None:
    original, metadata = sentencepiece(prefix)
    tokenizer = gguf_tokenizer(metadata, special_ids={"bos": 1, "eos": 2, "unknown": 0}, eos_token_ids=[2])
    assert_same(tokenizer, original)


def test_control_tokens_of_phi_3_strip_what_follows() -> None:
    _, metadata = sentencepiece(True)
    usual, phi3 = (
        gguf_tokenizer(
            {**metadata, "general.architecture": name}, special_ids={"bos": 1, "unknown": 0}, eos_token_ids=[]
        )
        for name in ("llama", "phi3")
    )
    assert phi3.encode("<|end|>\n x") == phi3.encode("<|end|>x")
    assert usual.encode("<|end|>\n x") != usual.encode("<|end|>x")
    assert phi3.encode("<s>\nx") == usual.encode("<s>\nx")


def test_a_published_tokenizer_json_is_used_as_it_is() -> None:
    backend = byte_level("gpt-2")
    backend.pre_tokenizer = split(r"\p{L}+| ")
    metadata = metadata_of(backend, model="gpt2", pre="unheard-of")
    metadata["tokenizer.huggingface.json"] = backend.to_str()
    assert_same(gguf_tokenizer(metadata, special_ids={}, eos_token_ids=[]), backend)


def test_chat_templates_by_name() -> None:
    metadata = metadata_of(byte_level("gpt-2"), model="gpt2", pre="gpt-2")
    metadata |= {
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}",
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.chat_templates": ["tool_use"],
    }
    tokenizer = gguf_tokenizer(metadata, special_ids={"bos": 1}, eos_token_ids=[])
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}]) == "<s>hi"
    assert tokenizer.chat_template.names == ("default", "tool_use")
    replaced = gguf_tokenizer(metadata, special_ids={}, eos_token_ids=[], chat_template="{{ 1 + 1 }}")
    assert replaced.apply_chat_template([{"role": "user", "content": "hi"}]) == "2"


def test_every_way_of_cutting_is_one_that_the_library_takes() -> None:
    metadata = metadata_of(byte_level("gpt-2"), model="gpt2")
    for name in PRE_TOKENIZERS:
        tokenizer = gguf_tokenizer({**metadata, "tokenizer.ggml.pre": name}, special_ids={}, eos_token_ids=[])
        for text in TEXTS[:5]:
            assert tokenizer.decode(tokenizer.encode(text)) == text.replace("e\u0301", "é")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer.ggml.pre": "martian"}, "pre='martian' not supported.*known are.*llama-bpe"),
        ({"tokenizer.ggml.model": "bert"}, "model='bert' not supported"),
        ({"tokenizer.ggml.tokens": []}, "has no tokenizer"),
        ({"tokenizer.ggml.merges": []}, "has no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["no such"]}, "do not fit"),
        ({"tokenizer.ggml.tokens": ["a", "b", "a"], "tokenizer.ggml.token_type": [1, 1, 1]}, "token 'a' is in the"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "token_type has shape"),
        ({"tokenizer.huggingface.json": "{"}, "cannot be read"),
    ],
)
def test_refusals_name_the_way_out(changes: dict[str, Any], message: str) -> None:
    metadata = {**metadata_of(byte_level("gpt-2"), model="gpt2", pre="gpt-2"), **changes}
    with pytest.raises(ModelError, match=f"(?s){message}") as caught:
        gguf_tokenizer(metadata, special_ids={}, eos_token_ids=[])
    assert caught.value.hint
