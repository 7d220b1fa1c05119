"""One file for each `model_type`: what it reads of its config, and which blocks it is made of."""
