"""What trainings are at the edges: rows as jobs read them, payloads, answers of the API.

The rules that a training must keep stand in SQL.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

StageName = Literal["verify", "audio", "transcribe", "procedure", "publish"]
Status = Literal["pending", "running", "completed", "failed", "cancelled"]
Line = Annotated[str, Field(min_length=1, max_length=500)]


class Lenient(BaseModel):
    """A row, of which only what is named here matters."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TrainingPayload(BaseModel):
    """Payload of `training` and of its stages' jobs."""

    training_id: UUID


class ChunkPayload(BaseModel):
    """Payload of `training_chunk`: a stretch of the sound."""

    training_id: UUID
    number: int = Field(ge=1, le=1000)
    start: float = Field(ge=0)
    end: float = Field(gt=0)


class CleanPayload(BaseModel):
    """Payload of `training_clean`: what lies outside the database and is to go."""

    training_id: UUID
    audio: bool = False
    object_key: str | None = None
    host_upload: str | None = None
    host_asset: str | None = None
    host: bool = Field(default=False, description="Also what the host made of the upload.")


class Stage(Lenient):
    """What a stage came to."""

    name: StageName
    status: Literal["completed", "failed"]
    run: int = 0
    result: dict[str, Any] | None = None
    code: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    finished_at: AwareDatetime | None = None


class StoredTraining(Lenient):
    """A training's row, as a job reads it."""

    id: UUID
    workspace_id: UUID
    title: str
    object_key: str
    run: int
    outcome: Literal["completed", "failed"] | None
    host_upload: str | None
    host_asset: str | None


class Limits(Lenient):
    """What the operator allows."""

    bytes: int
    seconds: float


class Loaded(Lenient):
    """What a leased job works on; `training` is None when it is gone."""

    training: StoredTraining | None
    limits: Limits | None = None
    stages: list[Stage] = []
    heard: list[int] = []
    #: What writing the procedure came to, where that is stored.
    written: dict[str, Any] | None = None

    def result(self, name: StageName) -> dict[str, Any] | None:
        """What a completed stage found."""
        return next((s.result for s in self.stages if s.name == name and s.result), None)

    def failure(self, name: StageName) -> Stage | None:
        """A stage that was given up."""
        return next((s for s in self.stages if s.name == name and s.status == "failed"), None)


class SaidSegment(Lenient):
    """A few words and when they were said, in seconds of the video."""

    start: float
    end: float
    text: str


class Chunk(Lenient):
    """A stretch of the transcript."""

    number: int
    starts_at_seconds: float
    ends_at_seconds: float
    segments: list[SaidSegment]
    engine: str
    offline: bool


class Step(BaseModel):
    """One thing to do, and where in the video it is shown."""

    model_config = ConfigDict(extra="forbid")

    title: Line
    detail: Annotated[str, Field(max_length=2000)] = ""
    at_seconds: float = Field(ge=0, le=100_000, allow_inf_nan=False)


class Procedure(BaseModel):
    """A standard operating procedure."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(min_length=1, max_length=200)]
    purpose: Annotated[str, Field(max_length=2000)] = ""
    materials: Annotated[list[Line], Field(max_length=50)] = []
    warnings: Annotated[list[Line], Field(max_length=50)] = []
    steps: Annotated[list[Step], Field(min_length=1, max_length=200)]


class JobState(Lenient):
    """A stage's job, as the page shows it."""

    id: UUID
    type: str
    status: str
    number: int | None = None
    progress: dict[str, Any] | None = None
    attempts: int
    max_attempts: int
    next_retry_at: AwareDatetime | None = None
    error: str | None = None


class TrainingLine(Lenient):
    """A training as lists show it."""

    id: UUID
    workspace_id: UUID
    title: str
    run: int
    status: Status
    code: str | None = Field(description="Why it failed, as a stable word.")
    reason: str | None
    job_id: UUID | None
    session_id: str
    created_at: AwareDatetime
    finished_at: AwareDatetime | None
    progress: dict[str, Any] | None
    cancel_requested_at: AwareDatetime | None


class TrainingState(TrainingLine):
    """A training with its stages and the jobs of its present run."""

    file_name: str
    host_asset: str | None
    stages: list[Stage]
    jobs: list[JobState]
    heard: int = Field(description="Stretches of about half a minute that are transcribed.")
    version: int | None = Field(description="The latest procedure's; null before there is one.")


class TrainingPage(BaseModel):
    """A page of trainings, newest first."""

    trainings: list[TrainingLine]
    next: UUID | None = Field(description="Give as `after` for the next page; null at the end.")


class TranscriptState(Lenient):
    """What was heard so far."""

    complete: bool
    engine: str | None
    offline: bool
    segments: list[SaidSegment]


class ProcedureVersion(Lenient):
    """One version in the list of all."""

    version: int
    author: str = Field(description="The model that wrote it, or `person`.")
    offline: bool
    created_by: UUID | None
    created_at: AwareDatetime


class StoredProcedure(ProcedureVersion):
    """A version of a procedure, and which others there are."""

    procedure: Procedure
    versions: list[ProcedureVersion]


class Video(BaseModel):
    """Where the video can be played for a while."""

    url: str = Field(description="Readable without any other key until it expires.")
    expires_in_seconds: int
    host: str = Field(description="Where the video is kept: `s3`, or the video host as well.")
    playback_id: str | None = Field(description="The video host's id for players; else null.")
