"""AMD GPUs: the device `rocm`, over the op library of `quire_torch`."""
