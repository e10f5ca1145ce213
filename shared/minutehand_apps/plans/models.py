"""What is asked of a plan, what is stored of it, and what its routes answer.

The rules for a plan are in SQL; shapes and bounds are here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from minutehand_apps.plans.planning.graph import Speed

Status = Literal["pending", "running", "completed", "failed", "cancelled"]
StageStatus = Literal["pending", "running", "completed", "failed", "not_run"]
ENDED = frozenset({"completed", "failed", "cancelled"})


class NewPlan(BaseModel):
    """A prompt to plan."""

    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=8000, pattern=r"\S")]
    speed_vs_detail: Speed = "balanced_speed_and_detail"
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="The same key finds the same plan; also as Idempotency-Key."
    )
    workspace_id: UUID | None = Field(
        default=None, description="Needed by members of several workspaces."
    )
    ask_seconds: Annotated[int, Field(ge=0, le=604_800)] = Field(
        default=0,
        description="How long each of at most three questions waits for a member; 0 asks nothing.",
    )


class Correction(BaseModel):
    """Words of the prompt, as its ledger of figures shows them, and what they mean."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=500)]
    means: Annotated[str, Field(max_length=500, description="Takes their place; empty: nothing.")]


class Regeneration(BaseModel):
    """From which stage on a plan is to be made again."""

    model_config = ConfigDict(extra="forbid")

    stage: Annotated[str, Field(min_length=1, max_length=60)] = "understand"
    corrections: Annotated[list[Correction], Field(max_length=20)] = Field(
        default_factory=list,
        description="Words of the prompt to replace; everything is computed again.",
    )


class Created(BaseModel):
    """A plan that was accepted, and where to follow it."""

    plan_id: UUID
    status: Status
    created_at: AwareDatetime
    stream_url: str
    realtime_topic: str = Field(description="Private Realtime topic of the plan's events.")
    session_id: str | None = Field(
        default=None, description="A guest's session: names it, and lists its plans."
    )
    job_id: UUID | None = None


class StreamStatus(BaseModel):
    """Whether the stream can be opened."""

    status: Literal["ready"] = "ready"
    ready: Literal[True] = True


class PlanError(BaseModel):
    """Why a plan failed."""

    code: str
    stage: str | None = None
    reason: str


class Artifact(BaseModel):
    """A file of a plan."""

    model_config = ConfigDict(extra="ignore")

    name: str
    stage: str
    media_type: str
    bytes: int
    created_at: AwareDatetime
    url: str = ""


class StoredStage(BaseModel):
    """A stage's row."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    status: Literal["running", "completed", "failed"]
    attempts: int = 1
    run: int = 1
    result: dict[str, Any] | None = None
    code: str | None = None
    reason: str | None = None
    model: str | None = None
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None


class StoredPlan(BaseModel):
    """A plan's row, with its stages and files where they were asked for."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: UUID
    workspace_id: UUID
    session_id: str
    prompt: str
    speed_vs_detail: Speed
    ask_seconds: int = 0
    status: Status
    stage: str | None = None
    percentage: float = 0
    error: PlanError | None = None
    job_id: UUID | None = None
    run: int = 1
    forked_from: UUID | None = None
    forked_at_stage: str | None = None
    based_on: AwareDatetime
    last_seq: int = 0
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    stages: list[StoredStage] = Field(default_factory=list)
    artifacts: list[Artifact] = Field(default_factory=list)


class StageState(BaseModel):
    """A stage as the graph declares it, and its state."""

    name: str
    title: str
    needs: list[str]
    status: StageStatus
    attempts: int = 0
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    seconds: float | None = None
    code: str | None = None
    reason: str | None = None
    model: str | None = None


class PlanLine(BaseModel):
    """A plan in a list; the prompt's first 300 characters."""

    plan_id: UUID
    prompt: str
    speed_vs_detail: Speed
    status: Status
    stage: str | None
    percentage: float
    job_id: UUID | None
    forked_from: UUID | None
    created_at: AwareDatetime
    finished_at: AwareDatetime | None


class PlanState(PlanLine):
    """A plan and how far it is."""

    error: PlanError | None
    run: int
    forked_at_stage: str | None
    stream_url: str
    realtime_topic: str
    report_url: str
    last_seq: int
    started_at: AwareDatetime | None
    stages: list[StageState]
    artifacts: list[Artifact]


class PlanPage(BaseModel):
    """Plans, newest first."""

    plans: list[PlanLine]
    next: UUID | None = Field(description="Pass as `after` for more; null at the end.")


class FileList(BaseModel):
    """The files of a plan, and where all of them are in one."""

    files: list[Artifact]
    zip_url: str


class Missing(BaseModel):
    """A chapter that the report lacks, and why."""

    stage: str
    title: str
    code: str = Field(description="A stable word, e.g. running, cancelled, needs_stage.")
    reason: str


class ReportChapter(BaseModel):
    """A chapter of the report."""

    stage: str
    title: str
    model: str | None
    data: dict[str, Any]
    blocks: list[dict[str, Any]]


class Report(BaseModel):
    """A plan for download: what exists, what is missing, and why."""

    plan_id: UUID
    prompt: str
    speed_vs_detail: Speed
    status: Status
    partial: bool
    missing: list[Missing]
    notice: str
    created_at: AwareDatetime
    chapters: list[ReportChapter]


class PlanPayload(BaseModel):
    """Payload of `plan`."""

    plan_id: UUID


def topic_of(session_id: str) -> str:
    """The Realtime topic of a session."""
    return f"session:{session_id}"
