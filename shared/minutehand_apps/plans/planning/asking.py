"""What is asked before a plan is computed, and the prompt with the answers in it.

Questions come by their effect on the verdict; how they are put is pipeline.py's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

from minutehand_apps.plans.planning import catalogue
from minutehand_apps.plans.planning.breakdown import SizeTaken, packages_of, sizes_of
from minutehand_apps.plans.planning.numbers import count, number_of
from minutehand_apps.plans.planning.patterns import Pattern
from minutehand_apps.plans.planning.reading import Facts
from minutehand_apps.plans.planning.schedule import schedule

MOST: Final = 3
SKIP: Final = "Skip"
_ORDER: Final = ("deadline", "team", "figure", "budget")
IN_PLACE: Final = {"budget": "budget of {}", "team": "a team of {}"}


@dataclass(frozen=True)
class Question:
    """A question, and where its answer goes."""

    text: str
    #: Words of the prompt that the answer replaces; empty where it is added.
    replaces: str = ""
    #: How it is said, with `{}` for the answer.
    said: str = "{}"
    #: What a bare number counts.
    unit: str = ""

    def answered(self, prompt: str, answer: str) -> str:
        """The prompt with an answer; unchanged when it was skipped."""
        answer = answer.strip().rstrip(".")
        if not answer or answer.casefold() == SKIP.casefold():
            return prompt
        if self.replaces:
            said, words = self.said.format(answer), re.escape(self.replaces)
            whole = rf"(?<!\w)(?<!\d[.,]){words}(?!\w|[.,]\d)"  # 5 EUR is not the end of 15 EUR
            pattern = whole if re.search(whole, prompt) else words
            return re.sub(pattern, lambda _: said, prompt, count=1)
        value = number_of(answer) if self.unit and answer.isdigit() else None
        words = count(value, self.unit) if value is not None else answer
        return f"{prompt.rstrip().rstrip('.')}. {self.said.format(words)}."


def first_questions(prompt: str, today: date) -> list[Question]:
    """At most three, by their effect on the verdict.

    What was not read for sure, a missing deadline and hours that nothing tells leave it unknown,
    so they come first; then sizes and the team, by the days that their answer moves the end; then
    the budget.
    """
    facts, picked = catalogue.understood(prompt, today)
    pattern = picked.pattern
    sizes = sizes_of(pattern, facts)
    doubts = sorted(facts.doubts, key=lambda each: _ORDER.index(each.about))
    found = [
        Question(each.question, replaces=each.text, said=IN_PLACE.get(each.about, "{}"))
        for each in doubts
        if each.text in prompt
    ]
    if facts.deadline is None and facts.doubt("deadline") is None:
        found.append(Question("When must it be finished?", said="The deadline is {}"))
    if facts.effort is None and any(task.unknown for task in pattern.tasks):
        hours = "How many hours does the work itself take?"
        found.append(Question(hours, said="It takes {} of work", unit="hour"))
    moving = [
        (_days_moved(pattern, facts, sizes, size), Question(size.question, unit=size.unit))
        for size in sizes
        if size.question
    ]
    if facts.people is None and facts.doubt("team") is None:
        team = Question("How many people do the work?", said="A team of {} does the work")
        moving.append((_days_moved(pattern, facts, sizes, None), team))
    found += [question for _, question in sorted(moving, key=lambda each: -each[0])]
    if facts.budget is None and facts.doubt("budget") is None:
        found.append(Question("What may it cost?", said="The budget is {}"))
    return found[:MOST]


def _days_moved(
    pattern: Pattern, facts: Facts, sizes: list[SizeTaken], asked: SizeTaken | None
) -> int:
    """Days between the ends at half and twice a size; of the team, between one and enough."""

    def last_day(factor: float, people: int | None) -> date:
        changed = [
            size.model_copy(update={"value": size.value * factor}) if size is asked else size
            for size in sizes
        ]
        packages = packages_of(pattern, facts, changed, steps=False)
        return schedule(facts, packages, people).last_day

    if asked is None:
        return (last_day(1, 1) - last_day(1, None)).days
    return (last_day(2, facts.people) - last_day(0.5, facts.people)).days
