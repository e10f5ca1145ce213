"""The app's demo: a message whose words ask for a summary and a draft, done in the background.

It asks back, and goes on by itself after two seconds without an answer.
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
            "text": "Summarise the curator's notes, and draft a short letter to the city.",
            "documents": [
                {
                    "title": "Notes of the curator",
                    "text": (
                        "The customs house has a goods lift for two tonnes. The workshop needs"
                        " running water. The city pays for the move if the season opens in April."
                        " The figureheads may only travel in their crates."
                    ),
                }
            ],
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
