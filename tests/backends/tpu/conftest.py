"""JAX with eight CPU devices, for tensor parallelism; without JAX there is nothing to collect here."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = []

if find_spec("jax") is None:
    print("tests/backends/tpu: not collected, JAX is not installed")
    collect_ignore_glob.append("test_*.py")
else:
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)  # has to be said before JAX is first used
