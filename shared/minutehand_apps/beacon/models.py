"""The contracts: job specs, messages, answers and rows, each written once for every reader.

The JSON Schemas that the API publishes and the database checks by are made from these models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from minutehand.signing import models as chains
from minutehand.signing.canonical import EXACT
from minutehand.signing.models import (
    VISIBLE,
    ChainHashes,
    Digest,
    Head,
    Id,
    Instant,
    Row,
    SealedKey,
    ShortText,
    Strict,
)
from minutehand.signing.models import Signed as AnySigned

#: Executions that one job spec may ask for: regions times models.
MAX_EXECUTIONS = 200
#: What a spec that names no model is run with: the provider's own choice.
DEFAULT_MODEL = "default"

JobStatus = Literal["created", "queued", "processing", "completed", "failed", "cancelled"]
ExecutionStatus = Literal["pending", "processing", "completed", "failed", "cancelled"]


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 2.0 is 2, and neither true nor "2" is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a whole number")
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("must be a whole number")
        return int(value)
    return value


Count = Annotated[int, Field(ge=1, le=50), BeforeValidator(_whole)]
Seconds = Annotated[int, Field(ge=1, le=86400), BeforeValidator(_whole)]
Milliseconds = Annotated[int, Field(ge=0, le=86400000), BeforeValidator(_whole)]
VersionNumber = Annotated[int, Field(ge=0, le=EXACT), BeforeValidator(_whole)]
JobspecId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=200)
]
Region = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=63)]
ModelId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=200)
]
QuestionId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=VISIBLE)]
QuestionText = Annotated[str, StringConstraints(min_length=1, max_length=10000, pattern=VISIBLE)]


class Exact(BaseModel):
    """A model that takes nothing it does not know, and no text for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Benchmark(BaseModel):
    """What is measured; members beside the name are kept as they came."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: ShortText


class Constraints(Exact):
    """Where a job runs, and what is enough."""

    regions: Annotated[list[Region], Field(min_length=1, max_length=50)] = Field(
        description="Each once."
    )
    min_regions: Count = Field(
        description="Regions that must succeed; at most as many as there are."
    )
    timeout: Seconds | None = Field(
        default=None,
        description="Seconds from the start of the job until an execution counts as failed; "
        "3600 when absent.",
    )
    stragglers: Literal["keep", "cancel"] = Field(
        default="keep",
        description="What becomes of executions still running once min_regions succeeded: "
        "keep waits for them, cancel ends the job at once.",
    )


class Question(Exact):
    """A question with an id of its own."""

    id: QuestionId
    question: QuestionText
    category: ShortText


class ModelRef(BaseModel):
    """A model by its id; members beside it are sent to the provider as they came."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: ModelId


class JobSpec(Exact):
    """A benchmark: questions put to models in regions."""

    jobspec_id: JobspecId
    version: Annotated[str, StringConstraints(pattern=r"^[!-~]+$", max_length=64)] | VersionNumber
    benchmark: Benchmark
    constraints: Constraints
    questions: Annotated[list[QuestionText | Question], Field(min_length=1, max_length=500)] = (
        Field(description="A string is given the id q1, q2, … by its place.")
    )
    models: Annotated[list[ModelId | ModelRef], Field(min_length=1, max_length=20)] | None = Field(
        default=None, description="Each once; the provider's own choice when absent."
    )
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        regions, models = self.constraints.regions, self.model_ids
        ids = [question.question_id for question in self.asked]
        if len(set(regions)) < len(regions):
            raise ValueError("constraints.regions must name each region once")
        if self.constraints.min_regions > len(regions):
            raise ValueError("constraints.min_regions must be at most the number of regions")
        if len(set(models)) < len(models):
            raise ValueError("models must name each model once")
        if len(set(ids)) < len(ids):
            raise ValueError("questions must have different ids")
        if len(regions) * len(models) > MAX_EXECUTIONS:
            raise ValueError(f"regions times models must be at most {MAX_EXECUTIONS}")
        return self

    @property
    def model_ids(self) -> list[str]:
        """The models by their ids; the default one where none is named."""
        named = self.models or [DEFAULT_MODEL]
        return [model if isinstance(model, str) else model.id for model in named]

    @property
    def asked(self) -> list[Asked]:
        """The questions with their ids, in order."""
        return list(_asked(self.questions))


class Asked(Exact):
    """A question as sent to a provider."""

    question_id: str
    question: str
    category: str | None = None


def _asked(questions: list[str | Question]) -> Iterator[Asked]:
    for place, each in enumerate(questions, 1):
        if isinstance(each, str):
            yield Asked(question_id=f"q{place}", question=each)
        else:
            yield Asked(question_id=each.id, question=each.question, category=each.category)


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
    model: ModelId


class Response(Exact):
    """One question's answer."""

    question_id: QuestionId
    question: QuestionText
    response: Annotated[str, StringConstraints(min_length=1, max_length=100000, pattern=VISIBLE)]
    category: ShortText | None = None
    duration_ms: Milliseconds


