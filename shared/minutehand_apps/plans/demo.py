"""The app's demo, which creates a plan."""

import httpx

PROMPT = "Plan a one-day street festival for 400 guests with a budget of EUR 24,000."


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Create the demo's plan, and return the id of its job."""
    created = await api.post("/api/plans", json={"workspace_id": workspace_id, "prompt": PROMPT})
    created.raise_for_status()
    return [created.json()["job_id"]]
