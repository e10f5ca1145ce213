"""The report: made of what the stages hold, at any moment, by plain functions.

There is nothing to wait for and nothing that can fail, so there always is one.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from minutehand.apps.plans.models import Missing, PlanState, Stage

OFFLINE_NOTICE: Final = (
    "Written by the offline model: extraction and templates over the given words;"
    " no language model was asked."
)
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>#|!~])")


class ReportedPhase(BaseModel):
    """A phase; without steps when it is missing."""

    number: int
    title: str
    objective: str
    status: Literal["completed", "missing"]
    steps: list[dict[str, str]] = Field(default_factory=list)
    deliverable: str | None = None
    days: int | None = None
    draft: str | None = Field(default=None, description="Text that never became the phase.")


class Estimate(BaseModel):
    """Working days, one phase after the other."""

    days: int
    phases_estimated: int
    phases: int
    deadline: date | None = None
    working_days_left: int | None = Field(
        default=None, description="From the plan's start to the deadline."
    )
    fits: bool | None = Field(default=None, description="null when not every phase is estimated.")


class Used(BaseModel):
    """What all runs took."""

    input_tokens: int
    output_tokens: int
    cost_usd: float
    model_seconds: float


class Report(BaseModel):
    """A plan as it is handed over."""

    plan_id: UUID
    goal: str
    status: str
    partial: bool = Field(description="Whether something is missing, or still being written.")
    missing: list[Missing]
    models: list[str]
    offline: bool
    notice: str | None
    constraints: list[str]
    restated_goal: str | None
    assumptions: list[str]
    answers: list[dict[str, str]]
    phases: list[ReportedPhase]
    estimate: Estimate | None
    risks: list[dict[str, str]]
    summary: str | None
    gaps: list[str]
    next_step: str | None
    drafts: dict[str, str] = Field(description="Text of stages that never became a result.")
    used: Used


def compose(state: PlanState) -> Report:
    """The report of a plan as it stands."""
    stages = {stage.name: stage for stage in state.stages}

    def found(name: str) -> dict[str, Any]:
        stage = stages.get(name)
        return (stage.result or {}) if stage is not None and stage.completed else {}

    outline = found("outline").get("phases", [])
    phases = [_phase(number, head, stages) for number, head in enumerate(outline, 1)]
    missing = missing_parts(state)
    offline = any(stage.offline for stage in state.stages)
    review = found("review")
    return Report(
        plan_id=state.id,
        goal=state.goal,
        status=state.status,
        partial=bool(missing),
        missing=missing,
        models=sorted({stage.model for stage in state.stages if stage.model}),
        offline=offline,
        notice=OFFLINE_NOTICE if offline else None,
        constraints=list(state.request.constraints),
        restated_goal=found("understand").get("restated_goal"),
        assumptions=found("understand").get("assumptions", []),
        answers=found("answers").get("answers", []),
        phases=phases,
        estimate=_estimate(state, phases),
        risks=found("risks").get("risks", []),
        summary=review.get("summary"),
        gaps=review.get("gaps", []),
        next_step=review.get("next_step"),
        drafts={
            stage.name: stage.draft
            for stage in state.stages
            if stage.draft and not stage.completed and not stage.name.startswith("phase:")
        },
        used=Used(
            input_tokens=sum(stage.input_tokens for stage in state.stages),
            output_tokens=sum(stage.output_tokens for stage in state.stages),
            cost_usd=round(sum(stage.cost_usd for stage in state.stages), 6),
            model_seconds=round(sum(stage.seconds for stage in state.stages), 3),
        ),
    )


def missing_parts(state: PlanState) -> list[Missing]:
    """What is not there, and why: as the worker told it, else by how the job stands."""
    if state.status == "completed":
        return []
    if state.missing:
        return state.missing
    stages = {stage.name: stage for stage in state.stages if stage.completed}
    outline = stages["outline"].result if "outline" in stages else None
    count = len(outline["phases"]) if outline else 0
    phases = [f"phase:{n}" for n in range(1, count + 1)] or ["phases"]
    code, reason = _why(state)
    return [
        Missing(stage=name, code=code, reason=reason)
        for name in ("understand", "outline", *phases, "risks", "review")
        if name not in stages
    ]


def _why(state: PlanState) -> tuple[str, str]:
    if state.status != "partial":
        return "unfinished", "It is still being written"
    if state.job is None:
        return "lost", "Its job is no longer kept"
    if state.job.status == "cancelled":
        return "cancelled", "The plan was cancelled"
    return "failed", state.job.error or f"Its job is {state.job.status}"


def _phase(number: int, head: dict[str, Any], stages: dict[str, Stage]) -> ReportedPhase:
    stage = stages.get(f"phase:{number}")
    phase = ReportedPhase(
        number=number, title=head["title"], objective=head["objective"], status="missing"
    )
    if stage is None:
        return phase
    if not stage.completed or stage.result is None:
        return phase.model_copy(update={"draft": stage.draft})
    return ReportedPhase.model_validate(
        {**phase.model_dump(), **stage.result, "status": "completed"}
    )


def _estimate(state: PlanState, phases: list[ReportedPhase]) -> Estimate | None:
    known = [phase.days for phase in phases if phase.days is not None]
    if not phases:
        return None
    deadline = state.request.deadline
    left = None if deadline is None else working_days(state.created_at.date(), deadline)
    whole = len(known) == len(phases)
    return Estimate(
        days=sum(known),
        phases_estimated=len(known),
        phases=len(phases),
        deadline=deadline,
        working_days_left=left,
        fits=None if left is None or not whole else sum(known) <= left,
    )


def working_days(start: date, end: date) -> int:
    """Days from Monday to Friday after `start`, up to and with `end`; 0 when it lies before."""
    days = max(0, (end - start).days)
    weeks, rest = divmod(days, 7)
    return weeks * 5 + sum(
        1 for extra in range(1, rest + 1) if (start + timedelta(days=extra)).weekday() < 5
    )


def markdown(report: Report) -> str:
    """The report as Markdown; nothing in it is taken for markup but what is written here."""
    lines = [f"# {_text(report.goal)}", ""]
    if report.partial:
        lines += ["> **Partial report.** What is missing, and why:", ">"]
        lines += [f"> - {_text(_title(m.stage))}: {_text(m.reason)}" for m in report.missing]
        lines.append("")
    if report.notice:
        lines += [f"*{report.notice}*", ""]
    if report.summary:
        lines += [_text(report.summary), ""]
    if report.next_step:
        lines += [f"**Next step:** {_text(report.next_step)}", ""]
    if report.restated_goal:
        lines += ["## Goal", "", _text(report.restated_goal), ""]
    lines += _bullets("## Constraints", report.constraints)
    lines += _bullets("## Assumptions", report.assumptions)
    if report.answers:
        lines += ["## Answers", ""]
        lines += [f"- {_text(a['question'])} **{_text(a['answer'])}**" for a in report.answers]
        lines.append("")
    if report.phases:
        lines += ["## Phases", ""]
        for phase in report.phases:
            lines += _phase_lines(phase)
    if report.estimate is not None:
        lines += ["## Estimate", "", _estimate_sentence(report.estimate), ""]
    if report.risks:
        lines += ["## Risks", ""]
        lines += [f"- **{_text(r['risk'])}** {_text(r['mitigation'])}" for r in report.risks]
        lines.append("")
    lines += _bullets("## Open", report.gaps)
    for name, draft in report.drafts.items():
        lines += [f"## {_text(_title(name))}: unfinished text", "", *_quoted(draft), ""]
    if report.models:
        lines += ["---", "", f"Written by {_text(', '.join(report.models))}.", ""]
    return "\n".join(lines)


def _phase_lines(phase: ReportedPhase) -> list[str]:
    lines = [f"### {phase.number}. {_text(phase.title)}", "", _text(phase.objective), ""]
    if phase.status == "missing":
        lines += ["*This phase is missing.*", ""]
        return [*lines, *_quoted(phase.draft), ""] if phase.draft else lines
    lines += [
        f"{n}. **{_text(s['title'])}** {_text(s['detail'])}" for n, s in enumerate(phase.steps, 1)
    ]
    days = "1 day" if phase.days == 1 else f"{phase.days} days"
    return [*lines, "", f"Delivers: {_text(phase.deliverable or '')} ({days})", ""]


def _estimate_sentence(estimate: Estimate) -> str:
    sentence = f"About {estimate.days} working days"
    if estimate.phases_estimated < estimate.phases:
        sentence += f" for the {estimate.phases_estimated} of {estimate.phases} phases there are"
    if estimate.deadline is not None:
        sentence += f"; {estimate.working_days_left} are left until {estimate.deadline.isoformat()}"
        if estimate.fits is not None:
            sentence += ", which is enough" if estimate.fits else ", which is **not enough**"
    return sentence + "."


def _bullets(heading: str, texts: list[str]) -> list[str]:
    return [heading, "", *(f"- {_text(text)}" for text in texts), ""] if texts else []


def _quoted(text: str) -> list[str]:
    return [f"> {_text(line)}" for line in text.splitlines() if line.strip()]


def _title(stage: str) -> str:
    name, _, number = stage.partition(":")
    return f"{name.capitalize()} {number}".strip()


def _text(text: str) -> str:
    """One line of plain text: no markup, no HTML, no link comes out of it."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")
