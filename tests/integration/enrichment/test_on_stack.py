"""Enrichment on the whole running stack, with its own worker loop, through its own addresses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand_apps.enrichment import demo
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.usefixtures("acme_key")

ENDED = {"completed", "failed", "cancelled"}


class Guest:
    """A signed-in user of the stack, with both clients a browser has."""

    def __init__(self, stack: RunningStack, email: str) -> None:
        bearer = {"Authorization": f"Bearer {stack.sign_in(email)}"}
        self.api = httpx.AsyncClient(base_url=stack.api_url, headers=bearer)
        self.data = httpx.AsyncClient(
            base_url=stack.supabase_url,
            headers={**bearer, "apikey": stack.supabase_publishable_key},
        )

    async def ended(self, ids: list[str], *, seconds: float = 200.0) -> list[dict[str, Any]]:
        """Wait until all jobs have ended."""
        give_up = time.monotonic() + seconds
        while True:
            answer = await self.data.get(
                "/rest/v1/jobs",
                params={
                    "id": f"in.({','.join(ids)})",
                    "select": "job_type,status,error_message",
                },
            )
            jobs: list[dict[str, Any]] = answer.json()
            if all(job["status"] in ENDED for job in jobs) and len(jobs) == len(ids):
                return jobs
            assert time.monotonic() < give_up, jobs
            await asyncio.sleep(0.1)

    async def aclose(self) -> None:
        """Close both."""
        await self.api.aclose()
        await self.data.aclose()


@pytest.fixture
async def ada(stack: RunningStack) -> AsyncIterator[Guest]:
    """Ada, who manages Acme."""
    guest = Guest(stack, stack.demo_email)
    yield guest
    await guest.aclose()


async def test_the_demo_does_what_it_shows(stack: RunningStack, ada: Guest) -> None:
    """`make run` rests on it, and stores its key where there is none."""
    settings = f"/api/workspaces/{stack.demo_workspace_id}/settings"
    (await ada.api.delete(settings)).raise_for_status()
    ids = await demo.enqueue(ada.api, ada.data, stack.demo_workspace_id)

    jobs = await ada.ended(ids)

    assert {job["job_type"] for job in jobs} == {
        "enrich_account",
        "enrich_contact",
        "import_accounts",
    }
    assert {job["status"] for job in jobs} == {"completed"}, jobs


async def test_the_demo_spends_nothing_on_a_persons_own_key(
    stack: RunningStack, ada: Guest
) -> None:
    """Starting the stack again must not replace a key, nor enrich on its account."""
    settings = f"/api/workspaces/{stack.demo_workspace_id}/settings"
    (await ada.api.put(settings, json={"apollo_api_key": "test-key-own-7777"})).raise_for_status()

    jobs = await ada.ended(await demo.enqueue(ada.api, ada.data, stack.demo_workspace_id))

    assert [job["job_type"] for job in jobs] == ["import_accounts"]
    assert (await ada.api.get(settings)).json()["apollo_api_key"]["last4"] == "7777"
