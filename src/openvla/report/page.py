"""A report as one HTML page that opens anywhere: style and content inside, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from openvla.report.style import STYLE


def document(title: str, notes: Iterable[str], sections: Iterable[str]) -> str:
    """The whole page. notes: paragraphs under the title, in plain text; sections: HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main><h1>{escape(title)}</h1>\n"
        + "".join(f"<p>{escape(note)}</p>\n" for note in notes)
        + "\n".join(sections)
        + "</main></body></html>\n"
    )


def section(heading: str, explanation: str, body: str) -> str:
    """A headed part of the page; `body` is HTML."""
    note = f'<p class="note">{escape(explanation)}</p>' if explanation else ""
    return f"<section><h2>{escape(heading)}</h2>{note}{body}</section>"


def table(header: Iterable[str], rows: Iterable[Iterable[object]], words: Iterable[str] = ()) -> str:
    """A table of plain text. words: the columns that stand left and may wrap; the others hold numbers."""
    header, left = list(header), set(words)
    css = [' class="words"' if name in left else "" for name in header]
    head = "".join(f"<th{style}>{escape(name)}</th>" for name, style in zip(header, css, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{escape(str(cell))}</td>" for cell, style in zip(row, css, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
