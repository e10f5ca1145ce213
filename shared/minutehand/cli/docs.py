"""`minutehand docs`: the pages, with this project's schemas."""

from __future__ import annotations

from typing import Annotated

import typer

from minutehand.docs import PAGES, render
from minutehand.install.rewrite import Schemas
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output


@verb
def docs(
    output: Output,
    topic: Annotated[str | None, typer.Argument(help="A page.")] = None,
) -> None:
    """Print a page; without a topic, list the pages."""
    if topic is None:
        rows = [{"topic": p.topic, "section": p.section, "page": p.title} for p in PAGES]
        output.table(rows, {"topic": "TOPIC", "section": "", "page": "PAGE"})
        return
    page = next((page for page in PAGES if page.topic == topic), None)
    if page is None:
        raise CommandFailed(
            f"no page {topic!r}", code="no_page", fix="`minutehand docs` lists the pages"
        )
    project = Project.find()
    text = render(page.text, Schemas(project.schema_))
    if not output.answered({"topic": page.topic, "text": text}):
        output.text(text)
