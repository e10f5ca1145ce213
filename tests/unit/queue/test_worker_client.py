"""What a worker asks of the database, call by call, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueUnavailable, StepsTooLong, read_only_fix
from minutehand.queue.models import (
    JobId,
    JobTypeSpec,
    LeaseRequest,
    NewArtefact,
    NewJob,
    ReportItem,
    SettleItem,
)
from minutehand.queue.worker_client import WorkerQueue

AT = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
JOB = JobId("j")
LEASE = LeaseRequest(worker_id="w", tick_id="t", call=1, limit=5)
REPORT = ReportItem(job_id=JOB, fence=3)
SETTLE = SettleItem(job_id=JOB, fence=3, outcome="completed")
FILE = {
    "name": "f", "media_type": "text/plain", "size_bytes": 3, "url": "/f", "created_at": AT,
    "expires_at": AT,
}  # fmt: skip


class Database:
    """Answers each call with `answer`, or with a 503; keeps what was asked for."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.later: list[Any] = []
        self.asked: list[tuple[str, Any]] = []
        api = DataApi("https://project.example", transport=httpx.MockTransport(self._reply))
        self.worker_settings = Settings(
            supabase_url="https://project.example",
            supabase_publishable_key="sb_publishable_x",
            supabase_worker_key="key",
            schema_name="jobs",
        )
        self.worker = WorkerQueue(self.worker_settings, api=api)

    def _reply(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.removeprefix("/rest/v1/rpc/")
        self.asked.append((name, json.loads(request.content or b"null")))
        answer, self.answer = self.answer, self.later.pop(0) if self.later else self.answer
        return httpx.Response(503 if answer is None else 200, json=answer)


@pytest.mark.parametrize(
    ("call", "answer", "function", "arguments"),
    [
        (lambda w: w.lease(LEASE), {"due": 3}, "lease_jobs", {"p_request": LEASE.wire()}),
        (lambda w: w.maintain(budget_seconds=1.5), {"parked": 2}, "run_maintenance",
         {"p_request": {"budget_ms": 1500}}),
        (lambda w: w.report([REPORT], worker_id="w", tick_id="t"), {"results": []}, "report_jobs",
         {"p_request": {"worker_id": "w", "tick_id": "t", "items": [REPORT.wire()]}}),
        (lambda w: w.settle([SETTLE], worker_id="w", tick_id="t"), {}, "settle_jobs",
         {"p_request": {"worker_id": "w", "tick_id": "t", "items": [SETTLE.wire()]}}),
        (lambda w: w.settle([SETTLE], worker_id="w", tick_id="t", lease=LEASE), {}, "settle_jobs",
         {"p_request": {"worker_id": "w", "tick_id": "t", "items": [SETTLE.wire()],
                        "lease": LEASE.wire()}}),
        (lambda w: w.spawn(JOB, 3, "n", [NewJob(job_type="a")]), {"job_ids": []}, "spawn_jobs",
         {"p_request": {"job_id": "j", "fence": 3, "name": "n",
                        "children": [NewJob(job_type="a").wire()]}}),
        (lambda w: w.store_artefact(JOB, 3, NewArtefact(
            name="f", media_type="text/plain", content=b"abc", keep_seconds=9
         )), FILE, "store_artefact",
         {"p_request": {"job_id": "j", "fence": 3, "name": "f", "media_type": "text/plain",
                        "content": "YWJj", "keep_seconds": 9}}),
        (lambda w: w.register_job_types([JobTypeSpec(job_type="a")]), {"registered": 1},
         "register_job_types", {"p_types": [JobTypeSpec(job_type="a").wire()]}),
        (lambda w: w.begin_run("r", worker_id="w", most=2, seconds=9), {"admitted": True},
         "begin_worker_run",
         {"p_request": {"run_id": "r", "worker_id": "w", "most": 2, "seconds": 9}}),
        (lambda w: w.end_run("r"), {}, "end_worker_run", {"p_request": {"run_id": "r"}}),
        (lambda w: w.attach_extensions(), {}, "attach_extensions", {}),
        (lambda w: w.tick_finished(tick_id="t", worker_id="w", summary={"n": 1}), {},
         "tick_finished",
         {"p_request": {"tick_id": "t", "worker_id": "w", "summary": {"n": 1}}}),
        (lambda w: w.health(), {}, "queue_health", {}),
        (lambda w: w.stats(), {}, "queue_stats", {"p_workspace_id": None, "p_minutes": 60}),
        (lambda w: w.stats(minutes=5), {}, "queue_stats",
         {"p_workspace_id": None, "p_minutes": 5}),
    ],
)  # fmt: skip
async def test_all_that_a_worker_has_to_say_is_sent(
    call: Callable[[WorkerQueue], Any], answer: Any, function: str, arguments: dict[str, Any]
) -> None:
    """A fence or an id that is left behind would let a worker change what is another's."""
    database = Database(answer)

    await call(database.worker)

    assert database.asked[0] == (function, arguments)


async def test_what_the_database_answers_a_worker_is_handed_on() -> None:
    """A worker that read nothing would lease nothing, and stop no job."""

    async def told(answer: Any, call: Callable[[WorkerQueue], Any]) -> Any:
        return await call(Database(answer).worker)

    results = {"results": [{"job_id": "j", "fence": 3, "outcome": "cancel"}]}
    assert (await told({"due": 3}, lambda w: w.lease(LEASE))).due == 3
    assert (await told({"parked": 2}, lambda w: w.maintain())).parked == 2
    [report] = await told(results, lambda w: w.report([REPORT], worker_id="w", tick_id="t"))
    assert (report.job_id, report.outcome) == ("j", "cancel")
    settled = await told(
        {"lease": {"due": 3}}, lambda w: w.settle([SETTLE], worker_id="w", tick_id="t")
    )
    assert settled.lease.due == 3
    assert await told({"job_ids": ["a", "b"]}, lambda w: w.spawn(JOB, 3, "n", [])) == ["a", "b"]
    file = NewArtefact(name="f", media_type="text/plain", content=b"abc", keep_seconds=9)
    assert (await told(FILE, lambda w: w.store_artefact(JOB, 3, file))).url == "/f"
    assert await told({"registered": 2}, lambda w: w.register_job_types([])) == 2
    run = await told(
        {"admitted": False, "free": 1},
        lambda w: w.begin_run("r", worker_id="w", most=2, seconds=9),
    )
    assert (run.admitted, run.free) == (False, 1)
    assert await told({"refused": 1}, lambda w: w.end_run("r")) is True
    assert await told({}, lambda w: w.end_run("r")) is False
    assert await told({"realtime": "attached"}, lambda w: w.attach_extensions()) == {
        "realtime": "attached"
    }
    health = await told({"due": 3, "storage": {"read_only": True}}, lambda w: w.health())
    assert (health.due, health.storage.read_only) == (3, True)
    assert health.storage.fix == read_only_fix("jobs"), "in the project's own schema"
    stats = await told({"n": 1}, lambda w: w.stats())
    assert stats.model_dump() == {"n": 1}


@pytest.mark.parametrize(
    ("call", "attempts"),
    [
        (lambda w: w.maintain(), 2),
        (lambda w: w.report([], worker_id="w", tick_id="t"), 2),
        (lambda w: w.report([], worker_id="w", tick_id="t", attempts=1), 1),
        (lambda w: w.settle([], worker_id="w", tick_id="t", attempts=1), 1),
        (lambda w: w.end_run("r"), 2),
        (lambda w: w.attach_extensions(), 1),
        (lambda w: w.tick_finished(tick_id="t", worker_id="w", summary={}), 1),
    ],
)
async def test_what_can_wait_for_the_next_time_is_not_tried_for_long(
    call: Callable[[WorkerQueue], Any], attempts: int
) -> None:
    """The run's seconds are its jobs'."""
    database = Database()

    with pytest.raises(QueueUnavailable):
        await call(database.worker)

    assert len(database.asked) == attempts


async def test_a_worker_calls_the_functions_of_its_schema() -> None:
    """Over connections of its own, where it is given none."""
    worker = WorkerQueue(Database().worker_settings)

    assert worker._functions._api._http.headers["content-profile"] == "jobs"
    await worker.aclose()


async def test_steps_that_do_not_fit_a_worker_are_read_no_further() -> None:
    """Page by page they look harmless, and take the memory of every job beside them."""
    page = {"bytes": StepsTooLong.MOST_BYTES * 2 // 5, "lines": [], "next": {"name": "s"}}
    database = Database(page)

    async with asyncio.timeout(60):
        with pytest.raises(StepsTooLong):
            await database.worker.read_steps(JOB, 1)

    assert len(database.asked) == 3


async def test_the_steps_of_a_job_are_read_page_by_page_with_their_children() -> None:
    """A gather of thousands of children takes more than a page."""
    first = [
        {"nth": 0, "name": "a", "value": 1},
        {"nth": 0, "name": "gather", "value": {"children": []}},
        {"nth": 1, "name": "gather", "value": {"id": "c1"}},
    ]
    place = {"name": "gather", "nth": 1}
    database = Database({"bytes": 10, "lines": first, "next": place})
    second = [{"nth": 2, "name": "gather", "value": {"id": "c2"}}]
    database.later = [{"bytes": 5, "lines": second, "next": None}]

    steps = await database.worker.read_steps(JOB, 3)

    assert steps == {"a": 1, "gather": {"children": [{"id": "c1"}, {"id": "c2"}]}}
    held = {"job_id": "j", "fence": 3}
    assert [arguments["p_request"] for _, arguments in database.asked] == [
        {**held, "after": None},
        {**held, "after": place},
    ]
