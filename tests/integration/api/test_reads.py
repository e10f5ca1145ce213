"""Lists, pages, logs, statistics and health as the read routes give them."""

from __future__ import annotations

import asyncio
import time

import httpx

from tests.integration.api.conftest import ACME_ID, Client, Hand, error_of
from tests.support.stacks import RunningStack


async def test_pages_hold_every_job_once_while_others_arrive(
    hand: Hand, ada: httpx.AsyncClient
) -> None:
    """A bulk shares its microsecond; a page boundary inside it must not lose or repeat a job."""
    wanted = {job.id for job in await hand.enqueue_many(45)}
    seen: list[str] = []
    params = {"job_type": hand.job_type, "limit": "7"}

    while True:
        page = (await ada.get("/api/jobs", params=params)).json()
        seen += [job["id"] for job in page["jobs"]]
        await hand.enqueue()
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]

    assert len(seen) == len(set(seen)) == 45
    assert set(seen) == wanted


async def test_status_is_the_operators_or_the_members_own(
    hand: Hand, client: Client, ada: httpx.AsyncClient, stack: RunningStack
) -> None:
    """The operator sees everything, a member their workspace, nobody else anything.

    Statistics are read seconds later, although no worker takes the job.
    """
    by_operator = client(stack.worker_secret_token)
    await hand.enqueue()
    give_up = time.monotonic() + 60
    while hand.job_type not in (operator := await by_operator.get("/api/status")).json()["types"]:
        assert time.monotonic() < give_up
        await asyncio.sleep(0.2)

    service = await client(stack.token(None, role="service_role")).get("/api/status")
    member = await ada.get("/api/status", params={"workspace_id": ACME_ID})
    too_much = await ada.get("/api/status")
    nobody = await client().get("/api/status")
    stranger = await client("wrong-token").get("/api/status")

    assert operator.status_code == service.status_code == member.status_code == 200
    assert operator.json()["workers"] is not None
    assert hand.job_type in member.json()["types"]
    assert (too_much.status_code, error_of(too_much)["code"]) == (400, "invalid_argument")
    assert nobody.status_code == stranger.status_code == 401
