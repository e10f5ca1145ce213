"""Many jobs at once: one tick is enough, and nobody waits for anybody in a circle."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.integration.enrichment.conftest import BOB, Office
from tests.support.project import ADA

ACCOUNTS = [f"ac000000-0000-4000-8000-00000000000{n}" for n in range(1, 9)]


async def test_twenty_jobs_take_one_tick_five_at_a_time(office: Office) -> None:
    """Enqueued side by side; the order of starts and ends proves that no more run at once."""

    async def create(number: int) -> str:
        payload = {"account_id": ACCOUNTS[number % 7], "domain": f"n{number}.example"}
        return await office.enqueue("enrich_account", payload, user=(ADA, BOB)[number % 2])

    await asyncio.gather(*(create(number) for number in range(20)))
    summary = await office.tick()

    running = peak = 0
    steps = office.project.rows(
        "select s.at, s.step from public.jobs as j cross join queue.attempt_lines(j, 9) as a"
        " cross join lateral (values (a.leased_at, 1), (a.ended_at, -1)) as s (at, step)"
        " order by s.at, s.step"
    )
    for row in steps:
        running += row["step"]
        peak = max(peak, running)
    assert (summary.leased, summary.completed) == (20, 20)
    assert peak == 5
    # a counter that is read, added to and written back would lose some
    assert office.credits() == 20


async def test_a_tick_logs_its_story(office: Office, caplog: pytest.LogCaptureFixture) -> None:
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
