from __future__ import annotations

import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from quire.errors import ModelError
from quire.weights.formats.gguf import gguf_file
from quire.weights.formats.gguf.gguf_file import GgufFile, GgufFiles, open_gguf, part_paths
from tests.gguf_export import write

ARRAYS = {
    "a.matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.half": np.float16([1.5, -2.0]),
    "a.cube": np.arange(2 * 3 * 32, dtype=np.float32).reshape(2, 3, 32),
    "a.scalar": np.float32([7.0]),
}


def simple_file(path: Path, **options: int) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    if options:
        writer.add_custom_alignment(options["alignment"])
    for kind, value in (
        ("uint8", 200),
        ("int8", -3),
        ("uint16", 60000),
        ("int16", -300),
        ("uint32", 2**31),
        ("int32", -5),
        ("uint64", 2**40),
        ("int64", -(2**40)),
        ("float32", 0.5),
        ("float64", 0.1),
        ("bool", True),
        ("string", "straße"),
    ):
        getattr(writer, f"add_{kind}")(f"t.{kind}", value)
    writer.add_array("t.strings", ["a", "", "ж"])
    writer.add_array("t.numbers", [1, 2, 3])
    writer.add_array("t.floats", [0.5, 1.5])
    writer.add_array("t.flags", [True, False])
    writer.add_array("t.nested", [["x", "y"], ["z"]])
    for name, array in ARRAYS.items():
        writer.add_tensor(name, array)
    writer.add_tensor(
        "a.q8",
        gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0),
        raw_dtype=gguf.GGMLQuantizationType.Q8_0,
    )
    write(writer)
    return path


@pytest.mark.parametrize("options", [{}, {"alignment": 256}])
def test_everything_that_was_written_is_read(tmp_path: Path, options: dict[str, int]) -> None:
    file = GgufFile(simple_file(tmp_path / "x.gguf", **options))
    found = file.metadata
    assert found["general.architecture"] == "llama"
    assert [
        found[f"t.{kind}"] for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    ] == [200, -3, 60000, -300, 2**31, -5, 2**40, -(2**40)]
    assert (found["t.float32"], found["t.float64"], found["t.bool"], found["t.string"]) == (0.5, 0.1, True, "straße")
    strings = found["t.strings"]
    assert (list(strings), strings[-1], strings[1:], len(strings)) == (["a", "", "ж"], "ж", ["", "ж"], 3)
    assert found["t.numbers"].tolist() == [1, 2, 3]
    assert found["t.floats"].tolist() == [0.5, 1.5]
    assert found["t.flags"].tolist() == [True, False]
    assert [list(inner) for inner in found["t.nested"]] == [["x", "y"], ["z"]]
    for name, array in ARRAYS.items():
        assert file.tensors[name].shape == array.shape
        np.testing.assert_array_equal(file.blocks(name).view(array.dtype).reshape(array.shape), array)
    assert (file.tensors["a.q8"].kind.name, file.tensors["a.q8"].shape) == ("Q8_0", (2, 64))
    assert not file.blocks("a.q8").flags.writeable


def test_a_file_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    path = simple_file(tmp_path / "x.gguf")
    files = GgufFiles(path)
    held = files.blocks("a.q8").copy()
    last = max(files.tensors, key=lambda name: files.tensors[name].start)
    os.truncate(path, files.tensors[last].start + 1)
    with pytest.raises(ModelError, match=r"x\.gguf was cut short while it was read"):
        files.blocks(last)
    os.truncate(path, 0)
    assert list(files.metadata) == list(GgufFiles(simple_file(tmp_path / "y.gguf")).metadata)
    assert held.size


