"""Blocks of a chapter, and how they become Markdown and HTML; what others wrote stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any, Final

Block = dict[str, Any]
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>#|!~])")


def paragraph(text: str) -> Block:
    """A paragraph."""
    return {"kind": "paragraph", "text": text}


def verdict(text: str, tone: str) -> Block:
    """A conclusion that must be seen; `tone` is good, doubtful or bad."""
    return {"kind": "verdict", "text": text, "tone": tone}


def heading(text: str) -> Block:
    """A heading within the chapter."""
    return {"kind": "heading", "text": text}


def bullets(items: Sequence[str]) -> Block:
    """A list."""
    return {"kind": "list", "items": list(items)}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Block:
    """A table of texts."""
    return {"kind": "table", "head": list(head), "rows": [list(row) for row in rows]}


def chart(name: str, svg: str, text: str) -> Block:
    """A chart: the file it is in, its SVG, and what it shows in words."""
    return {"kind": "chart", "name": name, "svg": svg, "text": text}


def plain(text: str) -> str:
    """One line of Markdown in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def to_markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown."""
    lines: list[str] = []
    for block in blocks:
        kind = block["kind"]
        if kind == "paragraph":
            lines += [plain(block["text"]), ""]
        elif kind == "verdict":
            lines += [f"> **{plain(block['text'])}**", ""]
        elif kind == "heading":
            lines += [f"### {plain(block['text'])}", ""]
        elif kind == "list":
            lines += [*(f"- {plain(item)}" for item in block["items"]), ""]
        elif kind == "table":
            lines.append("| " + " | ".join(map(plain, block["head"])) + " |")
            lines.append("|" + "---|" * len(block["head"]))
            lines += ["| " + " | ".join(map(plain, row)) + " |" for row in block["rows"]]
            lines.append("")
        elif kind == "chart":
            lines += [f"![{plain(block['text'])}]({block['name']})", ""]
    return "\n".join(lines)


def to_html(blocks: Sequence[Block]) -> str:
    """Blocks as HTML; charts are built by this app and embedded as they are."""
    parts: list[str] = []
    for block in blocks:
        kind = block["kind"]
        if kind == "paragraph":
            parts.append(f"<p>{escape(block['text'])}</p>")
        elif kind == "verdict":
            parts.append(f'<p class="verdict {escape(block["tone"])}">{escape(block["text"])}</p>')
        elif kind == "heading":
            parts.append(f"<h3>{escape(block['text'])}</h3>")
        elif kind == "list":
            items = "".join(f"<li>{escape(item)}</li>" for item in block["items"])
            parts.append(f"<ul>{items}</ul>")
        elif kind == "table":
            head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in block["head"])
            rows = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
                for row in block["rows"]
            )
            parts.append(
                f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
                f"<tbody>{rows}</tbody></table></div>"
            )
        elif kind == "chart":
            parts.append(
                f"<figure>{block['svg']}<figcaption>{escape(block['text'])}</figcaption></figure>"
            )
    return "\n".join(parts)
