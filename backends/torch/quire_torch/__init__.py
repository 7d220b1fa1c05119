"""Devices that torch drives: one op library in torch, shared by the devices `torch`, `cuda` and `rocm`."""
