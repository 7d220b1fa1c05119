"""Seeds of requests that give none."""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(engine_seed: int, number: int) -> int:
    """An unsigned 64-bit seed for the engine's `number`-th request, the same in every run.

    A front end that may have to resume a request on a new engine derives the seed itself and sends it along.
    """
    return int.from_bytes(blake2b(f"{engine_seed}:{number}".encode(), digest_size=8).digest(), "little")
