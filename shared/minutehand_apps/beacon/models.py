"""The contracts: job specs, messages, answers, receipts and rows, each written once.

The JSON Schemas that the API publishes are made from these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

#: Regions that a job spec may name; each is an execution.
MAX_REGIONS = 50

JobStatus = Literal["created", "queued", "processing", "completed", "failed", "cancelled"]
ExecutionStatus = Literal["pending", "processing", "completed", "failed", "cancelled"]


_VISIBLE = r"[^ \t\n\r]"  # something beside blanks
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_VISIBLE)]
QuestionText = Annotated[str, StringConstraints(min_length=1, max_length=10000, pattern=_VISIBLE)]
JobspecId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=200)
]
Version = Annotated[str, StringConstraints(pattern=r"^[!-~]+$", max_length=64)]
Region = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)]
ModelId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=200)
]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Instant = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]


class Exact(BaseModel):
    """A model that takes nothing it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(BaseModel):
    """What others wrote; members that are not named do not matter."""

    model_config = ConfigDict(frozen=True)


class Benchmark(BaseModel):
    """What is measured; other members are kept as they came."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: ShortText


class Constraints(Exact):
    """Where a job runs, and what is enough."""

    regions: Annotated[list[Region], Field(min_length=1, max_length=MAX_REGIONS)] = Field(
        description="Each once."
    )
    min_regions: int = Field(
        ge=1, le=MAX_REGIONS, strict=True, description="Regions that must succeed."
    )
    timeout: int = Field(
        default=3600, ge=1, le=86400, strict=True, description="Seconds that each region has."
    )


class Question(Exact):
    """A question with an id of its own."""

    id: ShortText
    question: QuestionText
    category: ShortText


class Asked(Exact):
    """A question as sent to a provider."""

    question_id: str
    question: str
    category: str | None = None


class JobSpec(Exact):
    """A benchmark: questions put to providers in regions."""

    jobspec_id: JobspecId
    version: Version | Annotated[int, Field(ge=0, le=2**53 - 1)]
    benchmark: Benchmark
    constraints: Constraints
    questions: Annotated[list[QuestionText | Question], Field(min_length=1, max_length=500)] = (
        Field(description="A string is given the id q1, q2, … by its place.")
    )
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        regions = self.constraints.regions
        ids = [question.question_id for question in self.asked]
        if len(set(regions)) < len(regions):
            raise ValueError("constraints.regions must name each region once")
        if self.constraints.min_regions > len(regions):
            raise ValueError("constraints.min_regions must be at most the number of regions")
        if len(set(ids)) < len(ids):
            raise ValueError("questions must have different ids")
        return self

    @property
    def asked(self) -> list[Asked]:
        """The questions with their ids, in order."""
        return [
            Asked(question_id=f"q{place}", question=each)
            if isinstance(each, str)
            else Asked(question_id=each.id, question=each.question, category=each.category)
            for place, each in enumerate(self.questions, 1)
        ]


class JobMessage(Exact):
    """What the outbox holds and the queue carries: version 1 of the message about a job."""

    version: Literal[1]
    job_id: UUID
    jobspec_id: JobspecId


class ExecutionMessage(Exact):
    """Payload of an execution's child job, version 1."""

    version: Literal[1]
    job_id: UUID
    execution_id: UUID
    region: Region


class Response(Exact):
    """One question's answer."""

    question_id: ShortText
    question: QuestionText
    response: Annotated[str, StringConstraints(min_length=1, max_length=100000, pattern=_VISIBLE)]
    category: ShortText | None = None
    duration_ms: Annotated[int, Field(ge=0, le=86400000)]


class OutputData(Exact):
    """The answers, one per question, in the order of the questions."""

    responses: Annotated[list[Response], Field(min_length=1, max_length=500)]


class NestedData(Exact):
    """The same once more inside a `data`, as some runners write it."""

    data: OutputData


class Output(Exact):
    """What an execution gave; this app writes the direct form, and reads both."""

    data: OutputData | NestedData

    @property
    def responses(self) -> list[Response]:
        """The answers, in any form they came in."""
        return (self.data.data if isinstance(self.data, NestedData) else self.data).responses


class Hashes(Exact):
    """What a receipt vouches for, each as sha256:<hex> over canonical JSON (RFC 8785)."""

    jobspec: Digest = Field(description="Of the job spec.")
    output: Digest | None = Field(default=None, description="Of the member `output`.")


class Signed(Exact):
    """What receipts of both kinds state; see the app's README for every member."""

    id: UUID
    workspace_id: UUID
    job_id: UUID
    jobspec_id: JobspecId
    jobspec_version: Version
    issued_at: Instant
    software: ShortText
    hashes: Hashes
    key_id: str
    signature: str


class Receipt(Signed):
    """A signed statement of one execution."""

    format: Literal["minutehand-beacon-receipt/2"]
    execution_id: UUID
    region: Region
    provider: ShortText
    model: ModelId
    output: Output


class Closing(Signed):
    """The signed end of a job: what it came to, and how many receipts it has."""

    format: Literal["minutehand-beacon-closing/2"]
    status: Literal["completed", "failed"]
    error: str | None
    reached: list[Region] = Field(description="Regions that answered.")
    executions: int = Field(description="How many were asked for.")
    receipts: int = Field(description="How many of them have a receipt.")


class Bundle(Exact):
    """A job's spec and receipts, to be verified without asking anyone."""

    format: Literal["minutehand-beacon-bundle/2"] = "minutehand-beacon-bundle/2"
    jobspec: dict[str, Any]
    receipts: Annotated[list[dict[str, Any]], Field(max_length=MAX_REGIONS)]
    closing: dict[str, Any] | None = Field(description="Null while the job has not ended.")


class JobRow(Row):
    """A job as the worker reads it."""

    id: UUID
    workspace_id: UUID
    jobspec_id: str
    version: str
    spec: dict[str, Any]
    finished_at: AwareDatetime | None = None


class ExecutionRow(Row):
    """An execution as the worker reads it."""

    id: UUID
    region: str
    status: ExecutionStatus = "pending"
    receipt: dict[str, Any] | None = None


class Started(Row):
    """What a leased job works on: all executions, or the one it is; None where it is gone."""

    job: JobRow | None
    executions: list[ExecutionRow] = []
    execution: ExecutionRow | None = None


class Ended(Row):
    """What a job came to."""

    status: JobStatus
    reached: list[str]
    error: str | None = None
    receipts: int
    executions: int


#: By the names under /api/v1/schemas.
SCHEMAS: dict[str, type[BaseModel]] = {
    "jobspec": JobSpec,
    "output": Output,
    "receipt": Receipt,
    "closing": Closing,
    "bundle": Bundle,
    "job-message": JobMessage,
}


def first_problem(error: ValidationError, whole: str = "the document") -> str:
    """The first thing wrong with a value, and where; `whole` names the value itself."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"
