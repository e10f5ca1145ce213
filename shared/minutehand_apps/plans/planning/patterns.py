"""Work-breakdown patterns for common kinds of project: the bundled basis of offline plans.

A pattern names work packages, what each takes per unit of size, and what follows what. Its hours
are rules of thumb: every estimate made of them says so, with its range. The texts are data, so that
a person can read and correct them in one place: `kinds.py` and `errands.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Task:
    """A work package.

    Attributes:
        hours: Hours of work, whatever the size.
        per: Hours of work for each unit of a size.
        after: Packages that must be finished before.
        wait: Working days that pass after it before anything that follows can begin.
        crew: Most people who can work on it at once.
        spread: Low and high end of the hours, as factors.
        share: How much of a day is worked on it: half of it takes twice as long.
        pinned: Whether it takes place on the stated day itself.
        near: Working days before that day by which it is finished, and not earlier than need be;
            None for what is done as early as possible.
        unknown: What an estimate would need, where the pattern has no basis for one.
    """

    id: str
    title: str
    role: str
    hours: float
    deliverable: str
    steps: tuple[str, ...]
    per: tuple[tuple[str, float], ...] = ()
    after: tuple[str, ...] = ()
    wait: float = 0
    crew: int = 1
    spread: tuple[float, float] = (0.7, 1.5)
    share: float = 1
    pinned: bool = False
    near: float | None = None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Size:
    """What the work is measured by; `usual` is taken, and said, when the prompt names none."""

    name: str
    unit: str
    nouns: tuple[str, ...]
    usual: int
    question: str


@dataclass(frozen=True, slots=True)
class Risk:
    """Something that may go wrong; probability and impact from 1 to 5."""

    title: str
    probability: int
    impact: int
    response: str
    owner: str

    @property
    def score(self) -> int:
        """Probability times impact, 1 to 25."""
        return self.probability * self.impact


@dataclass(frozen=True, slots=True)
class Cost:
    """Something that has to be paid for, matched with stated prices by its words."""

    item: str
    task: str
    words: tuple[str, ...]
    size: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """A way to go about it, and when it is the better one: `time`, `money` or `else`."""

    title: str
    description: str
    favours: str


@dataclass(frozen=True)
class Pattern:
    """A kind of project."""

    name: str
    title: str
    words: tuple[str, ...]
    lead: str
    sizes: tuple[Size, ...]
    phases: tuple[tuple[str, tuple[Task, ...]], ...]
    risks: tuple[Risk, ...]
    costs: tuple[Cost, ...]
    options: tuple[Option, ...]
    stakeholders: tuple[str, ...]
    checks: tuple[str, ...]
    weight: int = field(default=1)
    #: Whether its sizes are ways to measure the same thing, so that the first stated one counts.
    one_size: bool = False

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """All work packages, in order."""
        return tuple(task for _, tasks in self.phases for task in tasks)

    def matches(self, prompt: str) -> list[str]:
        """The words of the prompt that speak for this kind, in their order."""
        found = [
            match.group().lower()
            for word in self.words
            for match in re.finditer(rf"\b(?:{word})\b", prompt, re.I)
        ]
        return list(dict.fromkeys(found))
