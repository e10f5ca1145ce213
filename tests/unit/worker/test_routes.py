"""The worker's HTTP routes: authentication, job types, and responses of a worker run."""

import json
from typing import Any

import pytest

from minutehand.functions.worker.routes import (
    PROCESS_PATH,
    WORKER_PATH,
    Reply,
    Request,
    WorkerRoutes,
)
from minutehand.queue.errors import QueueError, QueueUnavailable
from minutehand.worker import Registry, TickOptions, Worker
from tests.support.queue_model import SETTINGS, ModelQueue, Row

SECRETS = SETTINGS.model_copy(
    update={"worker_secret_tokens": ("old", "new"), "background_job_tokens": ("jobs",)}
)

#: A request to run certain job types.
PROCESS: dict[str, Any] = {"path": PROCESS_PATH, "token": "jobs"}


async def ask(
    method: str = "POST",
    path: str = WORKER_PATH,
    token: str = "new",
    body: Any = None,
    *,
    queue: ModelQueue | None = None,
    **more: Any,
) -> Reply:
    """Send one request to the worker's routes, and return the response."""
    registry = Registry()

    async def work(job: Any, ctx: Any) -> None:
        return None

    registry.processor("work", payload=dict)(work)
    registry.processor("part", payload=dict, part_of="work")(work)
    options = TickOptions(linger_seconds=0)
    worker = Worker(SECRETS, registry=registry, queue=queue or ModelQueue(), options=options)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
    headers = {"authorization": f"Bearer {token}"}
    return await WorkerRoutes(SECRETS, worker, **more).handle(Request(method, path, headers, raw))


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"token": "jobs"}, 401, "unauthorized"),
        ({"path": PROCESS_PATH}, 401, "unauthorized"),
        ({"path": "/api/jobs"}, 404, "route_not_found"),
        ({"method": "PUT"}, 405, "method_not_allowed"),
        (PROCESS | {"body": b"{"}, 400, "invalid_json"),
        (PROCESS | {"body": [1]}, 400, "invalid_argument"),
        (PROCESS | {"body": {"jobTypes": 1}}, 400, "invalid_argument"),
        (PROCESS | {"body": {"jobTypes": ["wrok"]}}, 422, "unknown_job_type"),
        (PROCESS | {"body": b"x" * 20_000}, 413, "body_too_large"),
    ],
)
async def test_what_is_wrong_is_refused(asked: dict[str, Any], status: int, code: str) -> None:
    """A request with a wrong token, path, method or body is rejected with its code."""
    reply = await ask(**asked)

    assert (reply.status, reply.body["code"]) == (status, code)


@pytest.mark.parametrize("token", ["old", "new"])
async def test_a_tick_answers_what_it_did(token: str) -> None:
    """A worker run returns its summary.

    The old and the new token are both accepted during a rotation.
    """
    reply = await ask(token=token, queue=ModelQueue([Row("1", {})]))

    assert reply.status == 200
    assert (reply.body["success"], reply.body["completed"]) == (True, 1)
    assert {"duration_ms", "worker_id", "timestamp"} <= reply.body.keys()
    assert (await ask("GET")).body["worker_exists"] is True


async def test_a_run_over_types_takes_their_parts_too() -> None:
    """A worker run for a job type also leases the types of its child jobs.

    The parent would otherwise wait forever.
    """
    queue = ModelQueue()
    await ask(**PROCESS, body={"jobTypes": ["work"]}, queue=queue)

    assert [request.job_types for request in queue.requests] == [("part", "work")]


async def test_a_worker_whose_loop_runs_is_woken() -> None:
    """A request to a worker that runs continuously wakes it and returns 202."""
    woken: list[bool] = []
    reply = await ask(wake=lambda: woken.append(True))
    assert (reply.status, reply.body["running"], woken) == (202, True, [True])


@pytest.mark.parametrize(
    ("error", "status"),
    [(QueueUnavailable("away"), 503), (QueueError("no", status=403, code="PT403"), 502)],
)
async def test_a_queue_that_refuses_is_no_error_of_the_caller(
    error: QueueError, status: int
) -> None:
    """If the queue fails or rejects the worker, the route returns a 5xx status."""
    assert (await ask(queue=ModelQueue(faults={"lease": error}))).status == status
