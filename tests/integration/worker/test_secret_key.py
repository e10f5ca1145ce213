"""A project's secret key: `apikey` alone, at a gateway that refuses it as a bearer."""

from __future__ import annotations

import httpx

from minutehand.queue import WorkerQueue
from tests.support.project import Project


async def test_a_worker_with_a_secret_key_sends_no_bearer(project: Project) -> None:
    """It has more rights than needed, and works."""
    alone = project.settings.model_copy(
        update={"supabase_jwt_secret": None, "supabase_worker_key": None}
    )
    queue = WorkerQueue(alone)
    try:
        health = await queue.health()
    finally:
        await queue.aclose()

    assert health.due >= 0


async def test_the_gateway_refuses_a_key_as_bearer(project: Project) -> None:
    """As the hosted one says it will: the value is not a JWT."""
    secret = project.settings.supabase_secret_key or ""
    async with httpx.AsyncClient(base_url=project.settings.supabase_url) as client:
        answers = [
            await client.post("/rest/v1/rpc/queue_health", json={}, headers=headers)
            for headers in (
                {"apikey": secret, "authorization": f"Bearer {secret}"},
                {"apikey": secret},
            )
        ]

    assert answers[0].status_code == 401
    assert answers[0].json()["code"] == "PGRST301"
    assert answers[1].status_code != 401
