"""What trainings are at the edges: rows as jobs read them, payloads, answers of the API.

The rules for a training are in SQL.
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
    """Payload of `transcription`, `sop_generation` and `mux_upload`."""

    training_id: UUID
    #: For people who look at the job; where the recording lies is the training's own.
    audio_url: str | None = None
    video_url: str | None = None


class ChunkPayload(BaseModel):
    """Payload of `training_chunk`: a chunk of the sound."""

    training_id: UUID
    number: int = Field(ge=1, le=1000)
    start: float = Field(ge=0)
    end: float = Field(gt=0)


class StillsPayload(BaseModel):
    """Payload of `training_stills`: the times of which the video's picture is kept."""

    training_id: UUID
    at: list[Annotated[float, Field(ge=0)]]


class CleanPayload(BaseModel):
    """Payload of `training_clean`: what lies outside the database and is to go."""

    training_id: UUID
    audio: bool = False
    video: bool = Field(default=False, description="Also the stills, and all else of it.")
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
    object_key: str | None
    source_url: str | None
    checksum: str | None
    host_upload: str | None
    host_asset: str | None
    without_model: bool = False


class Limits(Lenient):
    """What the operator allows."""

    bytes: int
    seconds: float


class Loaded(Lenient):
    """What a leased job works on; `training` is None when it is gone."""

    training: StoredTraining | None
    #: Raised each time the job is run again after its end.
    generation: int = 1
    limits: Limits | None = None
    stages: list[Stage] = []
    heard: list[int] = []
    #: Other transcriptions of the workspace that are under way.
    ahead: int = 0
    #: The status of the training's transcription; None where it has none.
    transcription: str | None = None
    #: What writing the procedure came to, where that is stored.
    written: dict[str, Any] | None = None

    def result(self, name: StageName) -> dict[str, Any] | None:
        """What a completed stage found."""
        return next((s.result for s in self.stages if s.name == name and s.result), None)

    def failure(self, name: StageName) -> Stage | None:
        """A stage that was abandoned."""
        return next((s for s in self.stages if s.name == name and s.status == "failed"), None)


class SpokenSegment(Lenient):
    """A few words and when they were said, in seconds of the recording."""

    start: float
    end: float
    text: str


class TimedSegment(SpokenSegment):
    """A segment with the time of each word, where the engine knows them."""

    #: Each with its start and end and, where the engine says, how sure it is of it.
    words: list[tuple[str, float, float] | tuple[str, float, float, float]] = []


class Chunk(Lenient):
    """A chunk of the transcript."""

    number: int
    starts_at_seconds: float
    ends_at_seconds: float
    segments: list[TimedSegment]
    language: str | None = None
    engine: str
    offline: bool


class WrittenStep(BaseModel):
    """One thing to do, and where in the video it is shown."""

    model_config = ConfigDict(extra="ignore")

    title: Line
    detail: Annotated[str, Field(max_length=2000)] = ""
    at_seconds: float = Field(ge=0, le=100_000, allow_inf_nan=False)


class Written(BaseModel):
    """A standard operating procedure as a model writes it; members beside these are dropped."""

    model_config = ConfigDict(extra="ignore")

    title: Annotated[str, Field(min_length=1, max_length=200)]
    purpose: Annotated[str, Field(max_length=2000)] = ""
    materials: Annotated[list[Line], Field(max_length=50)] = []
    warnings: Annotated[list[Line], Field(max_length=50)] = []
    steps: Annotated[list[WrittenStep], Field(min_length=1, max_length=200)]


class Step(WrittenStep):
    """A step with what it came from."""

    model_config = ConfigDict(extra="forbid")

    said: Annotated[str, Field(max_length=2000)] = Field(
        default="", description="The words of the video it was taken from."
    )
    doubtful: bool = Field(
        default=False, description="Whether the recogniser was not sure of these words."
    )


class Procedure(Written):
    """A standard operating procedure."""

    model_config = ConfigDict(extra="forbid")

    steps: Annotated[list[Step], Field(min_length=1, max_length=200)]  # type: ignore[assignment]


class NumberedStep(Step):
    """A step with its place, from 1."""

    number: int = Field(ge=1)
    still: str | None = Field(
        default=None, description="Where the video's picture at its time is read, for an hour."
    )


class NumberedProcedure(Procedure):
    """A procedure as returned: its steps are numbered."""

    steps: list[NumberedStep]  # type: ignore[assignment]  # narrower, and never written


class JobState(Lenient):
    """A job of a training, as the page shows it."""

    id: UUID
    job_type: str
    status: str
    progress: dict[str, Any] | None = None
    attempts: int | None = None
    max_attempts: int | None = None
    next_retry_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    cancel_requested_at: AwareDatetime | None = None
    code: str | None = None
    error: str | None = None


class TrainingLine(Lenient):
    """A training as lists show it, with its jobs."""

    id: UUID
    workspace_id: UUID
    title: str
    run: int | None
    status: Status
    progress_percentage: int | None
    progress_message: str | None
    code: str | None = Field(description="Why it failed, as a stable word.")
    reason: str | None
    session_id: str
    created_at: AwareDatetime
    finished_at: AwareDatetime | None
    cancel_requested_at: AwareDatetime | None
    jobs: list[JobState] = Field(description="transcription, sop_generation and mux_upload.")


class TrainingState(TrainingLine):
    """A training with its stages."""

    file_name: str
    host_asset: str | None
    stages: list[Stage]
    heard: int = Field(description="Chunks of about half a minute that are transcribed.")
    version: int | None = Field(description="The latest procedure's; null before there is one.")
    stills: int = Field(description="Pictures of the video that are kept for its steps.")


class TrainingPage(BaseModel):
    """A page of trainings, newest first."""

    trainings: list[TrainingLine]
    next: UUID | None = Field(description="Give as `after` for the next page; null at the end.")


class TranscriptState(Lenient):
    """What was recognised so far."""

    text: str
    segments: list[SpokenSegment]
    language: str | None
    duration_seconds: float | None = Field(description="Null until the sound is taken out.")
    engine: str | None
    offline: bool
    complete: bool


class ProcedureVersion(Lenient):
    """One version in the list of all."""

    version: int
    author: str = Field(description="The model that wrote it, or `person`.")
    offline: bool
    created_by: UUID | None
    created_at: AwareDatetime


class StoredProcedure(ProcedureVersion):
    """A version of a procedure, and which others there are."""

    procedure: NumberedProcedure
    versions: list[ProcedureVersion]


class Video(BaseModel):
    """Where the video can be played for a while."""

    url: str = Field(description="Readable without any other key until it expires.")
    expires_in_seconds: int
    host: str = Field(description="Where the video is kept: `s3`, or the video host as well.")
    playback_id: str | None = Field(description="The video host's id for players; else null.")
    duration_seconds: float | None
    playable: bool | None = Field(description="Whether browsers play it; null before the check.")
    note: str | None = Field(description="Why a browser will not play it, as a sentence.")


class StuckJob(Lenient):
    """A job that has been due for long and was not started."""

    job_id: UUID
    job_type: str
    training_id: UUID
    title: str
    pending_since: AwareDatetime
    pending_seconds: int
    reason: str
    sentence: str


class StuckJobs(BaseModel):
    """What waits for too long, the oldest first."""

    jobs: list[StuckJob]
