"""Models of requests, of stored plans and of responses."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from minutehand_apps.plans.graph import Speed
from minutehand_apps.plans.shapes import Block, Days, Line

Status = Literal["pending", "running", "cancelling", "completed", "failed", "cancelled"]


class NewPlan(BaseModel):
    """A prompt for which to create a plan."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=8000, pattern=r"\S")]
    speed_vs_detail: Speed = "balanced_speed_and_detail"
    workspace_id: UUID | None = Field(
        default=None, description="Required for members of several workspaces."
    )


class Created(BaseModel):
    """A plan that was created, with the URLs of its stream and its report."""

    plan_id: UUID
    status: Status
    created_at: AwareDatetime
    stream_url: str
    report_url: str
    job_id: UUID


class StageState(BaseModel):
    """A stage of a plan that has ended."""

    name: str
    status: Literal["completed", "failed"]
    reason: str | None = None
    model: str | None = None
    result: dict[str, Any] | None = None
    ended_at: AwareDatetime


class ReportedPlan(BaseModel):
    """A plan in the form from which a report is made.

    A public link shows only these fields, because the plan_id of a guest's plan grants access to
    the whole plan.
    """

    prompt: str
    speed_vs_detail: Speed
    status: Status
    percentage: float
    waits_for: str | None
    is_sample: bool | None
    error: str | None
    created_at: AwareDatetime
    finished_at: AwareDatetime | None
    stages: list[StageState]

    @property
    def title(self) -> str:
        """Title of the plan. Before the first stage has ended, it is "Project plan"."""
        named = {stage.name: stage.result or {} for stage in self.stages}
        return str(named.get("understand", {}).get("title", "Project plan"))


class Plan(ReportedPlan):
    """A plan with its stages that have ended."""

    plan_id: UUID
    job_id: UUID
    share_id: UUID | None = Field(description="Key of the report's public link, or null.")
    session_id: str | None = Field(
        description="Guest session of a guest's plan, to follow its job."
    )


class Missing(BaseModel):
    """A chapter that is not in the report, and the reason."""

    stage: str
    title: str
    reason: str


class Outlined(BaseModel):
    """A chapter that is in the report, or will be."""

    stage: str
    title: str
    status: Literal["completed", "failed", "running", "waiting", "missing"]
    reason: str | None = Field(description="Why it failed.")


class ReportChapter(BaseModel):
    """A chapter of the report, with texts, lists of lines, and tables with a header row."""

    stage: str
    title: str
    blocks: list[Block]


class Report(BaseModel):
    """The report as JSON, with its chapters and the chapters that are missing."""

    plan_id: UUID
    title: str
    status: Status
    partial: bool
    missing: list[Missing]
    notice: str
    outline: list[Outlined] = Field(description="Every chapter, in reading order.")
    chapters: list[ReportChapter]


class ChapterText(BaseModel):
    """The new text of a chapter, up to 6,000 characters, or its points, one per line."""

    text: str


class TaskChange(BaseModel):
    """The new days of a task, and the ids of the tasks that must be done before the task."""

    task: Line
    days: Days
    after: Annotated[list[Line], Field(max_length=60)]


class StreamStatus(BaseModel):
    """Response for a plan whose stream can be opened."""

    status: Literal["ready"] = "ready"
    ready: Literal[True] = True


class PlanPayload(BaseModel):
    """Payload of a `plan` job."""

    plan_id: UUID


class Loaded(BaseModel):
    """Rows that a leased job reads. `prompt` is None if the plan was deleted."""

    prompt: str | None
    speed_vs_detail: Speed | None
    #: Results of the completed stages, by the name of the stage.
    done: dict[str, dict[str, Any]]
