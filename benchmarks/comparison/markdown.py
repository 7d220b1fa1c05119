"""Results as Markdown: ours beside limits and the best peer, and then every contender's figure."""

from __future__ import annotations

from pathlib import Path

from comparison.result import Result, Standing


def markdown(results: list[Result]) -> str:
    """Two tables."""
    lines = [
        "| row | quire | figure | limit | share | best peer | its figure | times better |",
        "|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for result in results:
        lines += [_line(result, standing) for standing in result.standings()]
    labels = [contender.label for contender in results[0].contenders]
    lines += ["", f"| median | {' | '.join(labels)} |", "|---" + "|---:" * len(labels) + "|"]
    for result in results:
        figures = " | ".join(number(result.median(label)) for label in labels)
        lines.append(f"| {result.row.name}, {result.row.unit} | {figures} |")
    return "\n".join(lines) + "\n"


def refill(page: Path, mark: str, text: str) -> None:
    """Puts `text` between the marks of a page, in place of what stands there. ValueError where it has no such marks."""
    written = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, found_begin, rest = written.partition(begin)
    _, found_end, after = rest.partition(end)
    if not mark or not found_begin or not found_end:
        raise ValueError(f"{page} has no {begin} ... {end}")
    page.write_text(f"{before}{begin}\n{text.rstrip()}\n{end}{after}", encoding="utf-8")


def number(value: float) -> str:
    """Three digits or more, for people."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(result: Result, standing: Standing) -> str:
    cells = [
        f"{result.row.name}, {result.row.unit}",
        standing.label.split(" ", 1)[1],
        number(standing.value),
        number(standing.limit) if standing.limit is not None else "-",
        f"{standing.share:.0%}" if standing.share is not None else "-",
        standing.best_peer or "-",
        number(standing.best_value) if standing.best_value is not None else "-",
        f"{standing.ratio:.2f}" if standing.ratio is not None else "-",
    ]
    return f"| {' | '.join(cells)} |"
