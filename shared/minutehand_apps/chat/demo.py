"""The app's demo.

The demo's request becomes background work, and asks a question with a default answer.
"""

import httpx


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Send the demo's message, and return the ids of the message's jobs."""
    text = "Research renewable energy and build me an interactive dashboard."
    response = await api.post(
        "/api/chat",
        json={
            "messages": [{"role": "user", "content": text}],
            "workspace_id": workspace_id,
            "ask_seconds": 2,
        },
    )
    response.raise_for_status()
    return [work["id"].removeprefix("work_") for work in response.json()["work"]]
