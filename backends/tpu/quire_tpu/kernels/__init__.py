"""Pallas kernels for TPUs; interpreted on other platforms."""
