"""What is asked of a plan, what is stored of it, and what its routes answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from minutehand_apps.plans.graph import Speed
from minutehand_apps.plans.shapes import Block

Status = Literal["pending", "running", "cancelling", "completed", "failed", "cancelled"]


class NewPlan(BaseModel):
    """A prompt to plan."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=8000, pattern=r"\S")]
    speed_vs_detail: Speed = "balanced_speed_and_detail"
    workspace_id: UUID | None = Field(
        default=None, description="Needed by members of several workspaces."
    )


class Created(BaseModel):
    """A plan that was accepted, and where to follow it."""

    plan_id: UUID
    status: Status
    created_at: AwareDatetime
    stream_url: str
    report_url: str
    job_id: UUID


class StageState(BaseModel):
    """A stage that has ended."""

    name: str
    status: Literal["completed", "failed"]
    reason: str | None = None
    model: str | None = None
    result: dict[str, Any] | None = None
    ended_at: AwareDatetime


class ReportedPlan(BaseModel):
    """What a report is made of, and all that its link shows: a guest's plan has its id as key."""

    prompt: str
    speed_vs_detail: Speed
    status: Status
    percentage: float
    waits_for: str | None
    error: str | None
    created_at: AwareDatetime
    finished_at: AwareDatetime | None
    stages: list[StageState]

    @property
    def title(self) -> str:
        """Its title, once it has one."""
        named = {stage.name: stage.result or {} for stage in self.stages}
        return str(named.get("understand", {}).get("title", "Project plan"))


class Plan(ReportedPlan):
    """A plan, and the stages that have ended."""

    plan_id: UUID
    job_id: UUID
    share_id: UUID | None = Field(description="The key of its report's link; null: not shared.")
    session_id: str | None = Field(
        description="Of a guest's plan, which has no owner: the session that shows its job."
    )


class Missing(BaseModel):
    """A chapter that the report lacks, and why."""

    stage: str
    title: str
    reason: str


class Outlined(BaseModel):
    """A chapter that the report has or will have."""

    stage: str
    title: str
    status: Literal["completed", "failed", "running", "waiting", "missing"]
    reason: str | None = Field(description="Why it failed.")


class ReportChapter(BaseModel):
    """A chapter: texts, lists of lines, and tables with their head first."""

    stage: str
    title: str
    blocks: list[Block]


class Report(BaseModel):
    """A report for programs: what exists, and what is missing."""

    plan_id: UUID
    title: str
    status: Status
    partial: bool
    missing: list[Missing]
    notice: str
    outline: list[Outlined] = Field(description="Every chapter, in the order of reading.")
    chapters: list[ReportChapter]


class Share(BaseModel):
    """Whether anyone who has its link may read the report."""

    shared: bool


class Shared(BaseModel):
    """The key of a report's link; null where there is none."""

    share_id: UUID | None
    url: str | None = Field(description="The link's path; null where there is none.")


class StreamStatus(BaseModel):
    """Whether the stream can be opened."""

    status: Literal["ready"] = "ready"
    ready: Literal[True] = True


class PlanPayload(BaseModel):
    """Payload of `plan`."""

    plan_id: UUID


class Loaded(BaseModel):
    """What a leased job plans; `prompt` is None when the plan is gone."""

    prompt: str | None
    speed_vs_detail: Speed | None
    #: What stages that have ended found, by their names.
    done: dict[str, dict[str, Any]]
