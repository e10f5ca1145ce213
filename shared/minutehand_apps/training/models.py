"""Models of rows, payloads and responses.

SQL enforces the rules for a training.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Line = Annotated[str, Field(min_length=1, max_length=500)]


class Lenient(BaseModel):
    """Model that ignores unknown fields."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TrainingPayload(BaseModel):
    """Payload of `transcription`, `sop_generation` and `mux_upload`."""

    training_id: UUID


class ChunkPayload(BaseModel):
    """Payload of `training_chunk`, which transcribes a chunk of the audio."""

    training_id: UUID
    number: int = Field(ge=1, le=1000)
    start: float = Field(ge=0)
    end: float = Field(gt=0)


class StoredTraining(Lenient):
    """A training's row, as a job reads it."""

    id: UUID
    workspace_id: UUID
    title: str
    object_key: str
    checksum: str | None = None
    media: dict[str, Any] | None = None
    sound: dict[str, Any] | None = None
    transcript: dict[str, Any] | None = None
    procedure: dict[str, Any] | None = None
    published: dict[str, Any] | None = None
    host_upload: str | None = None
    host_asset: str | None = None


class Transcription(Lenient):
    """State of the `transcription` job."""

    status: str
    error: str | None = None
    data: dict[str, Any] | None = None


class Loaded(Lenient):
    """Data for a leased job. `training` is None if it was deleted."""

    training: StoredTraining | None
    #: Number of the job's run, incremented by each retry of a finished job.
    generation: int = 1
    transcribed: list[int] = []
    transcription: Transcription | None = None


class SpokenSegment(Lenient):
    """A few words with their start and end, in seconds of the recording."""

    start: float
    end: float
    text: str


class Chunk(Lenient):
    """A chunk of the transcript."""

    number: int
    segments: list[SpokenSegment]
    language: str | None = None
    engine: str
    offline: bool


class StepText(BaseModel):
    """The words of one instruction."""

    title: Line
    detail: Annotated[str, Field(max_length=2000)] = ""


class Step(StepText):
    """One instruction, with its time in the video."""

    at_seconds: float = Field(ge=0, le=100_000)


class Procedure(BaseModel):
    """A standard operating procedure as a model writes it. Other fields are dropped."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    purpose: Annotated[str, Field(max_length=2000)] = ""
    materials: Annotated[list[Line], Field(max_length=50)] = []
    warnings: Annotated[list[Line], Field(max_length=50)] = []
    steps: Annotated[list[Step], Field(min_length=1, max_length=200)]


class StoredProcedure(Lenient):
    """Instructions that were written from a training video, with their author."""

    procedure: Procedure | None = Field(description="Null without a language model.")
    author: str = Field(
        description="Model that wrote the procedure, or the reason why there is none."
    )
    offline: bool


class JobState(Lenient):
    """A job of a training, as in `background_jobs`."""

    id: UUID
    job_type: str
    status: str
    stage: str | None = None
    progress_percentage: int
    progress_message: str | None = None
    error_data: dict[str, Any] | None = None
    retry_count: int
    max_retries: int
    next_retry_at: AwareDatetime | None = None
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None


class TrainingState(Lenient):
    """A training with its results and jobs."""

    id: UUID
    workspace_id: UUID
    title: str
    status: Literal["pending", "running", "cancelling", "completed", "failed", "cancelled"]
    progress_percentage: int
    reason: str | None = Field(description="Why it failed, or null.")
    session_id: str
    created_at: AwareDatetime
    media: dict[str, Any] | None
    sound: dict[str, Any] | None
    transcript: dict[str, Any] | None
    procedure: StoredProcedure | None
    published: dict[str, Any] | None
    transcribed: int = Field(description="Number of transcribed chunks of about half a minute.")
    jobs: list[JobState]
    share_id: UUID | None = Field(description="Key of the procedure's public link, or null.")


class TrainingPage(BaseModel):
    """A page of trainings, newest first."""

    trainings: list[TrainingState]
    next: UUID | None = Field(description="`after` of the next page, or null on the last page.")


class TranscriptState(Lenient):
    """Transcript so far."""

    text: str
    segments: list[SpokenSegment]
    language: str | None
    engine: str | None
    offline: bool
    complete: bool
    missing_seconds: float | None = Field(description="Seconds missing at the end of the file.")


class Share(BaseModel):
    """True if the procedure has a public link."""

    shared: bool


class Video(BaseModel):
    """URL from which the video can be played."""

    url: str = Field(description="URL that needs no other key until it expires.")
    expires_in_seconds: int
    host: str = Field(description="`s3`, or the video host that also has the video.")
    playback_id: str | None = Field(description="Id for the video host's players, or null.")
