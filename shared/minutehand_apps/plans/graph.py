"""The stages of a plan, with their titles, dependencies, and the models of their results.

Each stage is a step of one job, because a child job would cost a lease, a wait and a settlement.
"""

from dataclasses import dataclass, replace
from typing import Literal

from minutehand_apps.plans import shapes as s

Speed = Literal["fast_but_skip_details", "balanced_speed_and_detail", "all_details_but_slow"]
#: Level of detail of a plan, by the user's choice of speed.
LEVELS: dict[Speed, int] = {
    "fast_but_skip_details": 1,
    "balanced_speed_and_detail": 2,
    "all_details_but_slow": 3,
}


@dataclass(frozen=True)
class Stage:
    """A stage of a plan. A stage runs when the stages that it needs have completed.

    Attributes:
        level: Minimum level of detail of a plan in which the stage runs.
    """

    name: str
    title: str
    shape: type[s.Chapter]
    needs: tuple[str, ...] = ()
    level: int = 1


STAGES = (
    Stage("understand", "What is asked", s.Brief),
    Stage("assumptions", "Assumptions", s.Points, ("understand",)),
    Stage("constraints", "Constraints", s.Points, ("understand",), level=2),
    Stage("strategy", "Strategy", s.Prose, ("understand", "assumptions", "constraints")),
    Stage("work_breakdown", "Work breakdown", s.Tasks, ("understand", "strategy")),
    Stage("dependencies", "Schedule", s.Schedule, ("work_breakdown",)),
    Stage("team", "Team and roles", s.Points, ("work_breakdown",), level=2),
    Stage("budget", "Budget", s.Costs, ("understand", "work_breakdown")),
    Stage("milestones", "Milestones", s.Milestones, ("dependencies",), level=2),
    Stage("risks", "Risks", s.Risks, ("understand", "work_breakdown")),
    Stage("quality", "Quality", s.Points, ("work_breakdown",), level=3),
    Stage("communication", "Communication", s.Points, ("team",), level=3),
    Stage("what_if", "What if", s.Points, ("risks", "budget"), level=3),
    Stage("questions", "Open questions", s.Points, ("assumptions", "risks"), level=2),
    Stage(
        "executive_summary", "Summary", s.Prose, ("understand", "dependencies", "budget", "risks")
    ),
)


def select_stages(speed: Speed) -> tuple[Stage, ...]:
    """Return the stages of a plan with this speed, in the order in which they may start."""
    chosen = [stage for stage in STAGES if stage.level <= LEVELS[speed]]
    names = {stage.name for stage in chosen}
    return tuple(
        replace(stage, needs=tuple(need for need in stage.needs if need in names))
        for stage in chosen
    )
