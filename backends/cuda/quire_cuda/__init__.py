"""NVIDIA GPUs: the device `cuda`, over the op library of `quire_torch`."""
