"""What a person finds on a job after its attempts: tracebacks and tags, and of its type."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.log import request_context
from minutehand.queue import UserQueue
from minutehand.worker import Job, JobContext, Registry, Schedule, TickOptions, Worker
from tests.support.payloads import Nothing, nothing
from tests.support.project import ACME, Project


async def attempts_of(worker: Worker, ada: UserQueue, job_type: str) -> list[dict[str, Any]]:
    """The attempts of a job of the type after one run."""
    await worker.register()
    job = (await ada.enqueue(ACME, job_type)).job
    await worker.tick(budget_seconds=120)
    return await ada.attempts(job.id)


async def test_an_error_in_a_step_shows_the_line(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Cause and line from the page alone, with the request to look for in the log."""

    @registry.processor("rates", payload=Nothing)
    async def rates(job: Job[Nothing], ctx: JobContext) -> None:
        async def look_up() -> float:
            return {"2026-01": 1.1}["2026-02"]

        await ctx.step("look up", look_up)

    worker.options = TickOptions(
        version="1.2", linger_seconds=0, origin={"log_group": "/aws/lambda/worker"}
    )
    with request_context("0c0ffee0-0000-4000-8000-000000000000"):
        [attempt] = await attempts_of(worker, ada, "rates")

    frame = attempt["traceback"]["frames"][0]
    assert (frame["function"], frame["code"]) == (
        "look_up",
        'return {"2026-01": 1.1}["2026-02"]',
    )
    assert attempt["error_data"]["type"] == "KeyError"
    assert attempt["origin"] == {
        "version": "1.2",
        "request_id": "0c0ffee0-0000-4000-8000-000000000000",
        "log_group": "/aws/lambda/worker",
    }


async def test_a_timeout_shows_where_the_processor_was(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """`stopped after 1 s` alone says nothing of why."""

    @registry.processor("slow", payload=Nothing, timeout=1)
    async def slow(job: Job[Nothing], ctx: JobContext) -> None:
        await asyncio.sleep(600)

    [attempt] = await attempts_of(worker, ada, "slow")

    assert attempt["error_data"]["type"] == "AttemptTimeout"
    assert attempt["traceback"]["frames"][0]["code"] == "await asyncio.sleep(600)"


async def test_a_refused_payload_has_no_traceback(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """No line of the user's is at fault; the problems are told by field."""

    class Number(BaseModel):
        number: int

    registry.processor("strict", payload=Number)(nothing)
    await worker.register()
    project.run_sql("update queue.job_types set payload_schema = null")
    job = (await ada.enqueue(ACME, "strict", {"number": "x"})).job
    await worker.tick(budget_seconds=120)
    [attempt] = await ada.attempts(job.id)

    assert attempt["traceback"] is None
    assert attempt["error_data"]["type"] == "PayloadRejected"


async def test_a_processor_tags_its_job(registry: Registry, worker: Worker, ada: UserQueue) -> None:
    """Found by what turned out on the way, and by what its type is tagged by."""

    class Customer(BaseModel):
        customer: int

    @registry.processor("bill", payload=Customer, tagged_by=["customer"])
    async def bill(job: Job[Customer], ctx: JobContext) -> None:
        ctx.tag("paid", "late")

    await worker.register()
    job = (await ada.enqueue(ACME, "bill", {"customer": 42})).job
    await worker.tick(budget_seconds=120)

    assert (await ada.get_job(job.id)).tags == ("customer:42", "paid", "late")
    for tag in ("customer:42", "paid"):
        page = await ada.list_jobs(ACME, more={"tag": tag})
        assert [each.id for each in page.jobs] == [job.id]


async def test_what_is_no_tag_is_refused_where_it_is_set(
    registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """In the processor, and not silently on the way."""

    @registry.processor("bill", payload=Nothing)
    async def bill(job: Job[Nothing], ctx: JobContext) -> None:
        ctx.tag("x" * 101)

    [attempt] = await attempts_of(worker, ada, "bill")

    assert "a tag must have 1 to 100 printable characters" in attempt["error_message"]


async def test_a_type_says_what_it_is_and_when_it_runs(
    project: Project, registry: Registry, worker: Worker, ada: UserQueue
) -> None:
    """Published with the type, as its page shows it."""

    @registry.processor("nightly", payload=Nothing, schedule=[Schedule("0 3 * * *", for_=ACME)])
    async def nightly(job: Job[Nothing], ctx: JobContext) -> None:
        """Tidy up.

        Nobody reads further on the page.
        """

    await worker.register()
    shown = await ada.job_type("nightly", ACME)

    assert shown.description == "Tidy up."
    assert shown.source is not None
    assert shown.source.endswith("nightly")
    [schedule] = shown.schedules
    assert (schedule.name, schedule.cron, schedule.source) == (
        "code:nightly",
        "0 3 * * *",
        shown.source,
    )


@pytest.mark.parametrize("cron", ["0 3 * *", "x", "0 3 * * * *", "every day", "0 3 * * mon-"])
def test_a_schedule_that_cannot_be_read_is_refused_at_import(registry: Registry, cron: str) -> None:
    """Where the typo is, with what it must be."""
    with pytest.raises(ValueError, match="cron must have five fields"):
        registry.processor("nightly", payload=Nothing, schedule=cron)


def test_a_schedule_without_a_tenant_is_refused(registry: Registry) -> None:
    """A workspace's name is not its id."""
    with pytest.raises(ValueError, match="for_ must be 'system', 'each' or a workspace's id"):
        Schedule("@daily", for_="acme")
    two = [Schedule("@daily"), Schedule("@hourly")]
    with pytest.raises(ValueError, match="different names"):
        registry.processor("nightly", payload=Nothing, schedule=two)
