"""What a prompt states is read and held; what it does not state is not made up."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from minutehand_apps.plans.planning import catalogue
from minutehand_apps.plans.planning.asking import IN_PLACE, Question
from minutehand_apps.plans.planning.reading import read

TODAY = date(2027, 1, 13)  # a Wednesday


def test_a_start_and_a_window_are_no_deadlines() -> None:
    """They are kept under their own names."""
    start = read("Survey 20 people, starting on 1 February 2027.", TODAY)
    window = read("Move the office between 4 and 5 March 2027.", TODAY)

    assert start.start is not None
    assert (start.start.day, start.deadline) == (date(2027, 2, 1), None)
    named = read("Survey 20 people starting Monday 1 February 2027.", TODAY)
    assert (named.start, named.deadline) == (
        start.start.model_copy(update={"text": "starting Monday 1 February 2027"}),
        None,
    )
    assert window.window is not None
    assert window.deadline is not None
    assert (window.window.day, window.deadline.day) == (date(2027, 3, 4), date(2027, 3, 5))
    assert read("Teach groups of 12 until 30.4.2027", TODAY).window is None
    for words, first, last in (
        ("from Friday 5 to Sunday 7 March 2027", date(2027, 3, 5), date(2027, 3, 7)),
        ("between 1 March and 15 April 2028", date(2028, 3, 1), date(2028, 4, 15)),
    ):
        facts = read(f"Organise a fair {words}", TODAY)
        assert facts.window is not None
        assert facts.deadline is not None
        assert (facts.window.day, facts.deadline.day, facts.start) == (first, last, None)


def test_rates_prices_and_costs_are_distinguished() -> None:
    """By what stands beside the amount."""
    facts = read(
        "Organise a fair for 80 guests. Catering costs 38 EUR per guest, the hall costs 900 EUR,"
        " 12 tents at 150 EUR each, helpers at 20 EUR an hour. Each speaker gets a gift of 25 EUR;"
        " each stand costs 40 EUR; drinks for 9 EUR p.p.",
        TODAY,
    )

    assert [(price.item, price.per, price.amount) for price in facts.prices] == [
        ("catering", "guest", Decimal(38)),
        ("tents", "tent", Decimal(150)),
        ("gift", "speaker", Decimal(25)),
        ("stand", "stand", Decimal(40)),
        ("drinks", "person", Decimal(9)),
    ]
    assert [(cost.item, cost.amount) for cost in facts.costs] == [("hall", Decimal(900))]
    assert [(rate.per, rate.amount) for rate in facts.rates] == [("hour", Decimal(20))]
    assert facts.budget is None
    listed = read(
        "Buy 30 laptops (max. €1,100 each). Hall 600 €, band 1.200 €. Paint costs 9 EUR per m²."
        " Food stalls pay us £50 each. Our budget is EUR 900, of which EUR 50 is for music.",
        TODAY,
    )
    assert [(price.per, price.quantity) for price in listed.prices] == [
        ("laptop", 30), ("square metre", None),
    ]  # fmt: skip
    assert [cost.item for cost in listed.costs] == ["band"]
    assert [doubt.text for doubt in listed.doubts][:3] == ["600 €", "£50", "EUR 50"]
    rated = read("Build an app with a day rate of 640 €", TODAY)
    assert [(rate.per, rate.amount) for rate in rated.rates] == [("day", Decimal(640))]
    days = (
        read("Organise a fair from 5 to 7 June 2027", TODAY),
        read("A fair June 5-7, 2027", TODAY),
    )
    assert [each.window and each.window.day for each in days] == [date(2027, 6, 5)] * 2


PHRASES = [
    line.split(" | ")
    for line in Path(__file__).with_name("phrases.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(("prompt", "read_as"), PHRASES)
def test_a_usual_phrase_is_read_or_asked_about(prompt: str, read_as: str) -> None:
    """Never misread, and never "none stated": the words that are doubtful are named."""
    facts = read(prompt, TODAY)
    about, _, wanted = read_as.partition(" ")

    doubt = facts.doubt(about)
    if wanted == "?":
        assert doubt is not None, facts
        assert doubt.question.endswith("?")
        assert any(word in prompt for word in doubt.text.split(" … "))
        return
    assert doubt is None
    found = {
        "budget": facts.budget and f"{facts.budget.amount.normalize():f} {facts.budget.currency}",
        "deadline": facts.deadline and facts.deadline.day,
        "team": facts.people,
    }[about]
    amount, _, unit = wanted.partition(" ")
    expected = f"{Decimal(amount).normalize():f} {unit}" if about == "budget" else wanted
    assert str(found) == expected


def test_an_answer_settles_what_was_doubtful() -> None:
    """In the place of the doubtful words, as a plan that asks first puts it there."""
    answers = {"deadline": "3 June 2027", "budget": "EUR 900", "team": "3"}
    for prompt, read_as in PHRASES:
        about = read_as.removesuffix(" ?")
        doubt = read(prompt, TODAY).doubt(about)
        if about not in answers or doubt is None or doubt.text not in prompt:
            continue
        question = Question(doubt.question, doubt.text, IN_PLACE.get(about, "{}"))
        answered = read(question.answered(prompt, answers[about]), TODAY)
        assert answered.doubt(about) is None, answered.prompt


def test_an_answer_takes_the_place_of_whole_words() -> None:
    """Not of the end of a longer figure."""
    asked = Question("Which?", "5 EUR")

    assert asked.answered("A lamp for 15 EUR, a shade for 5 EUR", "7 EUR") == (
        "A lamp for 15 EUR, a shade for 7 EUR"
    )


@pytest.mark.parametrize("text", ["1." * 4000, "1,000 " * 1300, "and " * 2000, "in the " * 1100])
def test_any_text_is_read_soon(text: str) -> None:
    """Nothing that is handed in keeps a process busy."""
    assert read(text, TODAY).deadline is None


def test_no_start_is_taken_for_a_deadline() -> None:
    """Not before the first is from the first on."""
    facts = read("Start not before 1 March 2027 with the fair", TODAY)

    assert facts.start is not None
    assert (facts.start.day, facts.deadline) == (date(2027, 3, 1), None)


def test_another_language_is_said_not_to_be_read() -> None:
    """No goal is made of it."""
    facts = read("Organisiere ein Sommerfest für 300 Gäste am 12. Juni", TODAY)

    assert facts.doubt("figure") is not None


def test_a_bound_is_no_size_and_a_limit_is_kept() -> None:
    """No more than one day is a condition, not the length of the course."""
    facts = read("Train 20 drivers. Nobody may miss more than one day.", TODAY)

    assert [(q.noun, q.is_bound) for q in facts.quantities] == [("driver", False), ("day", True)]
    assert facts.limits == ["Nobody may miss more than one day"]


def test_no_figure_of_a_prompt_is_lost() -> None:
    """What no rule understands is kept with its words."""
    facts = read("Migrate release 4.2.1 of 7 hosts at 12:30 to rack B-17, 1/2 of a dozen.", TODAY)

    kept = " ".join([*facts.others, *(quantity.text for quantity in facts.quantities)])
    assert all(figure in kept for figure in ("4.2.1", "7", "12:30", "17", "1/2"))


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Paint the fence", "painting"), ("Renovate two bathrooms", "renovation"),
        ("Build a shed", "building"), ("Move to a new flat", "move"),
        ("Buy 12 chairs", "purchase"), ("Build an app for our club", "software"),
        ("Train 12 volunteers", "training"), ("Organise a summer party", "event"),
        ("Survey 100 visitors", "research"), ("Run a fundraising campaign", "campaign"),
        ("Train for a marathon", "general"), ("Buy milk", "general"),
        ("Translate our website of 85 pages", "general"), ("Move 42 racks", "general"),
        ("Sort the archive", "general"),
    ],
)  # fmt: skip
def test_kinds_are_recognised_by_words(prompt: str, name: str) -> None:
    """And none is claimed where no word speaks for one."""
    assert catalogue.pick(read(prompt, TODAY)).pattern.name == name
