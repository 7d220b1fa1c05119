"""The tpu backend: JAX executors for TPUs, and for any other platform that JAX has when it is named."""
