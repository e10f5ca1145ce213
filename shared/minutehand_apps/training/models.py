"""Models of database rows, payloads and responses.

The SQL functions enforce the rules for trainings.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Line = Annotated[str, Field(min_length=1, max_length=500)]


class Lenient(BaseModel):
    """Base class of models that ignore unknown fields."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TrainingPayload(BaseModel):
    """Payload of the jobs `transcription`, `sop_generation` and `mux_upload`."""

    training_id: UUID


class ChunkPayload(BaseModel):
    """Payload of a `training_chunk` job, which transcribes one chunk of the audio."""

    training_id: UUID
    number: int = Field(ge=1, le=1000)
    start: float = Field(ge=0)
    end: float = Field(gt=0)


class StoredTraining(Lenient):
    """The row of a training in the form in which a job reads it."""

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


class Transcription(Lenient):
    """State of the `transcription` job of a training."""

    status: str
    error: str | None = None
    data: dict[str, Any] | None = None


class Loaded(Lenient):
    """Rows that a leased job reads. `training` is None if the training was deleted."""

    training: StoredTraining | None
    #: Number of the run of the job. Each retry of a finished job increases the number.
    generation: int = 1
    transcribed: list[int] = []
    transcription: Transcription | None = None


class SpokenSegment(Lenient):
    """Some words, with their start and end in seconds of the recording."""

    start: float
    end: float
    text: str


class Chunk(Lenient):
    """The transcript of one chunk of the audio."""

    number: int
    segments: list[SpokenSegment]
    language: str | None = None
    engine: str
    offline: bool


class StepText(BaseModel):
    """The text of one step of a procedure."""

    title: Line
    detail: Annotated[str, Field(max_length=2000)] = ""


class Step(StepText):
    """One step of a procedure, with its time in the video."""

    at_seconds: float = Field(ge=0, le=100_000)


class Procedure(BaseModel):
    """A standard operating procedure, written by a language model. Unknown fields are dropped."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    purpose: Annotated[str, Field(max_length=2000)] = ""
    materials: Annotated[list[Line], Field(max_length=50)] = []
    warnings: Annotated[list[Line], Field(max_length=50)] = []
    steps: Annotated[list[Step], Field(min_length=1, max_length=200)]


class StoredProcedure(Lenient):
    """A procedure that was written from a training video, and its author."""

    procedure: Procedure | None = Field(description="Null without a language model.")
    author: str = Field(
        description="Model that wrote the procedure, or the reason why there is none."
    )
    offline: bool


class JobState(Lenient):
    """A job of a training, with the fields of `background_jobs`."""

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
    """A training with its results and its jobs."""

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
    """The part of a transcript that is finished."""

    text: str
    segments: list[SpokenSegment]
    language: str | None
    engine: str | None
    offline: bool
    complete: bool
    missing_seconds: float | None = Field(description="Seconds missing at the end of the file.")


class Video(BaseModel):
    """A URL from which a browser can play the video."""

    url: str = Field(description="URL that needs no other key until it expires.")
    expires_in_seconds: int
    host: str = Field(description="`s3`, or the video host that also has the video.")
    playback_id: str | None = Field(description="Id for the video host's players, or null.")
