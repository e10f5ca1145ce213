"""What is done without a language model: exact answers, recall, the corpus, data, pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from minutehand.apps.chat.classifier import classify
from minutehand.apps.chat.models import Found, PastMessage, Text
from minutehand.apps.chat.offline import answers, artefact, instant, texts, work
from minutehand.apps.chat.offline.tables import Data, find_data

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
HISTORY = [PastMessage(author="user", kind="message", text="My name is Ada. I live in Turin.")]


def task(text: str, **more: object) -> work.Task:
    """The first piece of work that a request asks for."""
    made = work.Task(item=classify(text).items[0])
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("What is 0.1 + 0.2?", "0.1 + 0.2 = 0.3"),
        ("(3 + 4) * 5", "(3 + 4) × 5 = 35"),
        ("2^10", "2 ^ 10 = 1024"),
        ("15% of 240", "15 % of 240 is 36."),
        ("Wie viel ist 12 mal 14?", "12 × 14 = 168"),
        ("convert 12 miles to km", "12 miles = 19.312128 km"),
        ("100 fahrenheit to celsius", "100 °F = 37.777778 °C"),
        ("How many feet are 3 metres?", "3 m = 9.84252 feet"),
        ("What day is it today?", "Today is Saturday, 2026-11-21 (UTC)."),
        ("what weekday was 2020-02-29?", "2020-02-29 is a Saturday."),
        ("How many days until 24 December?", "33 days, until Thursday, 2026-12-24."),
        ("quelle heure est-il ?", "It is 09:30 UTC."),
    ],
)  # fmt: skip
def test_exact_questions_are_answered_exactly(asked: str, answered: str) -> None:
    """Decimals, units and calendars, in any of the languages."""
    assert instant.answer(asked, now=NOW) == answered


@pytest.mark.parametrize(
    "asked",
    ["1/0", "9**9**9**9", "2026-11-21", "convert 3 kg to miles", "31 February", "__import__('os')"],
)  # fmt: skip
def test_what_is_no_exact_question_is_left_alone(asked: str) -> None:
    """Neither an error nor a guess."""
    assert instant.answer(asked, now=NOW) is None


def test_what_was_said_is_recalled() -> None:
    """And what was not said is said not to be known."""
    assert answers.reply("What is my name?", [], HISTORY) == "You said: “My name is Ada.”"
    assert answers.reply("Where do I live?", [], HISTORY) == "You said: “I live in Turin.”"
    assert answers.reply("What is my favourite colour?", [], HISTORY) == (
        "You have not told me your favourite colour here."
    )
    notes = [Text(title="Notes", text="The lift carries two tonnes. The roof leaks.")]
    assert (
        answers.reply("What does the lift carry?", notes, [])
        == "The lift carries two tonnes. [Notes]"
    )


def test_the_corpus_answers_and_is_cited() -> None:
    """What it does not hold is not answered at all."""
    known = answers.reply("What does photosynthesis do?", [], [])
    assert known.endswith("[Minutehand corpus, Photosynthesis]")
    for unknown in ("Who wrote Moby-Dick?", "Tell me a joke", "Is the bee museum open on Mondays?"):
        assert answers.reply(unknown, [], []) == answers.NO_MODEL


def test_the_corpus_is_whole() -> None:
    """Each article has passages to cite under a licence, and figures that are numbers."""
    assert len(texts.corpus()) >= 25
    for article in texts.corpus():
        assert article.passages, article.title
        assert all("CC BY 4.0" in (each.licence or "") for each in article.passages)
    [found] = texts.articles_about("history of lighthouses")
    assert (found.title, len(found.events)) == ("Lighthouses", 4)
    assert texts.articles_about("broken street lamp") == []


def test_research_cites_each_sentence() -> None:
    """By the number of a source that is listed; what was said meanwhile becomes a part."""
    asked = task("Research renewable energy", guidance=["storage over seasons"])
    passages = work.sources_at_hand(asked)
    questions = work.questions_of(asked, passages)
    parts = [work.research_part(asked, each, passages) for each in questions]

    product = work.research_result(asked, parts, passages)

    assert questions[0] == "What was asked for: storage over seasons"
    assert "Storage for whole seasons is still expensive. [1]" in parts[0].text
    assert product.sources == ["[1] Renewable energy (Minutehand corpus, CC BY 4.0)"]
    assert all(re.search(r"\[\d\]$", part.text) for part in parts)


def test_research_without_sources_says_so() -> None:
    """It makes nothing up."""
    asked = task("Research quantum knitting")
    assert work.sources_at_hand(asked) == []
    assert "I found nothing about “quantum knitting”" in work.research_result(asked, [], []).text


@pytest.mark.parametrize(
    ("text", "series"),
    [
        ("Build a dashboard with these sales: Jan 10, Feb 14", [("Jan", 10, ""), ("Feb", 14, "")]),
        ("Draw a pie of the budget: rent 800, food 300", [("rent", 800, ""), ("food", 300, "")]),
        ("Make a bar chart of 3, 5 and 8", [("1", 3, ""), ("2", 5, ""), ("3", 8, "")]),
        ("Visualise these figures: 2020 5, 2021 8", [("2020", 5, ""), ("2021", 8, "")]),
        ("month,sales\nJan,10\nFeb,12", [("Jan", 10, ""), ("Feb", 12, "")]),
        ("| a | b |\n|---|---|\n| x | 1,234.5 |", [("x", 1234.5, "")]),
        ('[{"at": "Turin", "m": 3}, {"at": "Rome", "m": 4}]', [("Turin", 3, ""), ("Rome", 4, "")]),
        ("Build me an interactive dashboard", []),
    ],
)  # fmt: skip
def test_data_is_found_in_what_people_write(
    text: str, series: list[tuple[str, float, str]]
) -> None:
    """Pairs, lists, tables; where there is none, none."""
    assert find_data([text]).series == series


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ("Build a dashboard with sales: Jan 10, Feb 14, Mar 9", "dashboard"),
        ("Make me a timeline of the moon landings", "timeline"),
        ("I'd like a table of the planets", "table"),
        ("Draw a pie chart: rent 800, food 300", "chart"),
        ("Generate a report page from this: a 1, b 2", "report"),
    ],
)
def test_a_page_stands_by_itself(request_: str, kind: str) -> None:
    """It loads nothing, sends nothing, and shows the data."""
    page = work.build(task(request_)).page
    assert page is not None
    written = artefact.render(page)

    assert page.type == kind
    assert "default-src 'none'" in written
    for outside in ("http:", "https:", "//", "src=", "@import", "fetch(", "url("):
        assert outside not in written.replace(artefact.POLICY, ""), outside
    shown = page.data.events if kind == "timeline" else page.data.series
    assert shown[0][0] in written


def test_a_page_shows_markup_as_text() -> None:
    """Whatever a label holds is no script."""
    bad = "<script>alert(1)</script>"
    data = Data(series=[(bad, 1, bad)], events=[(bad, bad)], columns=[bad, "b"], rows=[[bad, "1"]])
    for kind in ("dashboard", "timeline", "table", "chart", "report"):
        for chart in ("bar", "line", "pie"):
            page = artefact.Page(kind, bad, data, artefact.Look(name=bad), [bad], [bad], chart)
            assert "<script>alert" not in artefact.render(page)


def test_answers_change_the_page() -> None:
    """A question is asked only where they do, and in any words."""
    plain = task("Build a dashboard: Jan 10, Feb 14")
    question = work.question_of(plain)
    assert question is not None
    assert work.question_of(task("Build a dark green dashboard: Jan 10, Feb 14")) is None
    answered = task("Build a dashboard: Jan 10, Feb 14", answer="Use a red and white color scheme")
    pages = [
        artefact.render(made.page) for each in (plain, answered) if (made := work.build(each)).page
    ]
    assert "--accent:#1d5fbf" in pages[0]
    assert "--accent:#b3261e" in pages[1]


def test_a_page_is_fed_by_the_research_before_it() -> None:
    """By its figures, with its sources."""
    asked = task("Research renewable energy")
    passages = work.sources_at_hand(asked)
    found = work.research_result(asked, [], passages)
    fed = task(
        "Build me a dashboard",
        found=[Found(title=asked.item.title, text=found.text, data={"sources": found.sources})],
    )
    page = work.build(fed).page
    assert page is not None
    assert ("Share of world electricity 2023, wind", 8, "%") in page.data.series
    assert page.sources == found.sources


def test_comparison_and_draft_differ_and_carry_over_what_matters() -> None:
    """One sets side by side, the other writes to somebody."""
    notes = [
        Text(title="Ada", text="The lift carries two tonnes. The roof leaks."),
        Text(title="Bob", text="The lift is out of order. The city pays."),
    ]
    compared = work.compare(task("Compare the notes", documents=notes)).text
    assert "Only Ada: " in compared
    assert "Both speak of: lift" in compared
    formal = work.draft(task("Draft a letter to the city about the lift", documents=notes)).text
    friendly = work.draft(
        task("Draft a letter to the city about the lift", documents=notes, answer="Friendly please")
    ).text
    assert formal.startswith("Subject: The lift\n\nDear city,")
    assert "The lift carries two tonnes." in formal
    assert friendly.splitlines()[2] == "Hello city,"
