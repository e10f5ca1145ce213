"""Client of the provider protocol, which runs one execution at one provider.

`worker.remote` chooses the provider, and handles failures of providers.

References:
    README.md, "The provider protocol".
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import httpx
from pydantic import Field, StringConstraints, ValidationError

from minutehand.queue import outbound_http
from minutehand.worker import (
    RemoteFailed,
    RemoteTask,
    classify_no_response,
    classify_status,
    is_blank,
    user_message,
)
from minutehand_apps.beacon.models import (
    AskedQuestion,
    ExecutionRow,
    JobSpec,
    ModelId,
    Output,
    OutputData,
    Response,
    Row,
    first_problem,
)
from minutehand_apps.beacon.settings import Provider

#: Maximum seconds without data from a provider in one call. A call takes at most twice the timeout.
CALL_SECONDS = 5.0
#: Maximum bytes of a response, which 500 answers of normal length do not reach.
MAX_RESPONSE_BYTES = 8 * 1024 * 1024

TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=200)]


class Task(Row):
    """A task that a provider has accepted, with the task's state."""

    task_id: TaskId
    status: Literal["accepted", "queued", "running", "completed", "failed", "cancelled"]
    error: str | None = None


class Answer(Row):
    """An answer in the form in which a provider returns it."""

    question_id: str
    question: str | None = None
    # Postgres cannot store NUL
    response: Annotated[str, StringConstraints(max_length=100000, pattern=r"^[^\x00]*$")]
    duration_ms: Annotated[float, Field(ge=0, le=86400000)]


class Answers(Row):
    """The answers of a task."""

    responses: list[Answer]


class NestedAnswers(Row):
    """The answers in a second field `data`, which some providers return."""

    data: Answers


class Result(Row):
    """Result of a task of a provider."""

    task_id: TaskId
    execution_id: str
    region: str
    model: ModelId
    data: Answers | NestedAnswers


A = TypeVar("A", bound=Row)


@dataclass(frozen=True)
class AtProvider:
    """A provider as a service that `worker.remote` can call.

    A call raises RemoteFailed for an unexpected response.
    """

    http: httpx.AsyncClient
    provider: Provider
    execution: ExecutionRow
    spec: JobSpec

    @property
    def name(self) -> str:
        """Name of the provider."""
        return self.provider.name

    async def submit(self, *, left: float) -> str:
        """Start a task. Another call for the same execution returns the same task."""
        execution, spec = self.execution, self.spec
        body = {
            "execution_id": str(execution.id),
            "jobspec_id": spec.jobspec_id,
            "jobspec_version": str(spec.version),
            "region": execution.region,
            "benchmark": spec.benchmark.model_dump(mode="json"),
            "questions": [
                question.model_dump(exclude_none=True) for question in spec.asked_questions
            ],
            "timeout_seconds": round(left, 1),
        }
        key = {"Idempotency-Key": str(execution.id)}
        return (await self._ask(Task, "POST", "", json=body, headers=key)).task_id

    async def poll(self, task_id: str) -> RemoteTask:
        """Read the state of a task from the provider."""
        task = await self._ask(Task, "GET", f"/{task_id}")
        if task.status in {"accepted", "queued", "running"}:
            return RemoteTask("running")
        return RemoteTask(task.status, task.error)  # type: ignore[arg-type]

    async def result(self, task_id: str) -> dict[str, Any]:
        """Read the answers of a task, and check that they belong to this execution."""
        result = await self._ask(Result, "GET", f"/{task_id}/result")
        execution, name = self.execution, self.name
        if result.task_id != task_id or result.execution_id != str(execution.id):
            raise RemoteFailed(f"{name} returned the result of another execution")
        if result.region != execution.region:
            raise RemoteFailed(
                f"{name} ran in region {result.region[:63]!r}, not {execution.region!r}"
            )
        data = result.data.data if isinstance(result.data, NestedAnswers) else result.data
        try:
            output = read_output(data.responses, self.spec)
        except ValueError as error:
            raise RemoteFailed(f"{name}: {error}") from error
        return {
            "provider": name,
            "model": result.model,
            "output": output.model_dump(mode="json", exclude_none=True),
        }

    async def cancel(self, task_id: str) -> None:
        """Cancel a task. The provider's response is ignored."""
        await self._call("POST", f"/{task_id}/cancel")

    async def _ask(self, kind: type[A], method: str, path: str, **options: Any) -> A:
        body = await self._call(method, path, **options)
        try:
            return kind.model_validate(body)
        except ValidationError as error:
            raise self._unusable(first_problem(error, "the answer")) from error

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        if self.provider.token is not None:
            bearer = {"Authorization": f"Bearer {self.provider.token}"}
            options["headers"] = {**options.get("headers", {}), **bearer}
        url = f"{self.provider.url}/v1/executions{path}"
        try:
            response = await outbound_http.exchange(
                self.http, method, url, max_bytes=MAX_RESPONSE_BYTES, **options
            )
        except outbound_http.NoResponse as error:
            raise self._failed(str(error), classify_no_response(error).code) from error
        if response.status not in {200, 201, 202}:
            problem = f"returned status {response.status}"
            raise self._failed(problem, classify_status(response.status).code)
        body = response.object()
        if body is None:
            raise self._unusable("the response must be a JSON object")
        return body

    def _unusable(self, problem: str) -> RemoteFailed:
        return self._failed(f"returned an unusable response: {problem}", "answer_unusable")

    def _failed(self, problem: str, code: str) -> RemoteFailed:
        return RemoteFailed(f"{self.name} {problem}", said=user_message(code, self.name))


def read_output(answers: list[Answer], spec: JobSpec) -> Output:
    """Return the answers in the order of the questions.

    Raises:
        ValueError: There is not exactly one answer with text per question of `spec`. People read
            the message of the error.
    """
    by_id: dict[str, Answer] = {}
    for answer in answers:
        if answer.question_id in by_id:
            raise ValueError(f"question {_short(answer.question_id)} is answered twice")
        by_id[answer.question_id] = answer
    responses = [
        _response(question, by_id.pop(question.question_id, None))
        for question in spec.asked_questions
    ]
    for extra in by_id:
        raise ValueError(f"an answer to a question that was not asked: {_short(extra)}")
    return Output(data=OutputData(responses=responses))


def _response(question: AskedQuestion, answer: Answer | None) -> Response:
    name = _short(question.question_id)
    if answer is None:
        raise ValueError(f"no answer to question {name}")
    if is_blank(answer.response):
        raise ValueError(f"the answer to question {name} is empty")
    if answer.question not in {None, question.question}:
        raise ValueError(f"the answer to question {name} quotes another question")
    return Response(
        **question.model_dump(), response=answer.response, duration_ms=round(answer.duration_ms)
    )


def _short(text: str) -> str:
    """Quote an id from a provider, and shorten it if it is long."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
