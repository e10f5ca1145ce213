"""The app's demo, which sends questions to the local providers in three regions."""

import asyncio
import uuid

import httpx

#: Maximum seconds until the next worker run has enqueued the queue's job.
PUBLISHED_WITHIN_SECONDS = 60.0


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Submit the demo's job spec, and return the id of the job in the queue that runs it."""
    first = "In which year did the first message cross the ARPANET?"
    spec = {
        "workspace_id": workspace_id,
        "jobspec_id": f"demo-{uuid.uuid4().hex[:12]}",
        "version": "1",
        "benchmark": {"name": "General knowledge", "description": "The local stack's demo"},
        "constraints": {"regions": ["us-east", "eu-west", "asia-pacific"], "min_regions": 2},
        "questions": [
            {"id": "history-1", "question": first, "category": "history"},
            "How many prime numbers are smaller than one hundred?",
            "Name one thing that no language model should be asked to decide.",
        ],
    }
    submitted = (await api.post("/api/v1/jobs", json=spec)).raise_for_status().json()
    async with asyncio.timeout(PUBLISHED_WITHIN_SECONDS):
        while True:
            job = (await api.get(f"/api/v1/jobs/{submitted['id']}")).raise_for_status().json()
            if job["queue_job_id"] is not None:
                return [str(job["queue_job_id"])]
            await asyncio.sleep(0.1)
