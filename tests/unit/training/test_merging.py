"""Two edits of one procedure: what each changed is kept, and what both changed is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minutehand_apps.training.merging import keep_evidence, merge
from minutehand_apps.training.models import Procedure, Step


def procedure(titles: str, **more: Any) -> Procedure:
    """A procedure with a step for each letter; the time is the letter's place in the alphabet."""
    steps = [Step(title=t, at_seconds=float(ord(t.lower())), said=f"said {t}") for t in titles]
    return Procedure(**{"title": "Lamp", "steps": steps, **more})


@pytest.mark.parametrize(
    ("mine", "theirs", "merged", "conflicting"),
    [
        ("Abcd", "aBcd", "ABcd", []),
        ("abcdx", "xabcd", "xabcdx", []),
        ("abxcd", "abcD", "abxcD", []),
        ("acd", "abcD", "acD", []),
        ("abxcd", "abycd", "abyxcd", []),
        ("abxcd", "abxcd", "abxcd", []),
        ("abcd", "dx", "dx", []),
        ("axcd", "aycd", "axcd", [2]),
        ("acd", "aBcd", "acd", [2]),
        ("aBcd", "acd", "aBcd", [2]),
    ],
)
def test_steps_are_merged_one_by_one(
    mine: str, theirs: str, merged: str, conflicting: list[int]
) -> None:
    """Next to each other, removed, added in one place; only a step that both changed conflicts."""
    found, conflicts = merge(procedure("abcd"), procedure(mine), procedure(theirs))

    assert "".join(step.title for step in found.steps) == merged
    assert [conflict.number for conflict in conflicts] == conflicting


@given(*[st.text("abcdXYZ", min_size=1, max_size=8)] * 2)
def test_who_changed_nothing_takes_the_other_edit(base: str, edited: str) -> None:
    """Whatever it is; and the same edit twice is that edit."""
    was, other = procedure(base), procedure(edited)

    assert merge(was, was, other) == (other, [])
    assert merge(was, other, was) == (other, [])
    assert merge(was, other, other) == (other, [])


def test_the_rest_is_merged_by_its_lines() -> None:
    """A warning of each is kept; a title that both changed is a conflict."""
    was = procedure("a", warnings=["hot", "wet"], materials=["cloth"])

    found, conflicts = merge(
        was,
        procedure("a", title="Mine", warnings=["hot", "wet", "sharp"]),
        procedure("a", title="Theirs", warnings=["hot", "heavy"], materials=["cloth"]),
    )

    assert (found.title, found.warnings, found.materials) == (
        "Mine", ["hot", "heavy", "sharp"], [],
    )  # fmt: skip
    assert [(c.part, c.mine, c.theirs) for c in conflicts] == [("title", "Mine", "Theirs")]


def test_an_edit_keeps_the_words_a_step_came_from() -> None:
    """Unless it says others; a step in other words is not doubtful, one at another place is new."""
    was = procedure("abc")
    for step in was.steps:
        step.doubtful = True
    plain = [Step(title=t, at_seconds=float(ord(t.lower()))) for t in "aBd"]

    found = keep_evidence(was, Procedure(title="Lamp", steps=plain))

    assert [(step.said, step.doubtful) for step in found.steps] == [
        ("said a", True), ("said b", False), ("", False),
    ]  # fmt: skip
