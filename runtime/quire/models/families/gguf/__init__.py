"""One file for each `general.architecture` of GGUF files: its configuration and its names, beside its families."""
