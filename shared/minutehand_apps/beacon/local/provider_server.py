"""A server that implements the provider protocol, for the local stack, tests and load tests.

The answers of the server are deterministic and need no model. `Faults` makes the server fail.
"""

import hashlib
import os
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from minutehand_apps.beacon.local import HOMES

MODEL = "offline-1"  # the model that each answer names


@dataclass(frozen=True)
class Faults:
    """Simulated faults of a provider in one region. By default the provider has no fault."""

    #: True if each call returns status 503.
    down: bool = False
    #: Duration of a task in seconds.
    delay_seconds: float = 0
    #: True if the result's `data` is a string.
    wrong_format: bool = False
    #: True if the result names a region that was not requested.
    wrong_region: bool = False
    answers: Literal["whole", "missing", "twice", "empty"] = "whole"


@dataclass(slots=True)
class Task:
    """A task that the provider has accepted."""

    task_id: str
    request: dict[str, Any]
    ready_at: float
    cancelled: bool = False

    @property
    def status(self) -> str:
        """State of the task in the words of the protocol."""
        if self.cancelled:
            return "cancelled"
        return "completed" if time.monotonic() >= self.ready_at else "running"


class ProviderServer:
    """One provider, with its tasks, its faults by region, and its routes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: dict[str, Faults] = {}
        self.tasks: list[Task] = []
        self._by_id: dict[str, Task] = {}
        self._by_key: dict[str, Task] = {}
        path = "/v1/executions/{task_id}"
        self.app = Starlette(
            routes=[
                Route("/v1/executions", self.submit, methods=["POST"]),
                Route(path, self.answer),
                Route(path + "/{what:str}", self.answer, methods=["GET", "POST"]),
                Route("/v1/health", self.health),
            ]
        )

    def fault(self, region: str) -> Faults:
        """Return the current faults of the provider in `region`."""
        return self.faults.get(region) or self.faults.get("*") or Faults()

    async def submit(self, request: Request) -> Response:
        """Start a task. A repeated key returns the same task, unless the task was cancelled."""
        body = await request.json()
        fault = self.fault(body["region"])
        if fault.down:
            return _away()
        key = request.headers["idempotency-key"]
        task = self._by_key.get(key)
        if task is None or task.cancelled:
            task = Task(uuid.uuid4().hex, body, time.monotonic() + fault.delay_seconds)
            self.tasks.append(task)
            self._by_id[task.task_id] = self._by_key[key] = task
        return JSONResponse({"task_id": task.task_id, "status": "accepted"}, status_code=202)

    async def answer(self, request: Request) -> Response:
        """Return the state or the result of a task, or cancel a task."""
        task = self._by_id.get(request.path_params["task_id"])
        action = request.path_params.get("what")
        if task is None or (action == "result" and task.status != "completed"):
            return JSONResponse({"error": "task not found"}, status_code=404)
        fault = self.fault(task.request["region"])
        if fault.down:
            return _away()
        if action == "result":
            return JSONResponse(_result(task, fault))
        if action == "cancel" and task.status == "running":
            task.cancelled = True
        return JSONResponse({"task_id": task.task_id, "status": task.status})

    async def health(self, _: Request) -> Response:
        """Report that this process runs."""
        return JSONResponse({"provider": self.name, "status": "ok"})


def _result(task: Task, fault: Faults) -> dict[str, Any]:
    region = task.request["region"]
    responses = [_response(question, region) for question in task.request["questions"]]
    if fault.answers == "missing":
        responses = responses[1:]
    elif fault.answers == "twice":
        responses = [*responses, responses[0]]
    elif fault.answers == "empty":
        responses = [{**responses[0], "response": " \u200b"}, *responses[1:]]
    return {
        "task_id": task.task_id,
        "execution_id": task.request["execution_id"],
        "region": "nowhere-1" if fault.wrong_region else region,
        "model": MODEL,
        "data": "the answers" if fault.wrong_format else {"responses": responses},
    }


def _response(question: dict[str, Any], region: str) -> dict[str, Any]:
    """Make an answer from the question and the region, so that the answers of regions differ."""
    number = hashlib.sha256(f"{region}\n{question['question']}".encode()).digest()[0]
    text = f"Sample answer {number}"
    return {**question, "response": text, "duration_ms": 20 + number}


def _away() -> Response:
    return JSONResponse({"error": "unavailable"}, status_code=503)


def main(environ: Mapping[str, str]) -> int:
    """Serve the local providers on PORT until SIGTERM.

    The path of a request begins with the name of the provider.
    """
    import uvicorn  # imported here, because Lambda functions do not have uvicorn

    app = Starlette(routes=[Mount(f"/{name}", ProviderServer(name).app) for name in HOMES])
    port = int(environ["PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
