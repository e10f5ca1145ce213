"""A page with a result as one HTML document. Texts of models and of people are escaped."""

from collections.abc import Sequence
from html import escape

from fastapi.responses import HTMLResponse

from minutehand.web import document
from minutehand_apps.chat.models import Figure, Page, Section

_STYLE = """
h1{border-bottom:4px solid var(--main)}section{background:var(--card);
border-inline-start:4px solid var(--second);border-radius:8px;padding:1rem;margin:1rem 0}
footer{color:var(--soft)}p{white-space:pre-wrap;overflow-wrap:anywhere}
h2{margin:0 0 .5rem;font-size:1.1rem}
dl{display:grid;grid-template-columns:fit-content(40%) 1fr;gap:.4rem .8rem;margin:0}
dd{margin:0;display:flex;flex-wrap:wrap;align-items:center}
i{height:.9em;border:1px solid var(--soft);border-radius:3px;
background:var(--main);margin-inline-end:.5rem}li::marker{font-weight:700}
"""


def render(page: Page, footer: str) -> HTMLResponse:
    """Build the HTML of a page. `footer` names the source of the page's content."""
    main, second, *_ = [*page.colours, "#1d4ed8", "#5a6a7a"]
    sections = "".join(map(_section, page.sections))
    return document(
        page.title,
        f"<p>{escape(page.summary)}</p>{sections}<footer>{escape(footer)}</footer>",
        style=f"{_STYLE}:root{{--main:{main};--second:{second}}}",
    )


def _section(section: Section) -> str:
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    steps = "".join(f"<li>{escape(step)}</li>" for step in section.steps)
    return (
        f"<section><h2>{escape(section.title)}</h2>{text}{_bars(section.figures)}"
        f"{f'<ol>{steps}</ol>' if steps else ''}</section>"
    )


def _bars(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    largest = max(abs(figure.value) for figure in figures) or 1
    rows = "".join(
        f"<dt>{escape(figure.label)}</dt><dd>"
        f'<i style="width:{70 * abs(figure.value) / largest:.0f}%"></i>'
        f"{_number(figure.value)} {escape(figure.unit)}</dd>"
        for figure in figures
    )
    return f"<dl>{rows}</dl>"


def _number(value: float) -> str:
    text = f"{value:,.2f}"
    return text.rstrip("0").rstrip(".")
