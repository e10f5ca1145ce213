"""`minutehand docs`, which prints the pages with the names of this project in the examples."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from minutehand.docs import DEFAULT, JOB_TYPE, PACKAGE_NAME, PAGES, TENANT, Names, Page, render
from minutehand.install.own_tables import tenant_column
from minutehand.install.project import package_folder
from minutehand.install.rewrite import Schemas
from minutehand.project import Project
from minutehand.terminal import default_user
from minutehand.terminal.connection import CommandFailed, load_values
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output

MAX_SECTIONS: Final = 20


@verb
def docs(
    output: Output,
    query: Annotated[
        list[str] | None, typer.Argument(metavar="TOPIC", help="A page, or words to search for.")
    ] = None,
) -> None:
    """Print a page, or list the sections with most words; without a topic, list the pages."""
    if not query:
        rows = [{"topic": p.topic, "section": p.section, "page": p.title} for p in PAGES]
        output.table(rows, {"topic": "TOPIC", "section": "", "page": "PAGE"})
        return
    topic = " ".join(query)
    page = find_page(topic)
    if page is None:
        if sections := find_sections(topic):
            output.table(sections, {"topic": "TOPIC", "section": "SECTION"})
            return
        raise CommandFailed(
            f"unknown page {topic!r}", code="no_page", fix="`minutehand docs` lists the pages"
        )
    project = Project.find()
    schemas = Schemas(project.schema_) if project.apps else DEFAULT  # without an install
    text = render(page.printed, Names(schemas, *project_names(project), tenant_column(project)))
    if not output.print_json({"topic": page.topic, "text": text}):
        output.text(text)


def find_page(topic: str) -> Page | None:
    """Find the page of a topic, or the only page whose title contains the word."""
    word = topic.replace("_", "-").lower()
    if page := next((page for page in PAGES if page.topic == word), None):
        return page
    titled = [
        page
        for page in PAGES
        if word in re.findall(r"[\w-]+", page.title.lower().replace("_", "-"))
    ]
    return titled[0] if len(titled) == 1 else None


def find_sections(query: str) -> list[dict[str, str]]:
    """Find the sections that contain the most words of a query.

    Sections whose heading contains more of the words come first. Next come sections with a line
    that contains more of the words.
    """
    patterns = [re.compile(rf"\b{re.escape(word)}", re.IGNORECASE) for word in query.split()]

    def count(text: str) -> int:
        return sum(1 for word in patterns if word.search(text))

    found: dict[tuple[str, str], tuple[int, int, int]] = {}
    for page in PAGES:
        for text in re.split(r"^(?=#)", page.text, flags=re.MULTILINE):
            heading, *lines = text.splitlines() or [""]
            section = page.topic, heading.strip("# ") or page.title
            found[section] = (count(text), count(heading), max(map(count, lines), default=0))
    most = max(words for words, *_ in found.values())
    ranked = sorted(found, key=found.__getitem__, reverse=True) if most else []
    return [
        {"topic": topic, "section": section}
        for topic, section in ranked[:MAX_SECTIONS]
        if found[topic, section][0] == most
    ]


def project_names(project: Project) -> tuple[str, str, str]:
    """Find names for the examples: a local tenant's id, the processors' package, and a job type."""
    tenant = TENANT
    try:
        values = load_values(None)
        if default_user.is_available(values) and (member := default_user.find_member(values)):
            tenant = member.tenant
    except (CommandFailed, ConnectionError):
        pass  # no local stack is running
    for package in project.packages:
        for root in project.import_roots:
            files = package_folder(root, package).rglob("*.py")
            for file in sorted(files, key=lambda file: (not file.match("*hello.py"), file)):
                text = file.read_text("utf-8", errors="replace")
                if match := re.search(r'@(?:registry\.)?processor\(\s*"([^"]+)"', text):
                    return tenant, package, match[1]
    return tenant, PACKAGE_NAME, JOB_TYPE
