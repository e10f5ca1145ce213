"""Models of job specs, messages, answers, receipts and database rows.

The API publishes the JSON Schemas of these models.
"""

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

#: Maximum regions of a job spec. Each region is an execution of its own.
MAX_REGIONS = 50

JobStatus = Literal["created", "queued", "processing", "completed", "failed", "cancelled"]
ExecutionStatus = Literal["pending", "processing", "completed", "failed", "cancelled"]


_VISIBLE = r"[^ \t\n\r]"  # the text has at least one visible character
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
    """Base class of models that reject unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(BaseModel):
    """Base class of models of rows and responses, which ignore unknown fields."""

    model_config = ConfigDict(frozen=True)


class Benchmark(BaseModel):
    """The benchmark of a job spec. Unknown fields are stored without changes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: ShortText


class Constraints(Exact):
    """The regions of a job, and how many regions must succeed."""

    regions: Annotated[list[Region], Field(min_length=1, max_length=MAX_REGIONS)] = Field(
        description="Different regions."
    )
    min_regions: int = Field(
        ge=1, le=MAX_REGIONS, strict=True, description="Regions that must succeed."
    )
    timeout: int = Field(
        default=3600, ge=1, le=86400, strict=True, description="Seconds per region."
    )


class Question(Exact):
    """A question for which the author of the job spec chose an id."""

    id: ShortText
    question: QuestionText
    category: ShortText


class AskedQuestion(Exact):
    """A question in the form in which a provider gets it."""

    question_id: str
    question: str
    category: str | None = None


class JobSpec(Exact):
    """A job spec, with questions, and with the regions whose providers answer the questions."""

    jobspec_id: JobspecId
    version: Version | Annotated[int, Field(ge=0, le=2**53 - 1)]
    benchmark: Benchmark
    constraints: Constraints
    questions: Annotated[list[QuestionText | Question], Field(min_length=1, max_length=500)] = (
        Field(description="A string gets the id q1, q2, … by its position.")
    )
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        regions = self.constraints.regions
        ids = [question.question_id for question in self.asked_questions]
        if len(set(regions)) < len(regions):
            raise ValueError("constraints.regions must name each region once")
        if self.constraints.min_regions > len(regions):
            raise ValueError("constraints.min_regions must be at most the number of regions")
        if len(set(ids)) < len(ids):
            raise ValueError("questions must have different ids")
        return self

    @property
    def asked_questions(self) -> list[AskedQuestion]:
        """The questions of the job spec with their ids, in order."""
        return [
            AskedQuestion(question_id=f"q{number}", question=question)
            if isinstance(question, str)
            else AskedQuestion(
                question_id=question.id, question=question.question, category=question.category
            )
            for number, question in enumerate(self.questions, 1)
        ]


class JobMessage(Exact):
    """Message about a job in the outbox and in the queue, in version 1."""

    version: Literal[1]
    job_id: UUID
    jobspec_id: JobspecId


class RepeatMessage(Exact):
    """Payload of a `beacon_repeat` job, which submits a beacon job again, daily by a schedule."""

    job_id: UUID


class Repeated(Row):
    """The job that was submitted again, or None if its first job was deleted."""

    id: UUID | None


class ExecutionMessage(Exact):
    """Payload of the child job for one execution, in version 1."""

    version: Literal[1]
    job_id: UUID
    execution_id: UUID
    region: Region


class Response(Exact):
    """A provider's answer to one question."""

    question_id: ShortText
    question: QuestionText
    response: Annotated[str, StringConstraints(min_length=1, max_length=100000, pattern=_VISIBLE)]
    category: ShortText | None = None
    duration_ms: Annotated[int, Field(ge=0, le=86400000)]


class OutputData(Exact):
    """The answers of an execution, one for each question, in the order of the questions."""

    responses: Annotated[list[Response], Field(min_length=1, max_length=500)]


class NestedData(Exact):
    """The answers in a second field `data`, which some providers return."""

    data: OutputData


class Output(Exact):
    """Output of an execution. The app accepts both forms of `data`, and stores `OutputData`."""

    data: OutputData | NestedData

    @property
    def responses(self) -> list[Response]:
        """The answers from either form of `data`."""
        return (self.data.data if isinstance(self.data, NestedData) else self.data).responses


class Hashes(Exact):
    """Hashes that a receipt signs. Each hash is sha256:<hex> of canonical JSON (RFC 8785)."""

    jobspec: Digest = Field(description="Hash of the job spec.")
    output: Digest | None = Field(default=None, description="Hash of the field `output`.")


class Signed(Exact):
    """Fields of both kinds of receipts, which the app's README describes."""

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
    """Signed receipt of an execution."""

    format: Literal["minutehand-beacon-receipt/2"]
    execution_id: UUID
    region: Region
    provider: ShortText
    model: ModelId
    output: Output


class Closing(Signed):
    """Signed closing receipt of a job, with the job's outcome and its number of receipts."""

    format: Literal["minutehand-beacon-closing/2"]
    status: Literal["completed", "failed"]
    error: str | None
    reached: list[Region] = Field(description="Regions that answered.")
    executions: int = Field(description="Number of executions.")
    receipts: int = Field(description="Number of executions with a receipt.")


class Bundle(Exact):
    """The spec and the receipts of a job, which anyone can verify offline."""

    format: Literal["minutehand-beacon-bundle/2"] = "minutehand-beacon-bundle/2"
    jobspec: dict[str, Any]
    receipts: Annotated[list[dict[str, Any]], Field(max_length=MAX_REGIONS)]
    closing: dict[str, Any] | None = Field(description="Null until the job ends.")


class JobRow(Row):
    """A job in the form in which the worker reads it."""

    id: UUID
    workspace_id: UUID
    jobspec_id: str
    version: str
    spec: dict[str, Any]
    finished_at: AwareDatetime | None = None


class ExecutionRow(Row):
    """An execution in the form in which the worker reads it."""

    id: UUID
    region: str
    status: ExecutionStatus = "pending"
    receipt: dict[str, Any] | None = None


class Started(Row):
    """Beacon job that a leased job reads, with all executions or with one execution.

    `job` is None if the job was deleted.
    """

    job: JobRow | None
    executions: list[ExecutionRow] = []
    execution: ExecutionRow | None = None


class Issued(Row):
    """The stored receipt of an execution."""

    receipt: dict[str, Any]


class SharedExecution(Row):
    """An execution whose region answered, in the form that a public link shows."""

    region: str
    provider: str | None
    model: str | None
    output: Output


class SharedJob(Row):
    """A job in the form that a public link shows."""

    spec: JobSpec
    executions: list[SharedExecution]


class Ended(Row):
    """Outcome of a job that has ended."""

    status: JobStatus
    reached: list[str]
    error: str | None = None
    receipts: int
    executions: int


#: Models by the names of their schemas below /api/v1/schemas.
SCHEMAS: dict[str, type[BaseModel]] = {
    "jobspec": JobSpec,
    "output": Output,
    "receipt": Receipt,
    "closing": Closing,
    "bundle": Bundle,
    "job-message": JobMessage,
}


def first_problem(error: ValidationError, whole: str = "the document") -> str:
    """Describe the first validation error with its path, or with `whole` if it has no path."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}"
