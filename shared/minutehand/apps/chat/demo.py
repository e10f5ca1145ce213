"""The app's demo: a request that becomes research, a page and a letter fed by it.

The last two ask a question each, and take its default after two seconds without an answer.
"""

from __future__ import annotations

import asyncio
import time

import httpx

PATIENCE_SECONDS = 60.0


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Say something; answers the ids of the reply's job and of the work it became."""
    begun = await api.post("/api/chat/conversations", json={"workspace_id": workspace_id})
    begun.raise_for_status()
    at = f"/api/chat/conversations/{begun.json()['id']}"
    sent = await api.post(
        f"{at}/messages",
        json={
            "text": (
                "Research tidal power and build me an interactive dashboard,"
                " then draft a short letter to the city about tidal power."
            ),
            "ask_seconds": 2,
        },
    )
    sent.raise_for_status()
    job_id: str = sent.json()["job_id"]
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        now = await api.get(at)
        now.raise_for_status()
        if not now.json()["replying"]:
            return [job_id, *(item["work_item_id"] for item in now.json()["work"])]
        await asyncio.sleep(0.2)
    return [job_id]
