"""Triton kernels. They import triton and nothing of torch, so that they compile where neither torch nor a GPU is."""