def test_a_head_longer_than_the_first_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GgufFiles(simple_file(tmp_path / "x.gguf"))
    monkeypatch.setattr(gguf_file, "_FIRST_BYTES", 8)
    again = GgufFiles(tmp_path / "x.gguf")
    assert list(again.tensors) == list(whole.tensors)
    np.testing.assert_array_equal(again.blocks("a.matrix"), whole.blocks("a.matrix"))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = simple_file(tmp_path / "x.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    last = max(tensor.start + tensor.nbytes for tensor in GgufFile(tmp_path / "x.gguf").tensors.values())
    for size in [*range(0, 1200, 7), last - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="is not a valid GGUF file") as caught:
            GgufFile(cut)
        assert "download" in caught.value.hint


def header(version: int = 3, tensors: int = 0, values: int = 0, magic: bytes = b"GGUF") -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, values)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, *dimensions: int, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (header(magic=b"PK\3\4"), "begins with b'PK"),
        (header(version=1), "version 1; versions 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big endian"),
        (header(values=1) + text("k") + struct.pack("<I", 13), "has type 13"),
        (header(values=1) + text("k") + struct.pack("<IIQ", 9, 8, 2**60), "would have 1152921504606846976 values"),
        (header(values=1) + text("k") + struct.pack("<IIQ", 9, 4, 2**24), "it ends at byte"),
        (header(values=1) + text("k") + struct.pack("<IIQ", 9, 8, 2) + text("a") + struct.pack("<Q", 99), "it ends at"),
        (header(values=2) + 2 * (text("k") + struct.pack("<IB", 0, 1)), "the key k is there twice"),
        (header(values=1) + text("general.alignment") + struct.pack("<II", 4, 0), "general.alignment is 0"),
        (header(tensors=1) + tensor("t", 1, 1, 1, 1, 1), "has 5 dimensions"),
        (header(tensors=1) + tensor("t", 4, kind=99), "type 99"),
        (header(tensors=1) + tensor("t", 33, kind=8), "rows of t hold 33 values, Q8_0 stores 32"),
        (header(tensors=1) + tensor("t", 2**40) + bytes(64), "truncated"),
        (header(tensors=1) + tensor("t", 1, offset=5) + bytes(64), "no multiple of the alignment"),
        (header(tensors=2) + 2 * tensor("t", 1) + bytes(64), "the tensor t is there twice"),
    ],
)
def test_what_is_wrong_is_named(content: bytes, because: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a valid GGUF file") as caught:
        GgufFile(path)
    assert because in caught.value.because


def test_arrays_nested_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(header(values=1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000)
    with pytest.raises(ModelError, match="not a valid GGUF file"):
        GgufFile(path)


def split_files(folder: Path, count: int = 3) -> list[Path]:
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama", split_max_tensors=1)
    writer.add_string("general.name", "in parts")
    for index in range(count):
        writer.add_tensor(f"t{index}", np.full((2, 2), index, np.float32))
    write(writer)
    return sorted(folder.glob("*.gguf"))


def test_parts_are_opened_together_whichever_is_named(tmp_path: Path) -> None:
    paths = split_files(tmp_path)
    assert len(paths) == 3
    for path in paths:
        files = GgufFiles(path)
        assert files.metadata["general.name"] == "in parts"
        assert [files.blocks(f"t{index}").view(np.float32)[0] for index in range(3)] == [0, 1, 2]
        assert files.tensors.keys() == {"t0", "t1", "t2"}
    assert part_paths(tmp_path / "whole.gguf") == [tmp_path / "whole.gguf"]


def test_missing_and_foreign_parts_are_named(tmp_path: Path) -> None:
    paths = split_files(tmp_path)
    paths[1].unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of 3 parts: model-00002-of-00003\.gguf"):
        GgufFiles(paths[0])
    paths[1].write_bytes(paths[2].read_bytes())
    with pytest.raises(ModelError, match="tensor t2 is in"):
        GgufFiles(paths[0])
    fewer = gguf.GGUFWriter(paths[1], "llama")
    write(fewer)
    with pytest.raises(ModelError, match="hold 2 tensors"):
        GgufFiles(paths[0])


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = simple_file(tmp_path / "x.gguf")
    first = open_gguf(path)
    assert open_gguf(path) is first
    simple_file(path, alignment=512)
    assert open_gguf(path).metadata["general.alignment"] == 512
    with pytest.raises(ModelError, match="cannot be read"):
        open_gguf(tmp_path / "missing.gguf")
