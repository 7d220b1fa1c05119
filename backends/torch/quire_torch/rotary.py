"""Rotary position embedding, in torch, from the tables that every device shares."""

from __future__ import annotations

import torch

from quire.errors import InternalError


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, style: str) -> torch.Tensor:
    """Rotates the first r dimensions of every head.

    Args:
        x: [T, H, d]. cos, sin: float32 [T, 1, r/2], the rows of the table at the tokens' positions.
        style: "neox" pairs element i with i + r/2; "gptj" pairs 2i with 2i + 1.
    """
    dims = 2 * cos.shape[-1]
    rotated = x[..., :dims].float()
    if style == "neox":
        a, b = rotated.chunk(2, dim=-1)
        rotated = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    elif style == "gptj":
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        rotated = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        raise InternalError(f"rotary style {style!r} has no torch kernel", because="styles are neox and gptj")
    rotated = rotated.to(x.dtype)
    return rotated if dims == x.shape[-1] else torch.cat((rotated, x[..., dims:]), dim=-1)
