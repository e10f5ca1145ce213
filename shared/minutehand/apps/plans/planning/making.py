"""Which function makes which stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from minutehand.apps.plans.planning import chapters, computing, conclusions
from minutehand.apps.plans.planning.chapters import Chapter, Inputs

MAKERS: Final[dict[str, Callable[[Inputs], Chapter]]] = {
    "understand": chapters.understand,
    "assumptions": chapters.assumptions,
    "constraints": chapters.constraints,
    "strategy": chapters.strategy,
    "work_breakdown": chapters.work_breakdown,
    "work_steps": chapters.work_steps,
    "dependencies": chapters.dependencies,
    "schedule": computing.schedule,
    "team": computing.team,
    "resource_load": computing.resource_load,
    "budget": computing.budget,
    "what_if": computing.what_if,
    "sensitivity": computing.sensitivity,
    "risks": conclusions.risks,
    "milestones": conclusions.milestones,
    "quality": conclusions.quality,
    "governance": conclusions.governance,
    "communication": conclusions.communication,
    "questions": conclusions.questions,
    "executive_summary": conclusions.executive_summary,
}
