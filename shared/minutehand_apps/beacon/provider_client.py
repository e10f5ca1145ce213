"""Client of the provider protocol, which runs one execution at one provider.

`worker.remote` chooses the provider, and handles failures of providers.

References:
    README.md, "The provider protocol".
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import httpx
from pydantic import StringConstraints, ValidationError

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


class Result(Row):
    """Result of a task of a provider. `read_output` parses `data`."""

    task_id: TaskId
    execution_id: str
    region: str
    model: ModelId
    data: Any


A = TypeVar("A", bound=Row)


@dataclass(frozen=True, slots=True)
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
        try:
            output = read_output(result.data, self.spec)
        except Unanswered as error:
            raise RemoteFailed(f"{name}: {error}") from error
        except ValueError as error:
            raise self._unusable(str(error)) from error
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


class Unanswered(ValueError):
    """A question has no usable answer. People read the message of the error."""


def read_output(data: Any, spec: JobSpec) -> Output:
    """Parse a provider's `data`, which is `{responses: […]}`, or contains it in a second `data`.

    Raises:
        ValueError: The answers do not match the questions of `spec`, or an answer has no text.
    """
    if isinstance(data, dict) and "responses" not in data and isinstance(data.get("data"), dict):
        data = data["data"]
    answers = data.get("responses") if isinstance(data, dict) else None
    if not isinstance(answers, list):
        raise ValueError("data.responses must be a list of answers")
    by_id: dict[str, dict[str, Any]] = {}
    for index, answer in enumerate(answers):
        if not isinstance(answer, dict) or not isinstance(answer.get("question_id"), str):
            raise ValueError(f"responses[{index}] must be an object with a question_id")
        if answer["question_id"] in by_id:
            raise Unanswered(f"question {_short(answer['question_id'])} is answered twice")
        by_id[answer["question_id"]] = answer
    questions = spec.asked_questions
    for question in questions:
        if question.question_id not in by_id:
            raise Unanswered(f"no answer to question {_short(question.question_id)}")
    if extra := sorted(by_id.keys() - {question.question_id for question in questions}):
        raise Unanswered(f"an answer to a question that was not asked: {_short(extra[0])}")
    responses = [_response(question, by_id[question.question_id]) for question in questions]
    return Output(data=OutputData(responses=responses))


def _response(question: AskedQuestion, answer: dict[str, Any]) -> Response:
    text = answer.get("response")
    name = _short(question.question_id)
    if not isinstance(text, str) or is_blank(text):
        raise Unanswered(f"the answer to question {name} is empty")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Unanswered(f"the answer to question {name} is not UTF-8 text")
    if answer.get("question", question.question) != question.question:
        raise Unanswered(f"the answer to question {name} quotes another question")
    duration = answer.get("duration_ms")
    if isinstance(duration, float):
        # drop NaN and a huge duration but keep the answer, because the duration is optional
        duration = round(duration) if abs(duration) < 1e9 else None
    try:
        return Response.model_validate(
            {**question.model_dump(), "response": text, "duration_ms": duration}
        )
    except ValidationError as error:
        raise ValueError(f"the answer to question {name}: {first_problem(error)}") from error


def _short(text: str) -> str:
    """Quote an id from a provider, and shorten it if it is long."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
