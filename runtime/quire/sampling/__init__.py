"""Sampling: what to draw in a step (`batch`), and the definition of how (`sampler`)."""
