"""A model that does not fit is refused before anything is loaded, with settings that do fit."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quire.device import control_groups
from quire.device.registry import LoadedBackend
from quire.engine import build
from quire.engine.build import load_engine
from quire.engine.config import EngineConfig
from quire.errors import ConfigError
from quire.weights.hub import resolve_model
from tests.device.system_tree import V2_MOUNT, system_tree

MIB = 2**20
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 2048,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}
"""17 MiB of weights in bfloat16, 4 KiB of cache for each token: 128 MiB for the longest sequence."""


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SHAPE))
    return str(folder)


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Called with a number of bytes, it makes them the limit of this process's control group."""
    root = tmp_path / "system"
    monkeypatch.setattr(control_groups, "SYSTEM_ROOT", root)
    system_tree(root, group="0::/\n", mounts=V2_MOUNT.format(seen="/"), files={"": {"memory.current": 0}})
    return lambda num_bytes: (root / "sys/fs/cgroup/memory.max").write_text(f"{num_bytes}\n")


def config(checkpoint: str, **options: Any) -> EngineConfig:
    defaults = {
        "device": "cpu",
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "max_num_batched_tokens": 128,
        "max_num_seqs": 4,
        "memory_utilization": 1.0,
    }
    return EngineConfig(model=checkpoint, **{**defaults, **options})


def refusal(checkpoint: str, **options: Any) -> ConfigError:
    with pytest.raises(ConfigError, match="does not fit into the memory of device") as refused:
        load_engine(config(checkpoint, **options)).close()
    return refused.value


def proposals(error: ConfigError) -> list[str]:
    return str(error.hint).split(", or ")


def option(proposal: str, flag: str) -> int:
    found = re.search(rf"{flag} (\d+)", proposal)
    assert found, f"{flag} in {proposal!r}"
    return int(found[1])


