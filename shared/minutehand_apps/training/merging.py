"""Two edits of one procedure as one, merged step by step, with what conflicts named.

Plain functions over the version that both began with and what each made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, Field

from minutehand_apps.training.models import Procedure, Step


class Conflict(BaseModel):
    """A part that two people changed in different ways; a step that one removed is null there."""

    part: str = Field(description="`title`, `purpose` or `step`.")
    number: int | None = Field(description="The step's, in the version that was edited.")
    base: Any
    mine: Any
    theirs: Any


def merge(base: Procedure, mine: Procedure, theirs: Procedure) -> tuple[Procedure, list[Conflict]]:
    """Merge two edits of `base`; where they conflict the result has what `mine` says."""
    conflicts: list[Conflict] = []

    def choose(part: str, was: Any, own: Any, other: Any, number: int | None = None) -> Any:
        if own == was:
            return other
        if other not in (own, was):
            conflicts.append(Conflict(part=part, number=number, base=was, mine=own, theirs=other))
        return own

    ours, others = same_steps(base.steps, mine.steps), same_steps(base.steps, theirs.steps)
    my_new, their_new = _added(ours, mine.steps), _added(others, theirs.steps)
    steps: list[Step] = []
    for place in range(len(base.steps) + 1):
        new = their_new.get(place, [])
        steps += [*new, *(step for step in my_new.get(place, []) if step not in new)]
        if place < len(base.steps):
            own = mine.steps[ours[place]] if place in ours else None
            other = theirs.steps[others[place]] if place in others else None
            kept = choose("step", base.steps[place], own, other, place + 1)
            steps += [] if kept is None else [kept]
    merged = base.model_copy(
        update={
            "title": choose("title", base.title, mine.title, theirs.title),
            "purpose": choose("purpose", base.purpose, mine.purpose, theirs.purpose),
            "materials": _merge_lines(base.materials, mine.materials, theirs.materials),
            "warnings": _merge_lines(base.warnings, mine.warnings, theirs.warnings),
            "steps": steps,
        }
    )
    return merged, conflicts


def same_steps(old: Sequence[Step], new: Sequence[Step]) -> dict[int, int]:
    """Where each step of `old` is in `new`: by its text and time, else its place, else its time."""
    found: dict[int, int] = {}
    before, after = ([(s.title, s.detail, s.at_seconds) for s in steps] for steps in (old, new))
    for kind, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal" or b - a == d - c:
            found.update(zip(range(a, b), range(c, d), strict=True))
            continue
        when, then = [s.at_seconds for s in old[a:b]], [s.at_seconds for s in new[c:d]]
        for x, y, size in SequenceMatcher(None, when, then, autojunk=False).get_matching_blocks():
            found.update((a + x + more, c + y + more) for more in range(size))
    return found


def keep_evidence(was: Procedure, edited: Procedure) -> Procedure:
    """An edit whose steps keep the words they came from, where it does not say others.

    A step that a person has rewritten is no longer doubtful.
    """
    origin = {new: was.steps[old] for old, new in same_steps(was.steps, edited.steps).items()}
    steps = []
    for place, step in enumerate(edited.steps):
        plain = Step(title=step.title, detail=step.detail, at_seconds=step.at_seconds)
        old = origin.get(place, plain)
        if step.title == old.title or step.at_seconds == old.at_seconds:
            same = (step.title, step.detail) == (old.title, old.detail)
            plain.said, plain.doubtful = old.said, old.doubtful and same
        given = step.model_fields_set & {"said", "doubtful"}
        steps.append(plain.model_copy(update={name: getattr(step, name) for name in given}))
    return Procedure(**edited.model_dump(exclude={"steps"}), steps=steps)


def _added(same: dict[int, int], steps: Sequence[Step]) -> dict[int, list[Step]]:
    """The steps that are new, by the place in the old version before which they come."""
    became = {new: old for old, new in same.items()}
    found: dict[int, list[Step]] = {}
    place = 0
    for number, step in enumerate(steps):
        if number in became:
            place = became[number] + 1
        else:
            found.setdefault(place, []).append(step)
    return found


def _merge_lines(base: list[str], mine: list[str], theirs: list[str]) -> list[str]:
    """Lists of lines: what either removed is gone, what either added is there."""
    kept = [line for line in theirs if line in mine or line not in base]
    return kept + [line for line in mine if line not in base and line not in theirs]
