"""Where GGUF models lie: files, folders that hold one, and how repositories on the hub name theirs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from quire.errors import ModelError
from quire.files import file_of
from quire.weights.formats.gguf.gguf_file import MAGIC, SUFFIX, is_first_part

_PROJECTOR = "mmproj"  # image encoders lie beside their language models
_HUB_NAME = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<quantization>[\w.-]+)|/(?P<file>[^:]+\.gguf))"
)
_PART_NUMBER = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def is_gguf(path: Path) -> bool:
    """Whether a model's place is a GGUF file: by its content whatever its name, or by its name, so that a damaged one
    is told to be that."""
    return begins_as_gguf(path) or (path.suffix == SUFFIX and not path.is_dir())


def begins_as_gguf(path: Path) -> bool:
    """Whether a file begins with GGUF's mark."""
    if not path.is_file():  # opening a pipe would wait
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:  # who may not read it learns so when it is opened as what its name says
        return False


def gguf_in(folder: Path, quantization: str = "") -> Path | None:
    """The only GGUF model of a folder and the folders in it, None when there is none.

    Where no file has the suffix, those of the folder itself count that have the content.

    Args:
        quantization: only files with this in their names, for example Q4_K_M.
    Raises ModelError that lists the models when there are several.
    """
    wanted = re.compile(rf"(?:^|[-._]){re.escape(quantization)}(?:[-._]|$)", re.IGNORECASE)
    named = [path for path in folder.rglob(f"*{SUFFIX}") if not path.is_dir()]
    found = sorted(
        path
        for path in named or filter(begins_as_gguf, folder.glob("*"))
        if is_first_part(path)
        and _PROJECTOR not in path.name
        and (not quantization or wanted.search(str(path.relative_to(folder)).replace("/", "-")))
    )
    if len(found) > 1:
        raise ModelError(
            f"{folder} has {len(found)} GGUF models",
            because="one of them can be served at a time",
            hint=f"one of them: {', '.join(str(path.relative_to(folder)) for path in found)}",
        )
    return file_of(folder, str(found[0].relative_to(folder))) if found else None


@dataclass(frozen=True, slots=True)
class HubFile:
    """A GGUF model on the hub: "org/repo:Q4_K_M" or "org/repo/model.gguf".

    Attributes:
        repo: id of the repository. quantization, file: what is behind it; one of them is empty.
    """

    repo: str
    quantization: str
    file: str

    @staticmethod
    def parse(name: str) -> HubFile | None:
        """The model of a name of either form, else None."""
        match = _HUB_NAME.fullmatch(name)
        return HubFile(match["repo"], match["quantization"] or "", match["file"] or "") if match else None

    @property
    def patterns(self) -> tuple[str, ...]:
        """Glob patterns of the files to download."""
        if self.file:
            return (_PART_NUMBER.sub(r"-*-of-\1.gguf", self.file),)
        spellings = dict.fromkeys((self.quantization, self.quantization.upper(), self.quantization.lower()))
        return tuple(f"*{spelling}*{SUFFIX}" for spelling in spellings)

    def inside(self, folder: Path) -> Path:
        """The model in the downloaded folder. Raises ModelError when it is not there."""
        path = folder / self.file if self.file else gguf_in(folder, self.quantization)
        if path is None or not path.is_file():
            raise ModelError(
                f"{self.repo} has no GGUF file {self.file or self.quantization}",
                because="no file of the repository has that name",
                hint="the spelling of a file on the repository's page: org/repo/FILE.gguf",
            )
        return path
