"""The declared graph of stages: what each is called, what it needs, and at which level it is run.

What a stage finds is chapters.py's and computing.py's; how it is run is the pipeline's.
"""

# ruff: noqa: E501 - one stage a line reads as the table it is

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Literal

Speed = Literal["fast_but_skip_details", "balanced_speed_and_detail", "all_details_but_slow"]
_LEVELS: Final[dict[str, int]] = {
    "fast_but_skip_details": 1,
    "balanced_speed_and_detail": 2,
    "all_details_but_slow": 3,
}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage.

    Attributes:
        needs: Stages whose results it reads; it runs as soon as these are completed.
        level: The least detail at which it is run: 1 fast, 2 balanced, 3 all details.
        narrated: Whether a language model, where there is one, writes its text.
        tries: How often it is tried before it fails.
        timeout: Longest time of one try.
    """

    name: str
    title: str
    needs: tuple[str, ...] = ()
    level: int = 1
    narrated: bool = False
    tries: int = 3
    timeout: timedelta = timedelta(seconds=60)


STAGES: Final[tuple[Stage, ...]] = (
    Stage("understand", "What is asked"),
    Stage("assumptions", "Assumptions", ("understand",)),
    Stage("constraints", "Constraints", ("understand",)),
    Stage("strategy", "Strategy options", ("understand", "constraints"), narrated=True),
    Stage("work_breakdown", "Work breakdown", ("understand", "assumptions", "strategy")),
    Stage("work_steps", "Steps of each work package", ("work_breakdown",), level=3),
    Stage("dependencies", "Dependencies", ("work_breakdown",)),
    Stage("schedule", "Schedule and critical path", ("understand", "constraints", "work_breakdown", "dependencies")),
    Stage("team", "Team and roles", ("understand", "work_breakdown", "schedule")),
    Stage("resource_load", "Resource load", ("work_breakdown", "schedule", "team"), level=2),
    Stage("budget", "Budget", ("understand", "assumptions", "work_breakdown")),
    Stage("what_if", "What if", ("understand", "work_breakdown", "schedule", "budget"), level=2),
    Stage("sensitivity", "Which estimates matter most", ("understand", "work_breakdown", "schedule"), level=3),
    Stage("risks", "Risks", ("understand", "assumptions", "schedule", "budget"), narrated=True),
    Stage("milestones", "Milestones", ("understand", "work_breakdown", "schedule")),
    Stage("quality", "Quality", ("understand", "work_breakdown"), level=3),
    Stage("governance", "Governance", ("understand", "schedule", "budget", "team", "milestones")),
    Stage("communication", "Communication", ("understand", "schedule", "governance"), level=2),
    Stage("questions", "Questions and answers", ("understand", "assumptions", "work_breakdown", "budget", "risks"), narrated=True),
    Stage("executive_summary", "Executive summary", ("understand", "strategy", "work_breakdown", "schedule", "budget", "risks", "milestones"), narrated=True),
    Stage("report", "Report"),
)  # fmt: skip
_BY_NAME: Final = {stage.name: stage for stage in STAGES}


def stages_of(speed: str) -> tuple[Stage, ...]:
    """The stages of a plan, in the order of its report; `report` needs all others."""
    chosen = [stage for stage in STAGES if stage.level <= _LEVELS[speed]]
    names = {stage.name for stage in chosen}
    return tuple(
        replace(stage, needs=tuple(names - {"report"})) if stage.name == "report" else stage
        for stage in chosen
    )


def position_of(name: str) -> int:
    """A stage's place in the report, from 1."""
    return [stage.name for stage in STAGES].index(name) + 1


def title_of(name: str) -> str:
    """A stage's title."""
    return _BY_NAME[name].title


def after(name: str, stages: Sequence[Stage]) -> set[str]:
    """A stage, and every stage that needs it, directly or not."""
    found = {name}
    while more := {stage.name for stage in stages if found & set(stage.needs)} - found:
        found |= more
    return found
