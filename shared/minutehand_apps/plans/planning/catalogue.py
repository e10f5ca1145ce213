"""All bundled patterns, and which of them a prompt describes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from typing import Final

from minutehand_apps.plans.planning.breakdown import sizes_of, unused_of
from minutehand_apps.plans.planning.errands import ERRANDS
from minutehand_apps.plans.planning.kinds import GENERAL, KINDS
from minutehand_apps.plans.planning.patterns import Pattern
from minutehand_apps.plans.planning.reading import Doubt, Facts, read


def all_patterns() -> tuple[Pattern, ...]:
    """Every bundled pattern; the general one last."""
    return (*ERRANDS, *KINDS, GENERAL)


def find(name: str) -> Pattern:
    """The pattern of that name."""
    return next(pattern for pattern in all_patterns() if pattern.name == name)


#: A word in the first half of the goal's first words counts more than one further on.
EARLY_CHARACTERS: Final = 60
#: Points from which on a kind fits; with fewer the general pattern is used.
ENOUGH: Final = 2
#: Verbs that fit whatever is made.
_MAKING: Final = frozenset(
    {"plan", "organise", "organize", "arrange", "prepare", "make", "create", "build", "develop",
     "set", "write", "design", "run", "hold", "host", "do", "conduct"}
)  # fmt: skip
_FILLERS: Final = frozenset(
    {"we", "i", "you", "us", "me", "my", "our", "please", "help", "would", "like", "want", "need",
     "to", "must", "should", "have", "are", "is", "can", "could", "how", "the", "a", "an"}
)  # fmt: skip
_THING: Final = re.compile(r"(?:a|an|the|our|my|this|these|all|your)$|\d")


@dataclass(frozen=True)
class Pick:
    """The pattern a plan is made by; `best` is the one its words speak for, which may not fit."""

    pattern: Pattern
    best: Pattern
    words: list[str]
    fit: int


def pick(facts: Facts) -> Pick:
    """The kind of project that a prompt describes; the general one where none fits."""
    general = all_patterns()[-1]
    best, found, most = general, [], 0.0
    for pattern in all_patterns()[:-1]:
        words = pattern.matches(facts.prompt)
        early = pattern.matches(facts.prompt[:EARLY_CHARACTERS])
        score = (len(words) + 2 * len(early)) * pattern.weight
        if score > most:
            best, found, most = pattern, words, score
    fit = _fit(best, found, facts)
    return Pick(best if fit >= ENOUGH else general, best, found, fit)


def understood(prompt: str, today: date) -> tuple[Facts, Pick]:
    """What a prompt states, and its kind; an errand, of no kind and no figure, is asked about."""
    facts = read(prompt, today)
    picked = pick(facts)
    stated = (
        facts.start, facts.deadline, facts.budget, facts.rates, facts.prices, facts.costs,
        facts.team, facts.quantities, facts.effort, facts.others, facts.doubts,
    )  # fmt: skip
    if picked.pattern.name == "general" and len(prompt.split()) <= 6 and not any(stated):
        question = "What exactly is to be done, and how much of it?"
        doubt = Doubt(about="figure", text=facts.goal, question=question)
        facts = facts.model_copy(update={"doubts": [doubt]})
    return facts, picked


def _fit(pattern: Pattern, matched: list[str], facts: Facts) -> int:
    """From 0 to 3: a point for each of two words, one for a stated size.

    A quantity that nothing measures costs one. What is done to a thing of that kind, as in
    "translate our website", is not of that kind: 0.
    """
    words = re.findall(r"[\w'-]+", facts.prompt.lower())
    at = next((n for n, word in enumerate(words) if word not in _FILLERS), 0)
    first, following = words[at : at + 1], words[at + 1 : at + 2]
    known = [word for word in first if word in _MAKING]
    foreign = first and following and not known and not pattern.matches(first[0])
    if foreign and _THING.match(following[0]):
        return 0
    stated = any(size.stated for size in sizes_of(pattern, facts))
    points = min(2, len({*matched, *known})) + stated
    return max(0, points - bool(unused_of(pattern, facts)))
