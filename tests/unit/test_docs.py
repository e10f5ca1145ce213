"""The documentation's site: each page exists, is linked, and can be searched."""

import re
from pathlib import Path

import pytest

from infra.docs.__main__ import ROOT, DeadLink, site_links, write_pages
from minutehand.cli.docs import find_sections
from minutehand.docs import PAGES


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the site, written without MkDocs."""
    folder = tmp_path_factory.mktemp("docs") / "pages"
    write_pages(folder)
    return folder


def slug(heading: str) -> str:
    """Return the anchor of a heading on the site."""
    return re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-")


def test_every_question_and_link_leads_to_its_answer(site: Path) -> None:
    """Each link of a page, and each question of the index, leads to an existing section."""
    texts = {page.name: page.read_text() for page in site.glob("*.md")}
    titles = {name: re.findall(r"^#+ (.*)$", text, re.M) for name, text in texts.items()}
    dead = [
        (name, file, anchor)
        for name, text in texts.items()
        for file, anchor in re.findall(r"\]\((?!\w+:|img/)([^)#]*)#?([^)\s]*)\)", text)
        if anchor and anchor not in map(slug, titles[file or name])
    ]

    assert len(re.findall(r"^\| [^|]*\?[^|]* \| .*\.md", texts["index.md"], re.M)) >= 35
    assert dead == []


def test_every_promise_names_the_tests_that_hold_it() -> None:
    """Each promise on the page of promises names existing test files."""
    page = next(page for page in PAGES if page.topic == "promises")
    promised, held = (
        re.findall(r"^\| ([^|]+) \| (.+) \|$", part.partition("|---|---|\n")[2], re.M)
        for part in page.file.read_text().split("## Tests")
    )
    named = [name for _, names in held for name in re.findall(r"`([^`]+)`", names)]
    files = [ROOT / "tests" / (name if name.endswith(".mjs") else f"{name}.py") for name in named]

    assert [name for name, _ in promised] + ["Limits"] == [name for name, _ in held]
    assert [file for file in files if not file.is_file()] == []


def test_a_link_to_what_is_not_there_ends_the_build() -> None:
    """A dead link makes the site's build fail."""
    with pytest.raises(DeadLink, match="nowhere"):
        site_links("[there](../nowhere.md)", ROOT / "infra" / "docs" / "index.md", {})


def test_an_agent_finds_every_page(site: Path) -> None:
    """llms.txt lists each page with its command, or with its address on the site."""
    listed = (ROOT / "infra" / "console" / "llms.txt").read_text()
    linked = (site / "llms.txt").read_text()

    assert re.findall(r"^- (.+): `minutehand docs (\S+)`$", listed, re.M) == [
        (page.title, page.topic) for page in PAGES
    ]
    for _, topic in re.findall(r"^- \[(.+)\]\((\S+)\.html\)$", linked, re.M):
        assert (site / f"{topic}.md").is_file()
    assert linked.count(".html)") == len(PAGES)


#: Questions of engineers, and the topic of the page that answers each.
QUESTIONS = """\
Alembic | install
use with Django | recipes
report for each tenant every night | recipes
move one customer to another database | processors
data residency EU and US | processors
pg_cron | adopt
local development without Docker | local
retry with backoff only some errors | recipes
job priorities | sql
rate limit per tenant | recipes
GDPR delete a user's data | data
how much does it cost per month | aws
cold start of lambda | promises
monitoring and alerts | aws
chat approval tool beans | nextjs
SSO | aws
backpressure | sql
replay dead letters | cli
"""


@pytest.mark.parametrize("question", QUESTIONS.splitlines())
def test_the_first_section_answers_the_question(question: str) -> None:
    """A search with an engineer's question returns a section of the expected page first."""
    words, topic = question.split(" | ")
    assert find_sections(words)[0]["topic"] == topic


def test_sections_are_found_by_their_words() -> None:
    assert find_sections("each tenant")[0]["section"] == "A job in each tenant"
    assert {section["topic"] for section in find_sections("chord")} == {"celery"}
    assert find_sections("beans") == []
