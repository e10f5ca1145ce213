"""The tick against the real queue: what is leased is run, reported, settled, and no more."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from shared.queue import UserQueue
from shared.worker import (
    Job,
    JobContext,
    Registry,
    Worker,
)
from tests.support.project import ACME, Project


class Nothing(BaseModel):
    """A payload without content."""


class Number(BaseModel):
    """A payload with one number."""

    number: int


async def test_a_job_runs_and_its_result_is_kept(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """The shortest way through the whole engine."""

    @registry.processor("double", payload=Number)
    async def double(job: Job[Number], ctx: JobContext) -> dict[str, Any]:
        ctx.progress(50, "half", "on the way")
        ctx.log("info", "doubling", number=job.payload.number)
        return {"doubled": job.payload.number * 2}

    await worker.register()
    enqueued = await ada.enqueue(ACME, "double", {"number": 21})

    summary = await worker.tick(budget_seconds=20)

    assert (summary.leased, summary.completed, summary.error) == (1, 1, None)
    job = await ada.get_job(enqueued.job.id)
    assert (job.status, job.result, job.attempts) == ("completed", {"doubled": 42}, 1)
    assert project.event_types(job.id) == ["created", "leased", "log", "progress", "completed"]
    [line] = (await ada.logs(job.id)).logs
    assert (line.message, line.metadata) == ("doubling", {"number": 21})
