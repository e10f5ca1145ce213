"""Which questions the bundled corpus answers, by Postgres' full-text search; and which not."""

from __future__ import annotations

from pathlib import Path

import pytest

from minutehand_apps.chat import offline
from minutehand_apps.chat.sources import Passage, named_in
from tests.integration.chat.conftest import Harness

OFF_TOPIC = Path(__file__).with_name("off_topic.txt").read_text("utf-8").splitlines()


async def asked(harness: Harness, question: str) -> list[Passage]:
    """The passages that are found for a question."""
    return await harness.chat.store.matching(question, named_in(question))


async def test_no_question_off_its_topics_is_answered(harness: Harness) -> None:
    """Of two hundred, many of them with words of its titles: citing wrongly is worse than not."""
    assert len(OFF_TOPIC) >= 200

    wrong = {
        each: [p.text for p in found] for each in OFF_TOPIC if (found := await asked(harness, each))
    }

    assert wrong == {}


@pytest.mark.parametrize(
    ("question", "title", "words"),
    [
        ("What does photosynthesis do?", "Photosynthesis", "light"),
        ("How do heat pumps work?", "Heat pumps", ""),
        ("What is renewable energy?", "Renewable energy", "sunlight"),
        ("Are lighthouses automatic today?", "Lighthouses", "automatic"),
    ],
)
async def test_a_question_it_has_every_word_of_is_answered_with_its_source(
    harness: Harness, question: str, title: str, words: str
) -> None:
    """Quoted whole, with its licence."""
    found = await asked(harness, question)

    assert found[0].source == title
    assert words in found[0].text.casefold()
    assert offline.answer(found).endswith(f"[{title}, Minutehand corpus, CC BY 4.0]")


def test_research_takes_the_articles_that_a_request_names() -> None:
    """All their passages, in order; an article whose name is not there stays out."""
    found = named_in("Research heat pumps vs gas boilers for a report on climate")

    assert list(dict.fromkeys(each.source for each in found)) == ["Gas boilers", "Heat pumps"]
    assert named_in("Research quantum knitting") == []
