"""`minutehand docs`: prints the pages with the names of this project."""

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
    """Print a page, or list the sections with these words; without a topic, list the pages."""
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
    schemas = Schemas(project.schema_) if project.apps else DEFAULT  # before an install
    text = render(page.printed, Names(schemas, *project_names(project), tenant_column(project)))
    if not output.print_json({"topic": page.topic, "text": text}):
        output.text(text)


def find_page(topic: str) -> Page | None:
    """Find the page of a topic, or the only page with that word in its title."""
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
    """Find the sections with all of the words in one line, those with a matching heading first."""
    patterns = [re.compile(rf"\b{re.escape(word)}", re.IGNORECASE) for word in query.split()]
    headings: list[dict[str, str]] = []
    matches: list[dict[str, str]] = []
    for page in PAGES:
        section = {"topic": page.topic, "section": page.title}
        for line in page.text.splitlines():
            if is_heading := line.startswith("#"):
                section = {"topic": page.topic, "section": line.strip("# ")}
            if all(word.search(line) for word in patterns):
                (headings if is_heading else matches).append(section)
    found = [*headings, *matches]
    return [section for at, section in enumerate(found) if section not in found[:at]][:MAX_SECTIONS]


def project_names(project: Project) -> tuple[str, str, str]:
    """Find a local tenant's id, the processors' package, and a job type for the examples."""
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
