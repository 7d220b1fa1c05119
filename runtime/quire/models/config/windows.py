"""Which layers of a config slide, in the spellings of the families."""

from __future__ import annotations

from quire.models.config.reader import ConfigReader


def qwen_windows(config: ConfigReader) -> tuple[int, ...]:
    """Windows of a Qwen config: `layer_types`, or all layers from `max_window_layers` on, if sliding is in use."""
    num_layers = config.layers()
    window = config.window(4096)
    if not config.flag("use_sliding_window", False):
        window = 0
    first_sliding = config.integer("max_window_layers", 28, low=0) if window else num_layers
    default = ["sliding_attention" if index >= first_sliding else "full_attention" for index in range(num_layers)]
    return config.layer_windows(num_layers, window, default)


def alternating_windows(config: ConfigReader, *, full_every: int) -> tuple[int, ...]:
    """Windows of a config whose every `full_every`th layer is full, where `layer_types` does not say otherwise."""
    num_layers = config.layers()
    pattern = ["sliding_attention" if (index + 1) % full_every else "full_attention" for index in range(num_layers)]
    return config.layer_windows(num_layers, config.window(4096), pattern)
