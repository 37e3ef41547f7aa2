"""A table of HTML; every cell is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(name: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a caption, in a region that scrolls sideways where it is narrow."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="sheet" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<caption>{escape(name)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
