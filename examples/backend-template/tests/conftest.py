pytest_plugins = ["quire.testing.pytest_conform"]
