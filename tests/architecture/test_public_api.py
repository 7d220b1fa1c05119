"""The names that `import quire` promises."""

from __future__ import annotations

import pytest

import quire


def test_public_names_are_the_documented_ones() -> None:
    assert sorted(quire.__all__) == ["CompletionOutput", "LLM", "QuireError", "RequestOutput", "SamplingParams"]
    for name in quire.__all__:
        public = getattr(quire, name)
        assert (public.__name__, public.__module__.split(".")[0]) == (name, "quire")
        assert public.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        _ = quire.Engine


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert quire.__version__ == version("quire")
