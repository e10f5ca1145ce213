"""The app's demo: a plan with a day and a budget, which is followed to its end."""

from __future__ import annotations

import httpx

PROMPT = (
    "Organise a one-day harbour festival for 400 guests on 12 June 2027 with a budget of"
    " EUR 24,000. Catering costs 18 EUR per guest and the stage costs 5,200 EUR. We have 6 people."
)


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Create the demo's plan; answers its job's id."""
    created = await api.post(
        "/api/plans",
        json={
            "workspace_id": workspace_id,
            "prompt": PROMPT,
            "speed_vs_detail": "all_details_but_slow",
        },
    )
    created.raise_for_status()
    return [created.json()["job_id"]]
