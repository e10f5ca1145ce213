"""`minutehand docs`: the pages, with this project's schemas."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from minutehand.docs import PAGES, Page, render
from minutehand.install.rewrite import Schemas
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output, headed

MOST_HITS = 20


@verb
def docs(
    output: Output,
    topic: Annotated[
        str | None, typer.Argument(help="A page, or words to find in the pages.")
    ] = None,
) -> None:
    """Print a page; without a topic, list the pages."""
    if topic is None:
        rows = [{"topic": p.topic, "section": p.section, "page": p.title} for p in PAGES]
        output.table(rows, {"topic": "TOPIC", "section": "", "page": "PAGE"})
        return
    page = next((page for page in PAGES if page.topic == topic), None)
    if page is None:
        _find(output, topic)
        return
    project = Project.find()
    text = render(page.text, Schemas(project.schema_))
    if not output.answered({"topic": page.topic, "text": text}):
        output.text(text)


def _find(output: Output, words: str) -> None:
    hits = [hit for page in PAGES for hit in _hits(page, words)][:MOST_HITS]
    if not hits:
        raise CommandFailed(
            f"no page {words!r}, and none has these words",
            code="no_page",
            fix="`minutehand docs` lists the pages",
        )
    output.table(hits, headed("topic heading:UNDER line"), spare=("heading",))


def _hits(page: Page, words: str) -> list[dict[str, str]]:
    """The headings of a page under which all words are, each with the first such line."""
    found: dict[str, str] = {}
    heading = page.title
    for line in page.text.splitlines():
        if named := re.match(r"#+ (.*)", line):
            heading = named[1]
        if all(word.lower() in line.lower() for word in words.split()):
            found.setdefault(heading, line.strip()[:100])
    return [{"topic": page.topic, "heading": each, "line": line} for each, line in found.items()]
