"""A server that implements the provider protocol, for the local stack and tests.

The answers of the server are deterministic, need no model, and are ready immediately.
"""

import hashlib
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from minutehand_apps.beacon.local import HOMES

MODEL = "offline-1"  # the model that each answer names


@dataclass
class Task:
    """A task that the provider has accepted."""

    task_id: str
    request: dict[str, Any]
    status: str = "completed"


class ProviderServer:
    """One provider, with its tasks and its routes."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Tasks by their ids and by the keys of their requests.
        self.tasks: dict[str, Task] = {}
        path = "/v1/executions/{task_id}"
        self.app = Starlette(
            routes=[
                Route("/v1/executions", self.submit, methods=["POST"]),
                Route(path, self.answer),
                Route(path + "/{what:str}", self.answer, methods=["GET", "POST"]),
                Route("/v1/health", self.health),
            ]
        )

    async def submit(self, request: Request) -> Response:
        """Do a task. A repeated key returns the same task, unless the task was cancelled."""
        key = request.headers["idempotency-key"]
        task = self.tasks.get(key)
        if task is None or task.status == "cancelled":
            task = Task(uuid.uuid4().hex, await request.json())
            self.tasks[task.task_id] = self.tasks[key] = task
        return JSONResponse({"task_id": task.task_id, "status": "accepted"}, status_code=202)

    async def answer(self, request: Request) -> Response:
        """Return the state or the result of a task, or cancel a task."""
        task = self.tasks.get(request.path_params["task_id"])
        action = request.path_params.get("what")
        if task is None:
            return JSONResponse({"error": "task not found"}, status_code=404)
        if action == "result":
            return JSONResponse(self.result(task))
        if action == "cancel" and task.status == "running":
            task.status = "cancelled"
        return JSONResponse({"task_id": task.task_id, "status": task.status})

    def result(self, task: Task) -> dict[str, Any]:
        """Return the result of a task."""
        region = task.request["region"]
        return {
            "task_id": task.task_id,
            "execution_id": task.request["execution_id"],
            "region": region,
            "model": MODEL,
            "data": {
                "responses": [_response(question, region) for question in task.request["questions"]]
            },
        }

    async def health(self, _: Request) -> Response:
        """Report that this process runs."""
        return JSONResponse({"provider": self.name, "status": "ok"})


def _response(question: dict[str, Any], region: str) -> dict[str, Any]:
    """Make an answer from the question and the region, so that the answers of regions differ."""
    number = hashlib.sha256(f"{region}\n{question['question']}".encode()).digest()[0]
    text = f"Sample answer {number}"
    return {**question, "response": text, "duration_ms": 20 + number}


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
