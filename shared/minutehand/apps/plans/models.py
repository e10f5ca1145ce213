"""What is asked of a plan, what its stages hold, and what jobs carry.

The rules a request must keep stand in SQL; here are its shape, its defaults and its bounds.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Status = Literal["pending", "running", "asking", "completed", "partial"]
StageStatus = Literal["completed", "failed", "interrupted"]


class Exact(BaseModel):
    """A model that takes nothing it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Document(Exact):
    """A text to plan by."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    text: Annotated[str, Field(min_length=1, max_length=20_000)]


class Budget(Exact):
    """What one run may take; when it is used up, the report is made of what there is."""

    seconds: int = Field(default=600, ge=1, le=3600, description="Of the model's work.")
    tokens: int = Field(default=100_000, ge=1, le=1_000_000, description="Read and written.")
    usd: float | None = Field(
        default=None, gt=0, le=1000, description="Counts where the deployment configured prices."
    )


class Request(Exact):
    """What to plan, as it was taken: whether the goal says anything is not asked a second time."""

    goal: Annotated[str, Field(min_length=1, max_length=4000)]
    constraints: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=500)]], Field(max_length=20)
    ] = Field(default_factory=list)
    deadline: date | None = None
    documents: Annotated[list[Document], Field(max_length=10)] = Field(default_factory=list)
    ask: bool = Field(default=True, description="Whether it may ask back.")
    ask_seconds: int = Field(
        default=3600, ge=1, le=604_800, description="Then it goes on with its assumptions."
    )
    max_phases: int = Field(default=5, ge=1, le=12)
    seed: int = Field(default=0, ge=0, le=2_147_483_647)
    budget: Budget = Field(default_factory=Budget)


class PlanPayload(BaseModel):
    """Payload of `plan`."""

    plan_id: UUID


class PhasePayload(BaseModel):
    """Payload of `plan_phase`."""

    plan_id: UUID
    number: int = Field(ge=1, le=12)


class Missing(BaseModel):
    """What a partial plan lacks, and why."""

    stage: str
    code: str = Field(description="A stable word, e.g. budget, cancelled, unreachable.")
    reason: str


class Stage(BaseModel):
    """What a stage came to."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    position: int
    status: StageStatus
    run: int = 0
    result: dict[str, Any] | None = None
    draft: str | None = Field(default=None, description="Text that never became a result.")
    code: str | None = None
    reason: str | None = None
    model: str | None = None
    offline: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    finished_at: AwareDatetime | None = None

    @property
    def completed(self) -> bool:
        """Whether it holds a result."""
        return self.status == "completed"


class StoredPlan(BaseModel):
    """A plan's row, as a job reads it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: UUID
    request: Request
    run: int
    outcome: Literal["completed", "partial"] | None


class Loaded(BaseModel):
    """What a leased job works on; `plan` is None when it is gone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    plan: StoredPlan | None
    stages: list[Stage] = Field(default_factory=list)


class Finished(BaseModel):
    """How a plan ended."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    outcome: Literal["completed", "partial"]
    missing: list[Missing]


class JobState(BaseModel):
    """The job behind a plan."""

    model_config = ConfigDict(extra="ignore")

    status: str
    progress: dict[str, Any] | None = None
    error: str | None = None
    cancel_requested_at: AwareDatetime | None = None
    next_retry_at: AwareDatetime | None = None
    last_seq: int = 0


class PhaseJob(BaseModel):
    """The job that writes a phase."""

    model_config = ConfigDict(extra="ignore")

    job_id: UUID
    number: int
    status: str
    progress: dict[str, Any] | None = None
    error: str | None = None


class Question(BaseModel):
    """What a plan asks; without an answer by `timeout_at` it takes `default`."""

    model_config = ConfigDict(extra="ignore")

    name: str
    question: str
    options: list[str] | None = None
    timeout_at: AwareDatetime | None = None
    default: str | None = None


class PlanState(BaseModel):
    """A plan and how far it is."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    workspace_id: UUID | None = Field(default=None, description="null for a visitor.")
    session_id: str = Field(description="Its events: /api/sessions/{session_id}/events.")
    job_id: UUID | None
    goal: str
    request: Request
    run: int
    status: Status
    missing: list[Missing]
    job: JobState | None
    question: Question | None
    phases: list[PhaseJob]
    stages: list[Stage]
    created_at: AwareDatetime
    finished_at: AwareDatetime | None


class PlanLine(BaseModel):
    """A plan in a list; the goal's first 300 characters."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    goal: str
    run: int
    status: Status
    job_id: UUID | None
    progress: dict[str, Any] | None
    created_at: AwareDatetime
    finished_at: AwareDatetime | None


class PlanPage(BaseModel):
    """Plans, newest first."""

    plans: list[PlanLine]
    next: UUID | None = Field(description="Pass as `after` for more; null at the end.")
