"""What a prompt states is read and held; what it does not state is not made up."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from minutehand.apps.plans.planning import catalogue
from minutehand.apps.plans.planning.reading import read

TODAY = date(2027, 1, 13)  # a Wednesday


@pytest.mark.parametrize(
    ("words", "day"),
    [
        ("by 30 April 2027", "2027-04-30"),
        ("before 30 April 2027", "2027-04-29"),
        ("on April 30th, 2027", "2027-04-30"),
        ("by 2027-04-30", "2027-04-30"),
        ("until 30.4.2027", "2027-04-30"),
        ("by 3 January", "2028-01-03"),
        ("by 1 March", "2027-03-01"),
        ("by the end of June", "2027-06-30"),
        ("in June 2027", "2027-06-30"),
        ("before June", "2027-05-31"),
        ("by Friday", "2027-01-15"),
        ("before Christmas", "2027-12-24"),
        ("by the end of the year", "2027-12-31"),
        ("within 10 weeks", "2027-03-23"),
        ("in 3 months", "2027-04-12"),
        ("within ten working days", "2027-01-26"),
        ("in a week", "2027-01-19"),
        ("in 5 days", "2027-01-17"),
    ],
)  # fmt: skip
def test_deadlines_are_read_in_the_forms_people_write(words: str, day: str) -> None:
    """A day without a year is the next one; a span counts from the first day."""
    facts = read(f"Plant a hedge {words}.", TODAY)

    assert facts.deadline is not None
    assert facts.deadline.day.isoformat() == day


@pytest.mark.parametrize(
    "words", ["by 31 June 2027", "", "for a two-day party", "after 3 people have agreed"]
)
def test_what_names_no_day_is_no_deadline(words: str) -> None:
    """A day that does not exist, and a length that is no deadline."""
    assert read(f"Plant a hedge {words}.", TODAY).deadline is None


def test_a_start_and_a_window_are_no_deadlines() -> None:
    """They are kept under their own names."""
    start = read("Survey 20 people, starting on 1 February 2027.", TODAY)
    window = read("Move the office between 4 and 5 March 2027.", TODAY)

    assert start.start is not None
    assert (start.start.day, start.deadline) == (date(2027, 2, 1), None)
    assert window.window is not None
    assert window.deadline is not None
    assert (window.window.day, window.deadline.day) == (date(2027, 3, 4), date(2027, 3, 5))


@pytest.mark.parametrize(
    ("words", "amount", "currency"),
    [
        ("with a budget of EUR 42,000", "42000", "EUR"),
        ("for at most 18,000 €", "18000", "EUR"),
        ("budget 60k EUR", "60000", "EUR"),
        ("and we can spend $ 1.5 million", "1500000", "USD"),
        ("with no more than 900 pounds", "900", "GBP"),
        ("for two thousand dollars", "2000", "USD"),
    ],
)
def test_budgets_are_read(words: str, amount: str, currency: str) -> None:
    """With their currency, in digits and in words."""
    facts = read(f"Plant a hedge {words}.", TODAY)

    assert facts.budget is not None
    assert (facts.budget.amount, facts.budget.currency) == (Decimal(amount), currency)


def test_rates_prices_and_costs_are_told_apart() -> None:
    """By what stands beside the amount."""
    facts = read(
        "Organise a fair for 80 guests. Catering costs 38 EUR per guest, the hall costs 900 EUR,"
        " 12 tents at 150 EUR each, helpers at 20 EUR an hour. Each speaker gets a gift of 25 EUR.",
        TODAY,
    )

    assert [(price.item, price.per, price.amount) for price in facts.prices] == [
        ("catering", "guest", Decimal(38)),
        ("tents", "tent", Decimal(150)),
        ("gift", "speaker", Decimal(25)),
    ]
    assert [(cost.item, cost.amount) for cost in facts.costs] == [("hall", Decimal(900))]
    assert [(rate.per, rate.amount) for rate in facts.rates] == [("hour", Decimal(20))]
    assert facts.budget is None


@pytest.mark.parametrize(
    ("words", "people"),
    [
        ("We are five people.", 5),
        ("Two painters and one electrician do it.", 3),
        ("A team of 4 does it.", None),
        ("I do it alone.", 1),
        ("There are 3 of us.", 3),
        ("Train 240 nurses.", None),
        ("Our office of 35 people moves.", None),
        ("Seat 60 people.", None),
    ],
)
def test_a_team_is_told_from_those_the_work_is_for(words: str, people: int | None) -> None:
    """Whoever is trained, moved or seated is a quantity."""
    assert read(f"Plan it. {words}", TODAY).people == people


def test_a_bound_is_no_size_and_a_limit_is_kept() -> None:
    """No more than one day is a condition, not the length of the course."""
    facts = read("Train 20 drivers. Nobody may miss more than one day.", TODAY)

    assert [(q.noun, q.is_bound) for q in facts.quantities] == [("driver", False), ("day", True)]
    assert facts.limits == ["Nobody may miss more than one day"]


def test_no_figure_of_a_prompt_is_lost() -> None:
    """What no rule understands is kept with its words."""
    facts = read("Migrate release 4.2.1 of 7 hosts at 12:30 to rack B-17.", TODAY)

    kept = " ".join([*facts.others, *(quantity.text for quantity in facts.quantities)])
    assert all(figure in kept for figure in ("4.2.1", "7", "12:30", "17"))


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Paint the fence", "painting"), ("Renovate two bathrooms", "renovation"),
        ("Build a shed", "building"), ("Move to a new flat", "move"),
        ("Buy 12 chairs", "purchase"), ("Build an app for our club", "software"),
        ("Train 12 volunteers", "training"), ("Organise a summer party", "event"),
        ("Survey 100 visitors", "research"), ("Run a fundraising campaign", "campaign"),
        ("Learn what it takes to be happy and write it down", "training"),
        ("Sort the archive", "general"),
    ],
)  # fmt: skip
def test_kinds_are_recognised_by_words(prompt: str, name: str) -> None:
    """And none is claimed where no word speaks for one."""
    assert catalogue.pick(prompt)[0].name == name
