"""Small tokenizers of the kinds that models use, trained here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from quire.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "Ein Käfer läuft über die große Straße; naïve façade, déjà vu.",
    "Быстрая лиса прыгает через ленивую собаку.",
    "敏捷的狐狸跳过懒狗。 日本語のテキスト。 한국어 문장.",
    "def main() -> None:\n    print('hello')\n\n\n# done",
    "🙂 👩‍👩‍👧 🇫🇷 emoji and ﷽ ligatures",
] * 3

SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>"]


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen: every byte has a character, tokens are byte strings."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return wrap(backend)


def byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral: spaces are ▁, characters not in the vocabulary become byte tokens."""
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    backend.train_from_iterator(
        CORPUS[:3] * 3, trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    )
    rebuilt = Backend.from_str(backend.to_str())
    return wrap(plain_bytes(rebuilt))


def metaspace() -> Tokenizer:
    """As T5 and unigram SentencePiece models."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    )
    return wrap(backend)


def word_piece() -> Tokenizer:
    """As BERT: continuations begin with ##, and decoding moves spaces around punctuation."""
    backend = Backend(models.WordPiece(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    )
    return wrap(backend)


def plain_bytes(backend: Backend) -> Backend:
    """Byte tokens are ordinary tokens, which a trainer can only be given as special ones."""
    import json

    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIAL]
    return Backend.from_str(json.dumps(content))


def wrap(backend: Backend) -> Tokenizer:
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return Tokenizer(backend, special_tokens={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level, "byte_fallback": byte_fallback, "metaspace": metaspace, "word_piece": word_piece
}  # fmt: skip


@pytest.fixture(scope="session")
def tokenizers_by_kind() -> dict[str, Tokenizer]:
    return {kind: make() for kind, make in KINDS.items()}


@pytest.fixture(params=list(KINDS), scope="session")
def any_tokenizer(request: pytest.FixtureRequest, tokenizers_by_kind: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers_by_kind[request.param]
