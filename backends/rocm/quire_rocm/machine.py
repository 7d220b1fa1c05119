"""Whether there is an AMD GPU, read from the kernel driver's files: no torch, no ROCm context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
_CARDS = Path("/sys/class/drm")


@dataclass(frozen=True, slots=True)
class AmdDevice:
    """One GPU as the driver describes it. `name`: its architecture, like gfx942. Memory in bytes, 0 = not told."""

    name: str
    total_memory_bytes: int
    free_memory_bytes: int


def look(
    device_file: Path = Path("/dev/kfd"), nodes: Path = _NODES, cards: Path = _CARDS
) -> tuple[tuple[AmdDevice, ...], str]:
    """The machine's GPUs, and the reason where there is none. Never raises."""
    if not device_file.exists():
        return (), f"no AMD compute driver is loaded ({device_file} does not exist)"
    try:
        found = tuple(
            device
            for node in sorted(nodes.iterdir(), key=lambda path: int(path.name))
            if (device := _device(_properties(node / "properties"), cards)) is not None
        )
    except (OSError, ValueError) as error:
        return (), f"the driver's description of the GPUs cannot be read: {error}"
    return found, "" if found else f"{device_file} exists, but the driver lists no GPU"


def _properties(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _device(properties: dict[str, int], cards: Path) -> AmdDevice | None:
    """None for a node that is a processor. The version packs major, minor, stepping: 90402 is gfx942."""
    version = properties.get("gfx_target_version", 0)
    if properties.get("simd_count", 0) == 0 or version == 0:
        return None
    name = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
    render = cards / f"renderD{properties.get('drm_render_minor', -1)}" / "device"
    total, used = _number(render / "mem_info_vram_total"), _number(render / "mem_info_vram_used")
    return AmdDevice(name, total, max(total - used, 0))


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
