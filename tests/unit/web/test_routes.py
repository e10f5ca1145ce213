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
    ("request_", "body", "function", "arguments"),
    [
        (f"POST {ROOM}/pause", {"job_type": "t", "reason": "r"}, "pause_jobs",
         {"p_request": {**OF_TYPE, "paused": True, "reason": "r"}}),
        (f"POST {ROOM}/resume", {"job_type": "t"}, "pause_jobs",
         {"p_request": {**OF_TYPE, "paused": False, "reason": None}}),
        (f"GET {ROOM}/schedules", None, "list_schedules", OF_W),
        (f"DELETE {ROOM}/schedules/a%2Fb", None, "delete_schedule", {**OF_W, "p_name": "a/b"}),
        (f"GET {ROOM}/next-runs?cron=x&timezone=Z&count=3", None, "next_runs",
         {**OF_W, "p_schedule": {"cron": "x", "timezone": "Z"}, "p_count": 3}),
        (f"GET {ROOM}/next-runs?schedule=n", None, "next_runs",
         {**OF_W, "p_schedule": {"name": "n"}, "p_count": 5}),
        (f"GET {ROOM}/webhooks", None, "list_webhooks", OF_W),
        (f"PATCH {ROOM}/webhooks/{ID}", {"enabled": True, "job_types": None}, "put_webhook",
         {**OF_W, "p_webhook": {"id": ID, "enabled": True, "job_types": None}}),
        (f"DELETE {ROOM}/webhooks/{ID}", None, "delete_webhook", {**OF_W, "p_webhook_id": ID}),
        (f"GET {ROOM}/limits", None, "workspace_limits", OF_W),
        (f"PATCH {ROOM}/limits", {"own_max_running": 5}, "set_workspace_limits",
         {**OF_W, "p_limits": {"own_max_running": 5}}),
        (f"POST {JOB}/cancel", None, "cancel_job", OF_JOB),
        (f"POST {JOB}/retry", {"payload": {"n": 1}}, "retry_job",
         {**OF_JOB, "p_payload": {"n": 1}}),
        (f"PATCH {JOB}", {"payload": {"n": 1}}, "edit_job",
         {**OF_JOB, "p_changes": {"payload": {"n": 1}}}),
        (f"POST {JOB}/answer", {"answer": {"yes": True}}, "answer_job",
         {**OF_JOB, "p_answer": {"answer": {"yes": True}}}),
        (f"POST {JOB}/replay", {"from_step": "s"}, "replay_job",
         {**OF_JOB, "p_request": {"from_step": "s"}}),
        ("POST /api/events", {"workspace_id": W, "name": "n", "payload": {"a": 1}}, "emit_event",
         {**OF_W, "p_name": "n", "p_payload": {"a": 1}}),
        *((f"POST /api/jobs/{verb}", {"workspace_id": W, "filter": FILTER, "limit": 3},
           f"{verb}_jobs", {**OF_W, "p_filter": FILTER, "p_limit": 3})
          for verb in ("cancel", "retry")),
        (f"GET /api/jobs?workspace_id={W}&job_type=t&status=failed&tag=g&error_type=e&limit=3",
         None, "list_jobs",
         {"p_filter": {"workspace_id": W, "job_type": "t", "status": ["failed"], "tag": "g",
                       "error_type": "e"}, "p_cursor": None, "p_limit": 3}),
        (f"GET /api/jobs?workspace_id={W}&sort=run_ms&offset=4&limit=3", None, "sort_jobs",
         {"p_filter": {"workspace_id": W}, "p_by": "run_ms", "p_descending": True, "p_limit": 3,
          "p_offset": 4}),
        (f"GET /api/jobs/counts?workspace_id={W}&job_type=t&queue=q", None, "count_jobs",
         {**OF_W, "p_filter": {"job_type": "t", "queue": "q"}}),
        (f"GET /api/types?workspace_id={W}&internal=true", None, "list_job_types",
         {**OF_W, "p_internal": True}),
        (f"GET /api/types/t?workspace_id={W}", None, "get_job_type", {**OF_W, "p_job_type": "t"}),
        (f"GET /api/logs?workspace_id={W}&search=x&job_type=t&job_id={ID}&before=9&limit=3", None,
         "search_logs",
         {**OF_W, "p_filter": {"search": "x", "job_type": "t", "job_id": ID}, "p_before": 9,
          "p_limit": 3}),
        (f"GET {JOB}", None, "get_job", OF_JOB),
        (f"GET {JOB}/logs?after=4&level=error&limit=3", None, "job_logs",
         {"select": "id,job_id,attempt,log_level,message,metadata,created_at",
          "job_id": f"eq.{ID}", "id": "gt.4", "order": "id.asc", "limit": "4",
          "log_level": "eq.error"}),
        (f"GET {JOB}/events?after=4&limit=3", None, "job_events",
         {"select": "job_id,seq,type,data,created_at", "job_id": f"eq.{ID}", "seq": "gt.4",
          "order": "seq.asc", "limit": "3"}),
        (f"GET {ROOM}/events", None, "event_feed", {**OF_W, "p_cursor": None, "p_limit": 500}),
        (f"GET {ROOM}/events?from=start", None, "event_feed",
         {**OF_W, "p_cursor": "1:1:", "p_limit": 500}),
        (f"GET {ROOM}/events?from=start&cursor=5:5:", None, "event_feed",
         {**OF_W, "p_cursor": "5:5:", "p_limit": 500}),
        ("GET /api/sessions/s/events?cursor=5:5:", None, "session_feed",
         {"p_session_id": "s", "p_cursor": "5:5:", "p_limit": 500}),
        (f"GET {JOB}/explain", None, "explain_job", OF_JOB),
        (f"GET {JOB}/attempts", None, "job_attempts", OF_JOB),
        (f"GET {JOB}/replays", None, "job_replays", OF_JOB),
        (f"GET {JOB}/steps?after_name=s&after_nth=2", None, "job_steps",
         {**OF_JOB, "p_after": {"name": "s", "nth": 2}}),
        (f"GET {JOB}/trace", None, "job_trace", OF_JOB),
        (f"GET /api/status?workspace_id={W}&minutes=7", None, "queue_stats",
         {**OF_W, "p_minutes": 7}),
    ],
)  # fmt: skip
async def test_a_route_asks_the_database_as_its_caller(
    database: Database, secret_token: Callable[..., str], request_: str, body: Any, function: str,
    arguments: dict[str, Any],
) -> None:  # fmt: skip
    """SQL decides who may; a route adds nothing, loses nothing, and lends no right of its own."""
    method, path = request_.split(" ", 1)
    token = f"Bearer {secret_token()}"
    async with calling(database.app) as api:
        answer = await api.request(method, path, json=body, headers={"authorization": token})

    assert answer.status_code == 404, answer.text
    assert (database.asked, database.tokens) == ([(function, arguments)], {token})
    assert database.woken == []


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


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/jobs", {"workspace_id": W, "job_type": "t"}),
        ("/api/jobs/bulk", {"workspace_id": W, "jobs": [{"job_type": "t"}]}),
    ],
)
async def test_a_job_that_no_worker_serves_is_made_with_a_warning(
    database: Database, secret_token: Callable[..., str], path: str, body: Any
) -> None:
    """It waits, and its caller should know why."""
    job = {"job": MADE, "created": True}
    database.answer = {**job, "jobs": [job], "warning": "no worker serves t"}

    async with calling(database.app) as api:
        made = await api.post(
            path, json=body, headers={"authorization": f"Bearer {secret_token()}"}
        )

    assert (made.status_code, made.json()["warning"]) == (201, "no worker serves t")
