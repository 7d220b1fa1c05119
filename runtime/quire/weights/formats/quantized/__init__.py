"""Safetensors checkpoints whose matrices are integers: a file a format, and the table that picks one."""
