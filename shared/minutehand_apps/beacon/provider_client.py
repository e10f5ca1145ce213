"""The provider protocol's client: submit, poll, result, cancel; every odd answer has its words.

Which provider is asked, and what follows from a failure, is left to `executing`.

References:
    README.md, "The provider protocol".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, StringConstraints, ValidationError

from minutehand.queue.foreign import NoAnswer, connect, exchange
from minutehand.queue.lean_httpx import httpx
from minutehand.signing.models import Row
from minutehand.worker.remote import RemoteFailed
from minutehand_apps.beacon.models import ExecutionRow, JobSpec, ModelId
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
    """What a provider gave; `data` is read by `responses`."""

    task_id: TaskId
    execution_id: str
    region: str
    model: ModelId
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    data: Any


A = TypeVar("A", bound=Row)


class ProviderClient:
    """One process's client of all providers; connections are kept."""

    def __init__(self, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = connect(timeout=httpx.Timeout(CALL_SECONDS), transport=transport)

    async def submit(
        self, provider: Provider, execution: ExecutionRow, spec: JobSpec, *, timeout_seconds: float
    ) -> Task:
        """Have a provider begin; the same execution again is the same task.

        Raises:
            RemoteFailed: It did not accept.
        """
        model = next((m for m in spec.models or [] if _id_of(m) == execution.model), None)
        body = {
            "execution_id": str(execution.id),
            "jobspec_id": spec.jobspec_id,
            "jobspec_version": str(spec.version),
            "region": execution.region,
            "model": execution.model,
            "model_options": dict(model.model_extra or {}) if isinstance(model, BaseModel) else {},
            "benchmark": spec.benchmark.model_dump(mode="json"),
            "questions": [each.model_dump(exclude_none=True) for each in spec.asked],
            "timeout_seconds": round(timeout_seconds, 1),
        }
        headers = {"Idempotency-Key": str(execution.id)}
        return _read(
            Task,
            await self._call(provider, "POST", "/v1/executions", json=body, headers=headers),
            provider,
        )

    async def poll(self, provider: Provider, task_id: str) -> Task:
        """Ask how far a task is.

        Raises:
            RemoteFailed: It does not say, or does not know the task.
        """
        return _read(Task, await self._call(provider, "GET", f"/v1/executions/{task_id}"), provider)

    async def result(self, provider: Provider, task_id: str) -> Result:
        """Fetch what a completed task gave.

        Raises:
            RemoteFailed: There is none, or it is not a result.
        """
        answer = await self._call(provider, "GET", f"/v1/executions/{task_id}/result")
        return _read(Result, answer, provider)

    async def cancel(self, provider: Provider, task_id: str) -> None:
        """Ask a provider to stop; what it answers changes nothing.

        Raises:
            RemoteFailed: It could not be asked.
        """
        await self._call(provider, "POST", f"/v1/executions/{task_id}/cancel")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(
        self,
        provider: Provider,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        sent = dict(headers or {})
        if provider.token is not None:
            sent["Authorization"] = f"Bearer {provider.token}"
        try:
            answer = await exchange(
                self._http,
                method,
                provider.url + path,
                most_bytes=MAX_ANSWER_BYTES,
                json=json,
                headers=sent,
            )
        except NoAnswer as error:
            raise RemoteFailed(f"{provider.name} {error}") from error
        if answer.status not in {200, 201, 202}:
            raise RemoteFailed(f"{provider.name} answered with status {answer.status}")
        told = answer.object()
        if told is None:
            raise RemoteFailed(f"{provider.name} must answer with a JSON object")
        return told


def _read(kind: type[A], value: Any, provider: Provider) -> A:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, found["loc"])) or "the answer"
        raise RemoteFailed(
            f"{provider.name} answered in a wrong format: {where}: {found['msg']}"
        ) from error


def _id_of(model: Any) -> str:
    return model if isinstance(model, str) else str(model.id)
