"""Two backends in numpy, made to be copied: `op_backend` (start here) and `step_backend`, over the same kernels."""
