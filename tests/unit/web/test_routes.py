"""What each route asks of the database, with the caller's own token, and when it wakes a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand.functions.jobs.app import OWN
from minutehand.functions.status import routes
from minutehand.queue.client import QueueClient
from minutehand.queue.data_api import DataApi
from minutehand.web.application import create_app
from minutehand.web.services import Services
from tests.unit.web.conftest import SECRET, URL, calling

W, ID = "a0000000-0000-4000-8000-000000000001", "b0000000-0000-4000-8000-000000000002"
OF_W, OF_JOB = {"p_workspace_id": W}, {"p_job_id": ID}
ROOM, JOB = f"/api/workspaces/{W}", f"/api/jobs/{ID}"
FILTER = {"job_type": "t"}
OF_TYPE = {"kind": "workspace_type", "name": "t", "workspace_id": W}
MADE = {
    "id": ID, "workspace_id": W, "job_type": "t", "status": "pending",
    "created_at": "2026-11-20T08:00:00+00:00",
}  # fmt: skip


class Database:
    """A Data API that notes what it is asked, and has one answer; None is a refusal."""

    def __init__(self, settings: Settings) -> None:
        self.answer: Any = None
        self.asked: list[tuple[str, Any]] = []
        self.tokens: set[str] = set()
        self.woken: list[str] = []
        services = Services(settings, waker=self)
        api = DataApi(settings.supabase_url, transport=httpx.MockTransport(self._reply))
        services.queue = services._streams = QueueClient(settings, api=api)
        self.app = create_app(services, [*OWN, routes.router])

    async def wake(self, *, reason: str = "enqueue") -> None:
        self.woken.append(reason)

    def _reply(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/rest/v1/").removeprefix("rpc/")
        self.asked.append((path, json.loads(request.content or "null") or dict(request.url.params)))
        self.tokens.add(request.headers["authorization"])
        if self.answer is not None:
            return httpx.Response(200, json=self.answer)
        refusal = {"code": "PT404", "message": "m", "hint": "job_not_found", "details": None}
        return httpx.Response(404, json=refusal)


@pytest.fixture(scope="module")
def one_database() -> Database:
    """One app for all: making it takes longer than a test."""
    return Database(
        Settings(supabase_url=URL, supabase_publishable_key="k", supabase_jwt_secret=SECRET)
    )


@pytest.fixture
def database(one_database: Database) -> Database:
    one_database.answer = None
    one_database.asked, one_database.tokens, one_database.woken = [], set(), []
    return one_database


@pytest.mark.parametrize(
    ("request_", "body", "answer", "reasons"),
    [
        ("/api/jobs", {"workspace_id": W, "job_type": "t"}, {"job": MADE, "created": True}, []),
        ("/api/jobs", {"workspace_id": W, "job_type": "t"},
         {"job": MADE, "created": True, "wake": True}, ["enqueue"]),
        ("/api/jobs/bulk", {"workspace_id": W, "jobs": [{"job_type": "t"}]}, {"jobs": []}, []),
        ("/api/jobs/bulk", {"workspace_id": W, "jobs": [{"job_type": "t"}]},
         {"jobs": [], "wake": True}, ["enqueue"]),
        (f"{JOB}/replay", {}, {"job": MADE, "created": True, "wake": True}, ["enqueue"]),
        (f"{JOB}/cancel", None, MADE, []),
        (f"{JOB}/retry", None, MADE, ["retry"]),
        (f"{JOB}/answer", {"answer": 1}, MADE, ["answer"]),
        ("/api/events", {"workspace_id": W, "name": "n"}, {"jobs": 1}, ["event"]),
    ],
)  # fmt: skip
async def test_a_worker_is_woken_for_what_may_run_now(
    database: Database, secret_token: Callable[..., str], request_: str, body: Any, answer: Any,
    reasons: list[str],
) -> None:  # fmt: skip
    """Once it is committed; else it would wait for the next minute."""
    database.answer = answer
    headers = {"authorization": f"Bearer {secret_token()}"}

    async with calling(database.app) as api:
        done = await api.post(request_, json=body, headers=headers)

    assert done.is_success, done.text
    assert database.woken == reasons