class OutputData(Exact):
    """The answers, one per question, in the order of the questions."""

    responses: Annotated[list[Response], Field(min_length=1, max_length=500)]


class Output(Exact):
    """What an execution gave."""

    data: OutputData


class ClosingHashes(ChainHashes):
    """What a closing receipt vouches for, each as sha256:<hex> over canonical JSON (RFC 8785)."""

    jobspec: Digest = Field(description="Of the job spec.")


class Hashes(ClosingHashes):
    """What a receipt vouches for, each as sha256:<hex> over canonical JSON (RFC 8785)."""

    output: Digest = Field(description="Of the member `output`.")


class Signed(AnySigned):
    """What receipts of both kinds state; see the app's README for every member."""

    jobspec_id: JobspecId
    jobspec_version: Annotated[str, StringConstraints(pattern=r"^[!-~]+$", max_length=64)]
    completed_at: Instant


class Receipt(Signed):
    """A signed statement of one execution."""

    format: Literal["minutehand-beacon-receipt/1"]
    execution_id: Id
    region: Region
    provider: ShortText
    model: ModelId
    started_at: Instant
    output: Output
    hashes: Hashes


class ClosedExecution(Strict):
    """One execution as its job's closing receipt states it."""

    execution_id: Id
    region: Region
    model: ModelId
    status: Literal["completed", "failed", "cancelled"]
    error: str | None = Field(description="Why it failed.")
    receipt: Digest | None = Field(description="Of its whole receipt; null when it has none.")


class Closing(Signed):
    """The signed end of a job: all that was asked, what it came to, and every receipt of it."""

    format: Literal["minutehand-beacon-closing/1"]
    status: Literal["completed", "failed", "cancelled"]
    error: str | None = Field(description="Why the job failed.")
    reached: list[Region] = Field(description="Regions in which every model answered.")
    receipts: Annotated[int, Field(ge=0, le=MAX_EXECUTIONS)] = Field(
        description="How many executions have a receipt."
    )
    executions: Annotated[list[ClosedExecution], Field(min_length=1, max_length=MAX_EXECUTIONS)]
    started_at: Instant | None
    hashes: ClosingHashes


class Bundle(Exact):
    """A job's receipts and closing, with its job spec, to be verified without asking anyone."""

    format: Literal["minutehand-beacon-bundle/1"] = "minutehand-beacon-bundle/1"
    jobspec: dict[str, Any] | None = None
    receipts: Annotated[list[dict[str, Any]], Field(max_length=1000)]
    closing: dict[str, Any] | None = Field(
        default=None, description="By the schema closing; absent while the job is running."
    )
    running: Literal[True] | None = Field(
        default=None, description="The job had not ended: receipts may follow, and nothing closes."
    )


class JobRow(Row):
    """A job as the worker reads it."""

    id: UUID
    workspace_id: UUID
    jobspec_id: str
    version: str
    spec: dict[str, Any]
    started_at: AwareDatetime | None = None


class ExecutionRow(Row):
    """An execution as the worker reads it."""

    id: UUID
    region: str
    model: str
    provider: str | None = None
    provider_task: str | None = None
    started_at: AwareDatetime | None = None


class StartedJob(Row):
    """What a leased `beacon_job` works on; `job` is None when it is gone."""

    job: JobRow | None
    executions: list[ExecutionRow] = Field(default_factory=list)


class ProviderHealth(Row):
    """What is known of one provider in one region, over all workers."""

    provider: str
    region: str
    failures: int = 0
    open_until: AwareDatetime | None = None


class StartedExecution(Row):
    """What a leased `beacon_execution` works on; `over` says why it is not to run."""

    execution: ExecutionRow | None
    job: JobRow | None = None
    over: str | None = None
    receipt: dict[str, Any] | None = None
    key: SealedKey | None = None
    head: Head | None = None
    health: list[ProviderHealth] = Field(default_factory=list)
    #: The database's clock: the one that all instants of a receipt are read from.
    now: AwareDatetime | None = None


class Issued(chains.Issued):
    """What became of a receipt, and whether it was the last that its job needed."""

    enough: bool = False


class Closed(chains.Unsigned):
    """A job's end: as it was stored with its closing receipt, or what that must state."""

    spec: dict[str, Any] = Field(default_factory=dict)
    status: JobStatus | None = None
    reached: list[str] = Field(default_factory=list)
    missing: list[str] = Field(default_factory=list)
    error: str | None = None


class OutboxRow(Row):
    """A claimed row of the outbox; the message is as it was stored, of any version."""

    id: UUID
    message: Any


#: By the names under /api/v1/schemas.
SCHEMAS: dict[str, type[BaseModel]] = {
    "jobspec": JobSpec,
    "output": Output,
    "receipt": Receipt,
    "closing": Closing,
    "bundle": Bundle,
    "job-message": JobMessage,
    "execution-message": ExecutionMessage,
}


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a contract.

    Raises:
        KeyError: No contract has this name.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"/api/v1/schemas/{name}",
        **SCHEMAS[name].model_json_schema(),
    }
