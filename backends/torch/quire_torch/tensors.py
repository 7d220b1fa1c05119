"""Between numpy and torch: dtypes by the contract's names, and arrays without a copy where there need be none."""

from __future__ import annotations

import warnings

import ml_dtypes
import numpy as np
import torch

from quire.errors import ConfigError

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int32": torch.int32,
    "bool": torch.bool,
}


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of a contract dtype name; ConfigError on an unknown one."""
    if name not in _DTYPES:
        raise ConfigError(f"dtype {name!r} has no torch dtype", because=f"those with one are {', '.join(_DTYPES)}")
    return _DTYPES[name]


def host_tensor(array: np.ndarray) -> torch.Tensor:
    """A CPU tensor over the array's own memory, read-only or not: it must not be written to."""
    bits = array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(bits)
    return tensor.view(torch.bfloat16) if bits is not array else tensor


def host_array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's content as a numpy array; waits for the device."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
