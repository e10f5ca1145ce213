"""The app's demo: the console's sample video, uploaded in parts as a browser does.

Nineteen seconds of a voice that says what to do; heard offline unless told otherwise.
"""

from __future__ import annotations

import httpx

SAMPLE = "/apps/training/sample.mp4"


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Upload the sample and have it worked on; answers its job's id."""
    video = (await api.get(SAMPLE)).raise_for_status().content
    created = await api.post(
        "/api/uploads",
        json={
            "workspace_id": workspace_id,
            "filename": "changing-the-paper.mp4",
            "content_type": "video/mp4",
            "size_bytes": len(video),
        },
    )
    upload = created.raise_for_status().json()
    path = f"/api/uploads/{upload['id']}"
    numbers = {"part_numbers": upload["missing"]}
    signed = (await api.post(f"{path}/parts", json=numbers)).raise_for_status().json()
    async with httpx.AsyncClient(timeout=60) as storage:
        for part in signed["parts"]:
            start = (part["part_number"] - 1) * upload["part_bytes"]
            piece = video[start : start + part["size_bytes"]]
            (await storage.put(part["url"], content=piece)).raise_for_status()
    (await api.post(f"{path}/complete")).raise_for_status()
    started = await api.post(
        "/api/trainings",
        json={
            "workspace_id": workspace_id,
            "title": "Changing the paper",
            "object_key": upload["key"],
        },
    )
    return [started.raise_for_status().json()["job_id"]]
