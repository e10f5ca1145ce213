"""Many jobs at once: one tick is enough, and nobody waits for anybody in a circle."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.integration.enrichment.conftest import BOB, Office
from tests.support.project import ACME, ADA

ACCOUNTS = [f"ac000000-0000-4000-8000-00000000000{n}" for n in range(1, 9)]


async def test_ten_requests_at_once_and_one_tick_complete(office: Office) -> None:
    """No deadlock between enqueues, leases and settles of one workspace."""

    async def create(number: int) -> str:
        return await office.enqueue(
            "enrich_account",
            {"account_id": ACCOUNTS[number % 7], "domain": f"n{number}.example"},
            user=(ADA, BOB)[number % 2],
        )

    ids = await asyncio.gather(*(create(number) for number in range(10)))
    summary = await office.tick()

    assert (summary.leased, summary.completed) == (10, 10)
    assert {office.project.row(job_id)["status"] for job_id in ids} == {"completed"}
    assert office.credits() == 10


async def test_twenty_jobs_take_one_tick_five_at_a_time(office: Office) -> None:
    """With a second a call that is four seconds; the order of starts and ends proves it."""
    body = {
        "workspace_id": ACME,
        "jobs": [
            {"job_type": "enrich_account", "payload": {"account_id": ACCOUNTS[n % 7]}}
            for n in range(20)
        ],
    }
    await office.call("POST", "/api/jobs/bulk", json=body)

    summary = await office.tick()

    running = peak = 0
    steps = office.project.rows(
        "select leased_at as at, 1 as step from queue.attempts"
        " union all select ended_at, -1 from queue.attempts order by at, step"
    )
    for row in steps:
        running += row["step"]
        peak = max(peak, running)
    assert summary.completed == 20
    assert peak == 5


async def test_a_tick_tells_its_story_in_the_log(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """Operators search for these words."""
    caplog.set_level(logging.INFO)
    job_id = await office.enqueue("enrich_account", {"account_id": ACCOUNTS[0]})

    await office.tick()

    text = "\n".join(record.getMessage() for record in caplog.records)
    lines = [
        "Starting job execution",
        "Found 1 pending job(s)",
        f"Processing job {job_id} (type: enrich_account)",
        f"Job {job_id} completed successfully",
        "Execution completed in ",
    ]
    places = [text.find(line) for line in lines]
    assert -1 not in places, text
    assert places == sorted(places)
