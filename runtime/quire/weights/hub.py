"""From the name of a model to where its checkpoint lies: a path, the built-in model, or an id on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from quire.errors import ModelError
from quire.files import reading
from quire.weights.formats.gguf.location import HubFile, gguf_in, is_gguf

ALLOWED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Files that are downloaded: configurations, weights, tokenizers, chat templates."""

IGNORED = ("*.bin", "original/*", "consolidated*", "*mmproj*")
"""Never downloaded: pickled weights, second copies of them in their maker's own layout, GGUF's image encoders."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve_model(model: str, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """The folder that holds a model's checkpoint, or the GGUF file that is one.

    Args:
        model: an existing folder, used as it is (one with a GGUF file and no safetensors: that file); a GGUF file;
            "demo", the built-in model; or an id on the hub such as "Qwen/Qwen3-0.6B", for GGUF files with the
            quantization or the file behind it ("Qwen/Qwen3-0.6B-GGUF:Q8_0", ".../Qwen3-0.6B-Q8_0.gguf"), downloaded
            into the hub's cache unless it is there. The hub client's own environment variables hold: HF_ENDPOINT,
            HF_TOKEN, HF_HUB_OFFLINE, HF_HOME.
        revision: branch, tag or commit on the hub; None = its main branch.
        cache_dir: where downloads are kept; None = the hub client's cache.
    Raises: ModelError that says which of these failed and what to try.
    """
    with reading(f"model {model[:300]!r}"):  # names that no file system takes
        return _resolve(model, revision, cache_dir)


def _resolve(model: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    path = Path(model).expanduser() if model else Path("-")
    if model and (path.is_dir() or (path.is_file() and is_gguf(path))):
        if revision is not None:
            raise ModelError(
                f"revision {revision!r} of the {'folder' if path.is_dir() else 'file'} {model}",
                because="only the hub has revisions",
                hint="no --revision, or the model's id on the hub",
            )
        return _checkpoint_in(path) if path.is_dir() else path
    if model == "demo":
        if revision is not None:
            raise ModelError(
                f"revision {revision!r} of the demo model",
                because="it comes with Quire, in one revision",
                hint="no --revision, or a model's id on the hub",
            )
        from quire.demo import demo_model_path

        return demo_model_path()
    if path.is_file():
        raise ModelError(
            f"{model} is a file",
            because="a model is a folder with config.json and weights, or .gguf",
            hint=f"its folder, {path.parent}",
        )
    hub_file = HubFile.parse(model)
    if hub_file is not None:
        return hub_file.inside(_download(hub_file.repo, revision, cache_dir, hub_file.patterns))
    if is_gguf(path):
        raise ModelError(
            f"no file {model}",
            because="it does not exist, and files on the hub are org/repo/FILE.gguf",
            hint="the spelling, or a file that exists",
        )
    if not _HUB_ID.fullmatch(model):
        raise ModelError(
            f"no model {model!r}",
            because="there is no such folder, and it is no id on the hub",
            hint="an existing folder, an id such as Qwen/Qwen3-0.6B, or demo",
        )
    folder = _download(model, revision, cache_dir, ALLOWED)
    if not (folder / "config.json").exists() and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{model} has neither config.json nor safetensors weights",
            because="of a repository of GGUF files one must be chosen",
            hint=f"{model}:Q4_K_M, or another quantization that it has, or {model}/FILE.gguf",
        )
    return folder


def _checkpoint_in(folder: Path) -> Path:
    """The folder itself, or its GGUF file when that is all it has."""
    if any(folder.glob("*.safetensors")):
        return folder
    return gguf_in(folder) or folder


def _download(model: str, revision: str | None, cache_dir: str | Path | None, patterns: tuple[str, ...]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ModelError(
            f"no folder {model}, and huggingface-hub is not installed",
            because="models that are not on disk are downloaded with it",
            hint="`pip install huggingface-hub`, or a folder",
        ) from None
    try:
        folder = snapshot_download(
            model, revision=revision, cache_dir=cache_dir, allow_patterns=list(patterns), ignore_patterns=list(IGNORED)
        )
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _refused(model, revision, error.__cause__) from error
        raise _not_reached(model, error.__cause__ or error) from error
    except HfHubHTTPError as error:
        raise _refused(model, revision, error) from error
    except HFValidationError as error:
        raise ModelError(
            f"no model {model!r}",
            because=f"there is no such folder, and as an id: {error}",
            hint="an existing folder, or an id such as Qwen/Qwen3-0.6B",
        ) from error
    except Exception as error:  # connections break in as many ways as the client has HTTP libraries
        raise ModelError(
            f"the download of {model} failed",
            because=f"{type(error).__name__}: {error}",
            hint="again: finished files are kept",
        ) from error
    return Path(folder)


def _not_reached(model: str, reason: BaseException) -> ModelError:
    """The hub was not asked, or gave no answer, and the cache does not have the model."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return ModelError(
            f"{model} is not in the hub's cache",
            because="HF_HUB_OFFLINE is set, so it is not downloaded",
            hint="without HF_HUB_OFFLINE once, or a folder that has the model",
        )
    return ModelError(
        f"{model} is neither a folder nor in the hub's cache, and the hub cannot be reached",
        because=f"{constants.ENDPOINT}: {reason}",
        hint="the network, HF_ENDPOINT for a mirror, or a folder that has the model",
    )


def _refused(model: str, revision: str | None, error: Exception) -> ModelError:
    """The hub's answer was an error."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return ModelError(
            f"{model} is gated: access is denied (HTTP {status})",
            because="its owner lets in only those who accepted the terms",
            hint=f"accepting them at {constants.ENDPOINT}/{model}, then HF_TOKEN",
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(
            f"{model} has no revision {revision!r}",
            because="the hub does not know it (HTTP 404)",
            hint="a branch, tag or commit of that model, or no --revision",
        )
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return ModelError(
            f"no model {model} (HTTP {status})",
            because=f"there is no such folder, and {constants.ENDPOINT} has none, or it is private",
            hint="the spelling; for a private model HF_TOKEN; or an existing folder",
        )
    return ModelError(
        f"the hub refused {model} (HTTP {status})", because=str(error), hint="later; or a folder that has the model"
    )
