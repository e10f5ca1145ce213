"""Batches on a real database: tenants apart, and each job has its own end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel, field_validator

from infra.bench.scratch import scratch_settings
from minutehand.queue.direct import DirectApi
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Backoff, BatchedJob, Fail, Registry, Retry, Worker
from minutehand.worker.testing import drain
from tests.support.engine import ACME, GLOBEX, Engine
from tests.support.renewed import Renewed


class Text(BaseModel):
    """What is embedded; the last rule is not in its schema, so the worker meets it first."""

    text: str

    @field_validator("text")
    @classmethod
    def _is_clean(cls, text: str) -> str:
        if "\t" in text:
            raise ValueError("no tabs")
        return text


Jobs = list[BatchedJob[Text]]


@asynccontextmanager
async def working(
    engine: Engine, run: Callable[[Jobs], Any], **options: Any
) -> AsyncIterator[Worker]:
    """A worker whose types are published; it looks as often as it can."""
    assert isinstance(engine.database, Renewed)
    registry, settings = Registry(), scratch_settings(engine.database.gateway.url)
    registry.processor("embed", payload=Text, **{"batch": 10, **options})(run)
    queue = WorkerQueue(settings, api=DirectApi(engine.database.url, schema="public"))
    worker = Worker(settings, registry=registry, queue=queue)
    await worker.register()
    try:
        yield worker
    finally:
        await worker.aclose()


def enqueue(engine: Engine, count: int, workspace: str = ACME, **more: Any) -> list[str]:
    jobs = [{"job_type": "embed", "payload": {"text": f"{n}"}, **more} for n in range(count)]
    said = engine.rpc("enqueue_jobs", p_workspace_id=workspace, p_jobs=jobs, p_return="ids")
    return [str(each) for each in said["ids"]]


async def test_two_tenants_never_share_a_call_and_each_job_has_its_own_end(engine: Engine) -> None:
    """Results, a retry, a failure, an exception and a payload that does not fit, in one backlog."""
    calls: list[Jobs] = []

    async def embed(jobs: Jobs) -> list[Any]:
        calls.append(jobs)
        ends: list[Any] = []
        for job in jobs:
            number = int(job.payload.text)
            job.ctx.log("info", f"number {number}")
            job.ctx.progress(number)
            again = number % 10 == 3 and job.attempt == 1
            said = {1: Fail("never"), 2: ValueError("broken")}.get(number % 10)
            ends.append(Retry("soon", after=0) if again else said or {"vector": [number]})
        return ends

    hour = Backoff(first=3600)  # longer than a run stays for it
    async with working(engine, embed, max_attempts=2, backoff=hour) as worker:
        ids = enqueue(engine, 30) + enqueue(engine, 30, GLOBEX)
        [odd] = engine.rpc(
            "enqueue_jobs",
            p_workspace_id=ACME,
            p_jobs=[{"job_type": "embed", "payload": {"text": "a\tb"}}],
            p_return="ids",
        )["ids"]
        for _ in range(3):
            await drain(worker)
            engine.advance(3600)
            engine.maintain()

    assert all(len({job.workspace_id for job in jobs}) == 1 for jobs in calls)
    assert max(map(len, calls)) == 10
    assert engine.job(odd)["status"] == "failed"
    assert "does not fit Text: text" in engine.job(odd)["error_message"]
    ended = {job_id: engine.job(job_id) for job_id in ids}
    for number, job in [(int(job["payload"]["text"]), job) for job in ended.values()]:
        kind = number % 10
        attempts = 2 if kind in (2, 3) else 1
        assert (job["status"], job["attempts"]) == (
            "failed" if kind in (1, 2) else "completed",
            attempts,
        )
        done = kind not in (1, 2)
        assert job["progress"]["percentage"] == (100 if done else number)
        assert job["result"] == ({"vector": [number]} if done else None)
        lines = engine.rows("select message from public.job_logs where job_id = %s", job["id"])
        assert lines == [f"number {number}"] * attempts


async def test_one_that_makes_the_call_raise_spends_its_own_attempts_alone(engine: Engine) -> None:
    """Retried, it meets its neighbours of the first call no more; a plain function alike."""

    def embed(jobs: Jobs) -> list[str]:
        if any(job.payload.text == "7" for job in jobs):
            raise ValueError("broken")
        return [job.payload.text for job in jobs]

    hour = Backoff(first=3600)
    async with working(engine, embed, batch=16, max_attempts=3, backoff=hour) as worker:
        ids = enqueue(engine, 16)
        for _ in range(4):
            await drain(worker)
            engine.advance(2 * 3600)
            engine.maintain()

    ends = [(job["status"], job["attempts"]) for job in map(engine.job, ids)]
    assert ends == [("failed", 3) if n == 7 else ("completed", 1) for n in range(16)]
    assert engine.job(ids[7])["error_message"] == "broken"
