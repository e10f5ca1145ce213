"""`minutehand docs`: the pages, with this project's schemas, a real tenant and job type."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from minutehand.docs import JOB_TYPE, PAGES, TENANT, Page, render
from minutehand.install.rewrite import Schemas
from minutehand.project import Project, Tenancy
from minutehand.terminal import local_member
from minutehand.terminal.connection import CommandFailed, load_values
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output, headed

TENANTS: dict[Tenancy, str] = {
    "workspaces": "workspaces",
    "existing": "your organizations",
    "personal": "your users, each alone",
}
MOST_HITS = 20


@verb
def docs(
    output: Output,
    topic: Annotated[
        str | None, typer.Argument(help="A page, or words to find in the pages.")
    ] = None,
) -> None:
    """Print a page with this project's names; without a topic, list the pages."""
    if topic is None:
        rows = [{"topic": p.topic, "section": p.section, "page": p.title} for p in PAGES]
        output.table(rows, {"topic": "TOPIC", "section": "", "page": "PAGE"})
        return
    page = next((page for page in PAGES if page.topic == topic), None)
    if page is None:
        _find(output, topic)
        return
    names = _names(Project.find())
    text = render(
        page.text,
        Schemas(names["schema"]),
        tenant=names["tenant"],
        job_type=names["job_type"],
    )
    if output.answered({**names, "topic": page.topic, "text": text}):
        return
    output.note(
        f"schema {names['schema']}, engine {names['engine_schema']}; "
        f"tenants are {TENANTS[names['tenancy']]}"
    )
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


def _names(project: Project) -> dict[str, Any]:
    """What the examples of this project say; the default install's where nothing is known."""
    return {
        "schema": project.schema_,
        "engine_schema": project.engine_schema,
        "tenancy": project.tenancy,
        "tenant": _tenant(),
        "job_type": _job_type(project),
    }


def _tenant() -> str:
    """A tenant that is there, of the local stack."""
    try:
        values = load_values(None)
        if known := values.get("DEMO_WORKSPACE_ID"):
            return known
        member = local_member.first_member(values) if local_member.is_possible(values) else None
    except (CommandFailed, ConnectionError, ImportError):
        return TENANT
    return TENANT if member is None else member.tenant


def _job_type(project: Project) -> str:
    """A type of the project's that takes what the examples send, a name."""
    from minutehand.cli.processors import registry_of  # loads the project's processors

    try:
        registry = registry_of(project)
    except CommandFailed:
        return JOB_TYPE
    for kind in sorted(registry, key=lambda kind: kind.name):
        schema = kind.adapter.json_schema()
        takes = schema.get("properties", {})
        if (
            not kind.internal
            and takes.get("name", {}).get("type") == "string"
            and {"name"} >= {*schema.get("required", ())}
        ):
            return kind.name
    return JOB_TYPE
