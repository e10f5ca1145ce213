"""One execution at one provider, by the provider protocol; every odd answer has its words.

Which provider is asked, and what follows from a failure, is left to `worker.remote`.

References:
    README.md, "The provider protocol".
"""

from __future__ import annotations

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
    Asked,
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

#: Seconds of silence until one call of a provider counts as failed; twice that for all of it.
CALL_SECONDS = 5.0
#: Answers beyond this are not read: 500 answers of 100,000 characters are not expected.
MAX_ANSWER_BYTES = 8 * 1024 * 1024

TaskId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=200)]


class Task(Row):
    """Work that a provider has accepted, and how far it is."""

    task_id: TaskId
    status: Literal["accepted", "queued", "running", "completed", "failed", "cancelled"]
    error: str | None = None


class Result(Row):
    """What a provider gave; `data` is read by `read_output`."""

    task_id: TaskId
    execution_id: str
    region: str
    model: ModelId
    data: Any


A = TypeVar("A", bound=Row)


def connections(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """One process's connections to all providers."""
    return outbound_http.connect(timeout=httpx.Timeout(CALL_SECONDS), transport=transport)


@dataclass(frozen=True, slots=True)
class AtProvider:
    """A service of `worker.remote`; each call raises RemoteFailed for an odd answer."""

    http: httpx.AsyncClient
    provider: Provider
    execution: ExecutionRow
    spec: JobSpec

    @property
    def name(self) -> str:
        """The provider's."""
        return self.provider.name

    async def submit(self, *, left: float) -> str:
        """Have it begin; the same execution again is the same task."""
        execution, spec = self.execution, self.spec
        body = {
            "execution_id": str(execution.id),
            "jobspec_id": spec.jobspec_id,
            "jobspec_version": str(spec.version),
            "region": execution.region,
            "benchmark": spec.benchmark.model_dump(mode="json"),
            "questions": [each.model_dump(exclude_none=True) for each in spec.asked],
            "timeout_seconds": round(left, 1),
        }
        key = {"Idempotency-Key": str(execution.id)}
        return (await self._ask(Task, "POST", "", json=body, headers=key)).task_id

    async def poll(self, task_id: str) -> RemoteTask:
        """Ask how far it is."""
        task = await self._ask(Task, "GET", f"/{task_id}")
        if task.status in {"accepted", "queued", "running"}:
            return RemoteTask("running")
        return RemoteTask(task.status, task.error)  # type: ignore[arg-type]

    async def result(self, task_id: str) -> dict[str, Any]:
        """Fetch the answers, and refuse those of anything else than what was asked."""
        result = await self._ask(Result, "GET", f"/{task_id}/result")
        asked, name = self.execution, self.name
        if result.task_id != task_id or result.execution_id != str(asked.id):
            raise RemoteFailed(f"{name} gave the result of another execution")
        if result.region != asked.region:
            raise RemoteFailed(f"{name} ran in region {result.region[:63]!r}, not {asked.region!r}")
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
        """Ask it to stop; what it answers changes nothing."""
        await self._call("POST", f"/{task_id}/cancel")

    async def _ask(self, kind: type[A], method: str, path: str, **sent: Any) -> A:
        said = await self._call(method, path, **sent)
        try:
            return kind.model_validate(said)
        except ValidationError as error:
            raise self._unusable(first_problem(error, "the answer")) from error

    async def _call(self, method: str, path: str, **sent: Any) -> dict[str, Any]:
        if self.provider.token is not None:
            bearer = {"Authorization": f"Bearer {self.provider.token}"}
            sent["headers"] = {**sent.get("headers", {}), **bearer}
        url = f"{self.provider.url}/v1/executions{path}"
        try:
            answer = await outbound_http.exchange(
                self.http, method, url, max_bytes=MAX_ANSWER_BYTES, **sent
            )
        except outbound_http.NoResponse as error:
            raise self._failed(str(error), classify_no_response(error).code) from error
        if answer.status not in {200, 201, 202}:
            problem = f"answered with status {answer.status}"
            raise self._failed(problem, classify_status(answer.status).code)
        said = answer.object()
        if said is None:
            raise self._unusable("it must be a JSON object")
        return said

    def _unusable(self, problem: str) -> RemoteFailed:
        return self._failed(f"gave an answer that can't be used: {problem}", "answer_unusable")

    def _failed(self, problem: str, code: str) -> RemoteFailed:
        return RemoteFailed(f"{self.name} {problem}", said=user_message(code, self.name))


class Unanswered(ValueError):
    """A question has no answer that can be used; in words that people read."""


def read_output(data: Any, spec: JobSpec) -> Output:
    """Read a provider's `data`: `{responses: […]}`, or the same once more inside a `data`.

    Raises:
        ValueError: The answers are not one per question of `spec`, each with a text.
    """
    if isinstance(data, dict) and "responses" not in data and isinstance(data.get("data"), dict):
        data = data["data"]
    answers = data.get("responses") if isinstance(data, dict) else None
    if not isinstance(answers, list):
        raise ValueError("data.responses must be a list of answers")
    by_id: dict[str, dict[str, Any]] = {}
    for place, answer in enumerate(answers):
        if not isinstance(answer, dict) or not isinstance(answer.get("question_id"), str):
            raise ValueError(f"responses[{place}] must be an object with a question_id")
        if answer["question_id"] in by_id:
            raise Unanswered(f"question {_short(answer['question_id'])} is answered twice")
        by_id[answer["question_id"]] = answer
    asked = spec.asked
    for each in asked:
        if each.question_id not in by_id:
            raise Unanswered(f"no answer to question {_short(each.question_id)}")
    if extra := sorted(by_id.keys() - {each.question_id for each in asked}):
        raise Unanswered(f"an answer to a question that was not asked: {_short(extra[0])}")
    responses = [_response(each, by_id[each.question_id]) for each in asked]
    return Output(data=OutputData(responses=responses))


def _response(asked: Asked, answer: dict[str, Any]) -> Response:
    text = answer.get("response")
    name = _short(asked.question_id)
    if not isinstance(text, str) or is_blank(text):
        raise Unanswered(f"the answer to question {name} is empty")
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise Unanswered(f"the answer to question {name} is not UTF-8 text")
    if answer.get("question", asked.question) != asked.question:
        raise Unanswered(f"question {name} was answered with another text")
    duration = answer.get("duration_ms")
    if isinstance(duration, float):
        # it may be left out: NaN and the like are no reason to refuse a right answer
        duration = round(duration) if abs(duration) < 1e9 else None
    try:
        return Response.model_validate(
            {**asked.model_dump(), "response": text, "duration_ms": duration}
        )
    except ValidationError as error:
        raise ValueError(f"the answer to question {name}: {first_problem(error)}") from error


def _short(text: str) -> str:
    """Quote an id that a stranger wrote."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
