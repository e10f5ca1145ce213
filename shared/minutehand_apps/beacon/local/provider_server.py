"""A provider as a server: the protocol's other side, for the local stack, tests and load.

It answers repeatably and without a model, and misbehaves on request: see `Faults`.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from minutehand_apps.beacon.models import Asked

#: Tasks that a server remembers.
MOST_TASKS = 50_000
#: The model that runs when none is named.
MODEL = "offline-1"
EVERYWHERE = "*"


class Faults(BaseModel):
    """How a provider misbehaves in a region; the defaults are good behaviour."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    down: bool = Field(default=False, description="Every call is answered with 503.")
    delay_seconds: float = Field(default=0, ge=0, le=3600, description="How long a task takes.")
    wrong_format: bool = Field(default=False, description="The result's data is a text.")
    wrong_region: bool = Field(default=False, description="The result names another region.")
    nested: bool = Field(default=False, description="The answers are in data.data: allowed.")
    answers: Literal["whole", "missing", "twice", "empty"] = "whole"


class Submission(BaseModel):
    """The body of a submission."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    execution_id: str
    jobspec_id: str
    jobspec_version: str
    region: str
    model: str
    model_options: dict[str, Any] = Field(default_factory=dict)
    benchmark: dict[str, Any] = Field(default_factory=dict)
    questions: list[Asked]
    timeout_seconds: float


@dataclass(slots=True)
class Task:
    """Work that was accepted."""

    task_id: str
    submitted: Submission
    ready_at: float
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    cancelled: bool = False

    @property
    def status(self) -> str:
        """How far it is, by the protocol's words."""
        if self.cancelled:
            return "cancelled"
        return "completed" if time.monotonic() >= self.ready_at else "running"


class ProviderServer:
    """One provider: its tasks, its faults per region, and the routes over them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: dict[str, Faults] = {}
        self.submissions = 0
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._by_key: dict[str, str] = {}
        self.app = Starlette(
            routes=[
                Route("/v1/executions", self.submit, methods=["POST"]),
                Route("/v1/executions/{task_id}", self.poll),
                Route("/v1/executions/{task_id}/result", self.result),
                Route("/v1/executions/{task_id}/cancel", self.cancel, methods=["POST"]),
                Route("/v1/health", self.health),
                Route("/faults", self.set_faults, methods=["PUT"]),
            ]
        )

    def fault(self, region: str) -> Faults:
        """How the provider behaves in `region` at present."""
        return self.faults.get(region) or self.faults.get(EVERYWHERE) or Faults()

    @property
    def tasks(self) -> list[Task]:
        """What was accepted, oldest first."""
        return list(self._tasks.values())

    async def submit(self, request: Request) -> Response:
        """Begin; the same key again is the same task unless that one was cancelled."""
        try:
            submitted = Submission.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        fault = self.fault(submitted.region)
        if fault.down:
            return _away()
        key = request.headers.get("idempotency-key") or uuid.uuid4().hex
        task = self._tasks.get(self._by_key.get(key, ""))
        if task is None or task.cancelled:
            self.submissions += 1
            task = Task(uuid.uuid4().hex, submitted, time.monotonic() + fault.delay_seconds)
            self._tasks[task.task_id] = task
            self._by_key[key] = task.task_id
            while len(self._tasks) > MOST_TASKS:
                self._tasks.popitem(last=False)
        return JSONResponse({"task_id": task.task_id, "status": "accepted"}, status_code=202)

    async def poll(self, request: Request) -> Response:
        """Say how far a task is."""
        task = self._tasks.get(request.path_params["task_id"])
        if task is None:
            return JSONResponse({"error": "unknown task"}, status_code=404)
        if self.fault(task.submitted.region).down:
            return _away()
        return JSONResponse({"task_id": task.task_id, "status": task.status})

    async def result(self, request: Request) -> Response:
        """Give what a completed task came to, as the region's faults have it."""
        task = self._tasks.get(request.path_params["task_id"])
        if task is None or task.status != "completed":
            return JSONResponse({"error": "no result"}, status_code=404)
        submitted = task.submitted
        fault = self.fault(submitted.region)
        if fault.down:
            return _away()
        data: Any = {"responses": self._responses(submitted, fault)}
        if fault.nested:
            data = {"data": data}
        return JSONResponse(
            {
                "task_id": task.task_id,
                "execution_id": submitted.execution_id,
                "region": "nowhere-1" if fault.wrong_region else submitted.region,
                "model": MODEL if submitted.model == "default" else submitted.model,
                "started_at": task.started_at.isoformat(),
                "completed_at": datetime.now(UTC).isoformat(),
                "data": "the answers" if fault.wrong_format else data,
            }
        )

    async def cancel(self, request: Request) -> Response:
        """Stop a task; the answer has its new state."""
        task = self._tasks.get(request.path_params["task_id"])
        if task is None:
            return JSONResponse({"error": "unknown task"}, status_code=404)
        if task.status == "running":
            task.cancelled = True
        return JSONResponse({"task_id": task.task_id, "status": task.status})

    async def health(self, _: Request) -> Response:
        """Report that the process runs, and where it simulates an outage."""
        down = sorted(region for region, fault in self.faults.items() if fault.down)
        return JSONResponse({"provider": self.name, "status": "ok", "down": down})

    async def set_faults(self, request: Request) -> Response:
        """Replace all faults: an object of `Faults` by region, `*` for the others."""
        try:
            given = await request.json()
            self.faults = {region: Faults.model_validate(one) for region, one in given.items()}
        except (ValueError, AttributeError) as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        return JSONResponse({region: one.model_dump() for region, one in self.faults.items()})

    def _responses(self, submitted: Submission, fault: Faults) -> list[dict[str, Any]]:
        responses = [self._response(asked, submitted) for asked in submitted.questions]
        if fault.answers == "missing":
            return responses[1:]
        if fault.answers == "twice":
            return [*responses, responses[0]]
        if fault.answers == "empty":
            return [{**responses[0], "response": " "}, *responses[1:]]
        return responses

    def _response(self, asked: Asked, submitted: Submission) -> dict[str, Any]:
        """An answer that anyone can recompute, and that differs a little between regions."""
        words = asked.question.split()
        longest = max(words, key=len, default="")
        number = hashlib.sha256(f"{submitted.region}\n{asked.question}".encode()).digest()[0]
        response: dict[str, Any] = {
            "question_id": asked.question_id,
            "question": asked.question,
            "response": (
                f"The question has {len(words)} words; the longest is {longest[:60]!r}. "
                f"Answered without a language model, in {submitted.region} (number {number})."
            ),
            "duration_ms": 20 + number,
        }
        if asked.category is not None:
            response["category"] = asked.category
        return response


def _away() -> Response:
    return JSONResponse({"error": "unavailable"}, status_code=503, headers={"Retry-After": "5"})


def main(environ: Mapping[str, str]) -> int:
    """Serve as PROVIDER_NAME on PORT until SIGTERM."""
    import uvicorn  # a tool of development, which the functions do without

    server = ProviderServer(environ.get("PROVIDER_NAME", "local"))
    uvicorn.run(
        server.app,
        host="127.0.0.1",
        port=int(environ["PORT"]),
        log_level="warning",
        access_log=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
