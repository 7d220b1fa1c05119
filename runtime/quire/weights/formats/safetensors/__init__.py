"""Safetensors files, and the folders of them that make up a checkpoint."""
