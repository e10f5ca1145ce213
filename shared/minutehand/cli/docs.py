"""`minutehand docs`, which prints the pages with the names of this project in the examples."""

import math
import re
from collections.abc import Iterator
from typing import Annotated

import typer

from minutehand.docs import DEFAULT, JOB_TYPE, PACKAGE_NAME, PAGES, TENANT, Names, render
from minutehand.install.own_tables import tenant_column
from minutehand.install.project import package_folder
from minutehand.install.rewrite import Schemas
from minutehand.project import Project
from minutehand.terminal import default_user
from minutehand.terminal.connection import CommandFailed, load_values
from minutehand.terminal.options import verb
from minutehand.terminal.output import Output

MAX_SECTIONS = 10
#: Words in a question that the search of sections ignores.
_FILLERS = re.compile(
    "a|all|an|and|are|by|can|do|does|each|every|for|from|how|i|in|is|it|many|much|my|of|on|only|or"
    "|per|some|the|their|to|use|user|what|when|with"
)
#: Endings of words that the search removes, so that the word `jobs` also finds `job`.
_ENDINGS = re.compile(r"(?<=\w{3})(ies|ing|es|ed|s|y|e)$")


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
    word = topic.replace("_", "-").lower()
    page = next((page for page in PAGES if page.topic == word), None)
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


def find_sections(query: str) -> list[dict[str, str]]:
    """Find the sections that answer a question best.

    A word of the question counts more if fewer sections contain it. The word counts again if it is
    in the section's first line or in its name. A question on the first page counts as a text of the
    sections that answer the question.
    """
    words = re.findall(r"[\w-]+", query.lower())
    asked = [word for word in words if not _FILLERS.fullmatch(word)] or words
    stems = {_ENDINGS.sub("", word) for word in asked}
    patterns = [re.compile(rf"\b{re.escape(stem)}") for stem in stems]
    sections = [(topic, section, text.lower()) for topic, section, text in list_sections()]
    counts = [sum(1 for *_, text in sections if word.search(text)) for word in patterns]
    weights = [math.log(1 + len(sections) / count) if count else 0.0 for count in counts]

    found: dict[tuple[str, str], float] = {}
    for topic, section, text in sections:
        score = sum(
            weight
            for part in (text, text.partition("\n")[0], section.lower())
            for word, weight in zip(patterns, weights, strict=True)
            if word.search(part)
        )
        found[topic, section] = max(found.get((topic, section), 0.0), score)
    most = max(found.values())
    ranked = sorted(found, key=found.__getitem__, reverse=True) if most else []
    return [
        {"topic": topic, "section": section}
        for topic, section in ranked[:MAX_SECTIONS]
        if 2 * found[topic, section] > most
    ]


def list_sections() -> Iterator[tuple[str, str, str]]:
    """Yield topic, heading and text of each question on the first page and of each section."""
    index, *pages = PAGES
    for question, answers in re.findall(r"^\| (.+\?) \| (.+) \|$", index.printed, re.MULTILINE):
        for section, topic in re.findall(r"(.+?) \(`minutehand docs ([\w-]+)`\)(?:, )?", answers):
            yield topic, section, question
    for page in pages:
        for text in re.split(r"^(?=#)", page.text, flags=re.MULTILINE):
            heading = text.partition("\n")[0].strip("# ")
            yield page.topic, heading or page.title, text


def project_names(project: Project) -> tuple[str, str, str]:
    """Find names for a page's examples: a local tenant's id, a package and a job type."""
    tenant = TENANT
    try:
        values = load_values(None)
        if default_user.is_available(values) and (member := default_user.find_member(values)):
            tenant = member.tenant
    except (CommandFailed, ConnectionError):
        pass  # keep the example's tenant if no local stack runs
    for package in project.packages:
        for root in project.import_roots:
            files = package_folder(root, package).rglob("*.py")
            for file in sorted(files, key=lambda file: (not file.match("*hello.py"), file)):
                text = file.read_text("utf-8", errors="replace")
                if match := re.search(r'@(?:registry\.)?processor\(\s*"([^"]+)"', text):
                    return tenant, package, match[1]
    return tenant, PACKAGE_NAME, JOB_TYPE
