"""What trainings are at the edges: rows as jobs read them, payloads, answers of the API.

The rules for a training are in SQL.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

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
    """How a training's transcription is."""

    status: str
    error: str | None = None
    data: dict[str, Any] | None = None


class Loaded(Lenient):
    """What a leased job works on; `training` is None when it is gone."""

    training: StoredTraining | None
    #: Raised each time the job is run again after its end.
    generation: int = 1
    transcribed: list[int] = []
    transcription: Transcription | None = None


class SpokenSegment(Lenient):
    """A few words and when they were said, in seconds of the recording."""

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


class Step(BaseModel):
    """One thing to do, and where in the video it is shown."""

    title: Line
    detail: Annotated[str, Field(max_length=2000)] = ""
    at_seconds: float = Field(ge=0, le=100_000, allow_inf_nan=False)


class Procedure(BaseModel):
    """A standard operating procedure as a model writes it; members beside these are dropped."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    purpose: Annotated[str, Field(max_length=2000)] = ""
    materials: Annotated[list[Line], Field(max_length=50)] = []
    warnings: Annotated[list[Line], Field(max_length=50)] = []
    steps: Annotated[list[Step], Field(min_length=1, max_length=200)]


class StoredProcedure(Lenient):
    """What the transcript was made into."""

    procedure: Procedure | None = Field(
        description="Null without a language model: the transcript is what there is."
    )
    author: str = Field(description="The model that wrote it, or why there is none.")
    offline: bool


class JobState(Lenient):
    """A job of a training, as `background_jobs` shows it."""

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
    """A training with what is finished of it and its jobs."""

    id: UUID
    workspace_id: UUID
    title: str
    status: Literal["pending", "running", "cancelling", "completed", "failed", "cancelled"]
    progress_percentage: int
    reason: str | None = Field(description="Why it failed.")
    session_id: str
    created_at: AwareDatetime
    media: dict[str, Any] | None
    sound: dict[str, Any] | None
    transcript: dict[str, Any] | None
    procedure: StoredProcedure | None
    published: dict[str, Any] | None
    transcribed: int = Field(description="Chunks of about half a minute that are transcribed.")
    jobs: list[JobState]
    share_id: UUID | None = Field(description="The key of its procedure's link; null: not shared.")


class TrainingPage(BaseModel):
    """A page of trainings, newest first."""

    trainings: list[TrainingState]
    next: UUID | None = Field(description="Give as `after` for the next page; null at the end.")


class TranscriptState(Lenient):
    """What was recognised so far."""

    text: str
    segments: list[SpokenSegment]
    language: str | None
    engine: str | None
    offline: bool
    complete: bool
    missing_seconds: float | None = Field(description="Of the end, which the file lacks.")


class Share(BaseModel):
    """Whether anyone who has its link may read something."""

    shared: bool


class Shared(BaseModel):
    """The key of a link; null where there is none."""

    share_id: UUID | None
    url: str | None = Field(description="The link's path; null where there is none.")


class Video(BaseModel):
    """Where the video can be played for a while."""

    url: str = Field(description="Readable without any other key until it expires.")
    expires_in_seconds: int
    host: str = Field(description="Where the video is kept: `s3`, or the video host as well.")
    playback_id: str | None = Field(description="The video host's id for players; else null.")
