"""The tables of options in the guide are what the configuration classes say."""

from __future__ import annotations

import argparse

import pytest

from quire.engine.config import EngineConfig
from quire.engine.supervision import Supervision
from quire.options import add_flags, options_of
from quire.server.config import ServerConfig
from tests.scripts import load_script

CONFIGS = (EngineConfig, ServerConfig, Supervision)


def test_the_page_is_what_the_code_says() -> None:
    tables = load_script("tools/option_tables.py")
    assert tables.main(["--check"]) == 0, "run python tools/option_tables.py"
    assert tables.page(tables.PAGE.read_text().replace("| 8000 |", "| 80 |")) == tables.PAGE.read_text()


@pytest.mark.parametrize("config", CONFIGS)
def test_every_flag_and_default_is_in_the_page(config: type) -> None:
    text = load_script("tools/option_tables.py").PAGE.read_text()
    for item in options_of(config):
        assert all(f"`{flag}`" in text or f"`--no-{flag[2:]}`" in text for flag in item.flags if item.flag)


@pytest.mark.parametrize("config", CONFIGS)
def test_flags_give_the_defaults_of_the_fields(config: type) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, config)
    given = vars(parser.parse_args([]))
    assert given == {item.name: item.default for item in options_of(config) if item.flag}
    assert config(**given) == config()
