"""The client for anybody's code, on the whole stack."""

from __future__ import annotations

import asyncio

import pytest

from minutehand.client import Client
from minutehand.local.users import ADA
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack


@pytest.mark.stack
async def test_a_job_is_enqueued_and_read_to_its_end(stack: RunningStack) -> None:
    """With a person's own token, whatever the key of the official client."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        async with (
            stack.official_client() as supabase,
            Client(supabase, schema="public", token=stack.sign_in(ADA.email)) as client,
        ):
            made = await client.enqueue(
                worker.job_type, {"n": 1}, workspace_id=stack.demo_workspace_id
            )
            [lease] = await asyncio.to_thread(worker.lease)
            await asyncio.to_thread(worker.settle, lease, result={"done": True})
            events = await client.events_after(made.job.id)
            job = await client.get_job(made.job.id)

    assert [event.type for event in events] == ["job.created", "job.leased", "job.completed"]
    assert (job.status, job.result) == ("completed", {"done": True})