@pytest.mark.parametrize("device", ["cpu", "reference", "torch", "tpu"])
def test_a_model_larger_than_the_machine_is_refused_unread(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terabyte of weights; on the memory that this machine really has."""
    monkeypatch.setenv("QUIRE_JAX_PLATFORM", "cpu")
    monkeypatch.setattr(LoadedBackend, "create_executor", lambda *_: pytest.fail("an executor was made"))
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                **SHAPE,
                "hidden_size": 16384,
                "intermediate_size": 131072,
                "num_hidden_layers": 100,
                "num_attention_heads": 64,
            }
        )
    )
    error = refusal(str(tmp_path), device=device, max_model_len=1024)
    assert re.search(
        rf"device {device}: weights 1\d{{3}}\.\d GiB \+ activations .* \+ KV cache of a sequence of "
        r"max_model_len=1024 tokens .* = 1\d{3}\.\d GiB, [\d.]+ GiB is available",
        error.what,
    )
    assert "is free" in str(error.because)
    assert proposals(error) == ["a smaller model", "a device with more memory"]


def test_what_is_proposed_is_what_fits(checkpoint: str, container: Any) -> None:
    container(60 * MIB)
    error = refusal(checkpoint)
    longest = option(proposals(error)[0], "--max-model-len")
    assert 8192 < longest < 16384
    load_engine(config(checkpoint, max_model_len=longest)).close()
    refusal(checkpoint, max_model_len=longest + 64)


def test_a_quantization_that_fits_is_proposed(checkpoint: str, container: Any) -> None:
    container(14 * MIB)
    error = refusal(checkpoint, max_model_len=128)
    assert proposals(error)[0] == "-q int8"
    load_engine(config(checkpoint, max_model_len=128, quantization="int8")).close()
    container(10 * MIB)
    error = refusal(checkpoint, max_model_len=128)
    assert proposals(error)[0] == "-q int4"
    assert proposals(refusal(checkpoint, max_model_len=128, quantization="int8"))[0] == "-q int4"
    load_engine(config(checkpoint, max_model_len=128, quantization="int4")).close()


def test_a_quantization_and_shorter_sequences_together(checkpoint: str, container: Any) -> None:
    container(14 * MIB)
    (proposal, *_) = proposals(refusal(checkpoint))
    assert proposal.startswith("-q int4 --max-model-len ")
    longest = option(proposal, "--max-model-len")
    load_engine(config(checkpoint, quantization="int4", max_model_len=longest)).close()


def test_a_quantized_model_is_not_quantized_further(checkpoint: str, container: Any) -> None:
    container(8 * MIB)
    error = refusal(checkpoint, quantization="int4", max_model_len=2048)
    assert not any(proposal.startswith("-q") for proposal in proposals(error))


def test_a_device_without_kernels_proposes_no_quantization(checkpoint: str, container: Any) -> None:
    container(14 * MIB)
    assert not any("-q" in proposal for proposal in proposals(refusal(checkpoint, device="torch", max_model_len=128)))


def test_the_reference_holds_quantized_weights_in_float32(checkpoint: str, container: Any) -> None:
    container(30 * MIB)
    error = refusal(checkpoint, device="reference", quantization="int4", max_model_len=128)
    assert "weights 33." in error.what


def test_smaller_steps_and_a_smaller_cache_are_proposed(checkpoint: str, container: Any) -> None:
    container(40 * MIB)
    options = {"max_num_batched_tokens": 4096, "max_model_len": 256, "kv_cache_dtype": "float32"}
    tokens = option(
        next(p for p in proposals(refusal(checkpoint, **options)) if "batched" in p), "--max-num-batched-tokens"
    )
    load_engine(config(checkpoint, **{**options, "max_num_batched_tokens": tokens})).close()
    container(64 * MIB)
    options = {"max_model_len": 8192, "kv_cache_dtype": "float32"}
    error = refusal(checkpoint, **options)
    assert "--kv-cache-dtype bfloat16" in proposals(error)
    load_engine(config(checkpoint, **{**options, "kv_cache_dtype": "bfloat16"})).close()


def test_a_larger_share_of_the_memory_is_proposed(checkpoint: str, container: Any) -> None:
    container(100 * MIB)
    options = {"max_model_len": 12288, "memory_utilization": 0.5}
    error = refusal(checkpoint, **options)
    assert "of that the engine takes 0.5" in str(error.because)
    share = next(p for p in proposals(error) if "utilization" in p).split()[-1]
    assert 0.5 < float(share) < 0.9
    load_engine(config(checkpoint, **{**options, "memory_utilization": float(share)})).close()


def test_a_number_of_blocks_is_checked_as_it_is_given(checkpoint: str, container: Any) -> None:
    container(64 * MIB)
    error = refusal(checkpoint, num_kv_blocks=1000, memory_utilization=0.1)
    assert "KV cache of 1000 blocks 250.0 MiB" in error.what
    blocks = option(proposals(error)[0], "--num-kv-blocks")
    load_engine(config(checkpoint, num_kv_blocks=blocks, max_model_len=64)).close()


def test_generate_under_a_real_limit(checkpoint: str) -> None:
    """`ulimit -v`, as a user sets it."""
    arguments = [
        "generate",
        "hello",
        "-m",
        checkpoint,
        "--load-format",
        "dummy",
        "--device",
        "cpu",
        "--cpu-threads",
        "1",
    ]
    limited = [
        sys.executable,
        "-c",
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from quire.cli.main import main; sys.exit(main(sys.argv[1:]))",
    ]
    shutil.copy(resolve_model("demo") / "tokenizer.json", checkpoint)
    (Path(checkpoint) / "config.json").write_text(json.dumps({**SHAPE, "intermediate_size": 200000}))
    ran = subprocess.run([*limited, *arguments], capture_output=True, text=True, timeout=120)
    assert ran.returncode != 0
    assert "does not fit into the memory of device cpu: weights" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_full_container_has_room_for_nothing(checkpoint: str, container: Any) -> None:
    container(1)
    assert "0.0 MiB is available" in refusal(checkpoint, max_model_len=64).what


def test_a_device_that_does_not_know_its_memory_is_not_checked(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolve_device = build.resolve_device

    def silent(name: str, options: Any) -> LoadedBackend:
        found = resolve_device(name, options)
        return replace(found, report=replace(found.report, total_memory_bytes=0, free_memory_bytes=0))

    monkeypatch.setattr(build, "resolve_device", silent)
    with caplog.at_level(logging.DEBUG, "quire"):
        load_engine(config(checkpoint, max_model_len=64, num_kv_blocks=4)).close()
    assert "does not say how much memory" in caplog.text


def test_a_tensor_that_is_dequantized_while_loading_counts() -> None:
    """The peak of loading and the peak of running are not at the same time."""
    from quire.engine.memory_fit import MemoryNeed

    assert MemoryNeed(weights=10, conversion=4, activations=1, kv=2).total == 14
    assert MemoryNeed(weights=10, conversion=3, activations=1, kv=9).total == 20
