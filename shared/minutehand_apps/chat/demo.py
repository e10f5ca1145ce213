"""The app's demo: a request that becomes work, asks a question and takes its default."""

from __future__ import annotations

import httpx


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Say something; answers the ids of the jobs it became."""
    text = "Research renewable energy and build me an interactive dashboard."
    said = await api.post(
        "/api/chat",
        json={
            "messages": [{"role": "user", "content": text}],
            "workspace_id": workspace_id,
            "ask_seconds": 2,
        },
    )
    said.raise_for_status()
    return [each["id"].removeprefix("work_") for each in said.json()["work"]]
