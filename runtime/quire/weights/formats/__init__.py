"""How checkpoints are stored: a folder a file format. Readers know files and tensors, no model and no device."""
