"""Which tier a request belongs to, measured on requests that were labelled by hand."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from minutehand_apps.chat.classifier import classify
from minutehand_apps.chat.models import Text

REQUESTS = Path(__file__).with_name("requests")
TEXTS = [Text(title="One", text="First."), Text(title="Two", text="Second.")]


class Labelled(NamedTuple):
    """A request as a person would take it."""

    tier: str
    kinds: set[str]
    language: str
    text: str


def labelled(half: str) -> list[Labelled]:
    """One half of the labelled requests."""
    lines = (REQUESTS / f"{half}.txt").read_text("utf-8").splitlines()
    parts = [line.split(" | ", 3) for line in lines if line and not line.startswith("#")]
    return [
        Labelled(tier, set(kinds.split()) - {"-"}, language, text)
        for tier, kinds, language, text in parts
    ]


def accuracy(requests: list[Labelled]) -> tuple[float, float]:
    """The shares whose tier, and whose tier and kinds of work, are as labelled."""
    found = [(each, classify(each.text)) for each in requests]
    tiers = [one.tier == each.tier for each, one in found]
    whole = [one.tier == each.tier and set(one.kinds) == each.kinds for each, one in found]
    return sum(tiers) / len(tiers), sum(whole) / len(whole)


def test_requests_are_classified_as_a_person_would() -> None:
    """Nine in ten at least of those that nobody looked at while the rules were written."""
    held_out = labelled("held_out")

    assert len(held_out) >= 150
    assert {each.language for each in held_out} == {"en", "de", "fr", "es", "pt"}
    assert min(accuracy(held_out)) >= 0.9


def test_strangers_requests_are_classified(capsys: pytest.CaptureFixture[str]) -> None:
    """200 written after the rules in ten languages: nine in ten of each that the rules claim.

    No language is carried by the others; in one that they do not read no work is invented.
    """
    outside = labelled("outside")
    languages = ("en", "de", "fr", "es", "pt", "it", "nl", "pl", "ja", "zh")
    figures = {
        language: accuracy([each for each in outside if each.language == language])[0]
        for language in languages
    }

    with capsys.disabled():
        print("\nrequests, outside:", *(f"{name} {share:.0%}" for name, share in figures.items()))
    assert len(outside) == 200
    assert min(figures[each] for each in languages[:5]) >= 0.9
    for each in outside:
        if each.language in languages[5:]:
            assert set(classify(each.text).kinds) <= each.kinds, each.text


def test_an_ordinary_word_is_no_deliverable() -> None:
    """Nor a noun a verb: "table tennis" asks for no table; each of these is right."""
    ordinary = labelled("ordinary")

    assert len(ordinary) >= 45
    wrong = [each.text for each in ordinary if set(classify(each.text).kinds) != each.kinds]
    assert wrong == []


def test_a_request_is_explained() -> None:
    """By what it asks for, and by what it merely names."""
    wanted = classify("Don't research anything, just tell me a joke")
    assert wanted.tier == "standard"
    assert wanted.reasons == ["research is named, but not wanted"]
    assert classify("Could you please research nothing today?").items == []
    mentioned = classify("What does research mean?")
    assert mentioned.reasons == ["it asks about something, and does not request work"]


def test_work_is_named_by_its_own_part() -> None:
    """Of a message that asks for several things."""
    text = "Hello! Please summarise the notes, and then draft a letter to the city. Thanks."
    assert [item.title for item in classify(text).items] == [
        "Summary: summarise the notes", "Draft: draft a letter to the city",
    ]  # fmt: skip
    both = classify("Research renewable energy and build me an interactive dashboard")
    assert [(item.kind, item.title) for item in both.items] == [
        ("research", "Research: Research renewable energy"),
        ("build", "Build: build me an interactive dashboard"),
    ]
    report = classify("Research AI safety and build a comprehensive report")
    assert report.kinds == ["research", "build"]
    assert classify("Compare Python and Go").items[0].title == "Comparison: Compare Python and Go"


@pytest.mark.parametrize(("count", "kind"), [(0, "research"), (1, "summarise"), (2, "compare")])
def test_forced_work_is_found_by_what_came_along(count: int, kind: str) -> None:
    """Where the words name none; its title is one bounded line."""
    [item] = classify("Have a\nlook " * 100, TEXTS[:count], forced=True).items
    assert item.kind == kind
    assert "\n" not in item.title
    assert len(item.title) <= 200


@pytest.mark.parametrize("text", ["a" * 8000, "and " * 2000, '"' * 3000, "\U0001f409" * 3000, "("])
def test_any_text_is_classified_soon(text: str) -> None:
    """Nothing that is sent keeps a process busy."""
    assert classify(text).tier in {"instant", "standard", "async"}
