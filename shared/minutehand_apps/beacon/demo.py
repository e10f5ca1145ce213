"""The app's demo: four questions put to the local providers in three regions, and signed."""

from __future__ import annotations

import asyncio
import uuid

import httpx

QUESTIONS = [
    {
        "id": "history-1",
        "question": "In which year did the first message cross the ARPANET?",
        "category": "history",
    },
    {
        "id": "science-1",
        "question": "Why is the sky blue during the day and red at sunset?",
        "category": "science",
    },
    {
        "id": "math-1",
        "question": "How many prime numbers are smaller than one hundred?",
        "category": "mathematics",
    },
    "Name one thing that no language model should be asked to decide.",
]
#: The queue's job appears when the outbox is published, by the next worker run.
PUBLISHED_WITHIN_SECONDS = 60.0


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Submit the demo's job spec; returns its job in the queue."""
    submitted = await api.post(
        "/api/v1/jobs",
        json={
            "workspace_id": workspace_id,
            "jobspec_id": f"demo-{uuid.uuid4().hex[:12]}",
            "version": "1",
            "benchmark": {"name": "General knowledge", "description": "The local stack's demo"},
            "constraints": {
                "regions": ["us-east", "eu-west", "asia-pacific"],
                "min_regions": 2,
                "timeout": 300,
            },
            "questions": QUESTIONS,
        },
    )
    submitted.raise_for_status()
    async with asyncio.timeout(PUBLISHED_WITHIN_SECONDS):
        while True:
            job = await api.get(f"/api/v1/jobs/{submitted.json()['id']}")
            job.raise_for_status()
            if job.json()["queue_job_id"] is not None:
                return [str(job.json()["queue_job_id"])]
            await asyncio.sleep(0.1)
