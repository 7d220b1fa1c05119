"""The Jinja environment of chat templates, and what a template's text tells about it.

Importing this module loads jinja2; `quire.tokenizer.chat_template` does so with the first conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quire.errors import RequestError


class GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}`, which marks answers for training; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON. Jinja's own filter escapes for HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def environment() -> ImmutableSandboxedEnvironment:
    """The sandbox with the functions and filters that chat templates may use."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    env.filters["tojson"] = _to_json
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = _strftime_now
    return env


class CompiledTemplate:
    """One chat template, ready to render.

    Attributes:
        wants_parts: it loops over the parts of a message's content, so lists can be passed on.
        takes_strings: it tests whether a content is a string, or never loops over one.
    """

    def __init__(self, source: str) -> None:
        env = environment()
        try:
            tree = env.parse(source)
            self._template = env.from_string(source)
        except Exception as error:  # nested too deep, Jinja's and Python's own compilers fail in ways of their own
            raise RequestError(
                "the chat template is not valid Jinja",
                because=f"line {error.lineno}: {error.message}"
                if isinstance(error, jinja2.TemplateSyntaxError)
                else f"{type(error).__name__}: {error}",
                hint="--chat-template FILE with a corrected one",
                param="messages",
            ) from error
        self.wants_parts = _loops_over_content(tree)
        self.takes_strings = not self.wants_parts or any(test.name == "string" for test in tree.find_all(nodes.Test))

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises RequestError with the template's own words when it refuses its input."""
        try:
            return self._template.render(variables)
        except Exception as error:  # a template is somebody's program: it can fail in any way
            raise RequestError(
                "the chat template refuses this conversation",
                because=str(error),
                hint="roles and fields that the model's template knows",
                param="messages",
            ) from error


def _loops_over_content(tree: nodes.Template) -> bool:
    """True when a for loop goes through `x.content`, `x['content']`, or a name that was set to one of these."""
    names = {"content"}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _reads_content(assign.node, set()):
            names.add(assign.target.name)
    return any(_reads_content(loop.iter, names) for loop in tree.find_all(nodes.For))


def _reads_content(node: nodes.Node, names: set[str]) -> bool:
    """True when the expression is a message's content, filtered or not."""
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Name) and node.name in names
