"""All bundled patterns, and which of them a prompt describes."""

from __future__ import annotations

from typing import Final

from minutehand.apps.plans.planning.errands import ERRANDS
from minutehand.apps.plans.planning.kinds import GENERAL, KINDS
from minutehand.apps.plans.planning.patterns import Pattern


def all_patterns() -> tuple[Pattern, ...]:
    """Every bundled pattern; the general one last."""
    return (*ERRANDS, *KINDS, GENERAL)


def find(name: str) -> Pattern:
    """The pattern of that name."""
    return next(pattern for pattern in all_patterns() if pattern.name == name)


#: A word in the first half of the goal's first words counts more than one further on.
EARLY_CHARACTERS: Final = 60


def pick(prompt: str) -> tuple[Pattern, list[str]]:
    """The kind of project that a prompt describes, and the words that say so."""
    best, found, most = all_patterns()[-1], [], 0.0
    for pattern in all_patterns()[:-1]:
        words = pattern.matches(prompt)
        early = pattern.matches(prompt[:EARLY_CHARACTERS])
        score = (len(words) + 2 * len(early)) * pattern.weight
        if score > most:
            best, found, most = pattern, words, score
    return best, found
