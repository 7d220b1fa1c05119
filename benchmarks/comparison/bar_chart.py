"""Results as an SVG picture: a group of bars for each row, each group with a scale of its own."""

from __future__ import annotations

from html import escape

from comparison.contender import OURS
from comparison.markdown import number
from comparison.result import Result

WIDTH, LABEL, BAR, GAP, TITLE = 860, 190, 16, 5, 30
COLORS = {True: "#2f6fab", False: "#a9b4bf"}
"""Of our bars, and of the others'."""


def bar_chart(title: str, results: list[Result]) -> str:
    """The picture's text."""
    shapes, y = [_text(8, 20, title, "bold 13px sans-serif")], 40
    for result in results:
        better = "less is better" if result.row.lower_is_better else "more is better"
        shapes.append(_text(8, y + 14, f"{result.row.name}, {result.row.unit} ({better})", "600 12px sans-serif"))
        y += TITLE - 8
        most = max(result.median(contender.label) for contender in result.contenders)
        for contender in result.contenders:
            value = result.median(contender.label)
            length = (WIDTH - LABEL - 80) * value / most
            shapes.append(_text(LABEL - 6, y + 12, contender.label, "11px sans-serif", anchor="end"))
            shapes.append(
                f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" '
                f'fill="{COLORS[contender.name == OURS]}"/>'
            )
            shapes.append(_text(int(LABEL + length + 6), y + 12, number(value), "11px sans-serif"))
            y += BAR + GAP
        y += 12
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _text(x: int, y: int, text: str, font: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" style="font:{font}" fill="#222" text-anchor="{anchor}">{escape(text)}</text>'
