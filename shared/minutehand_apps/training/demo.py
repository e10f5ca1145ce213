"""The app's demo, which uploads the console's sample video as a browser does."""

import hashlib

import httpx

SAMPLE = "/apps/training/sample.mp4"


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Upload the sample video, which enqueues its jobs, and return the ids of the jobs."""
    video = (await api.get(SAMPLE)).raise_for_status().content
    created = await api.post(
        "/api/uploads",
        json={
            "workspace_id": workspace_id,
            "filename": "changing-the-paper.mp4",
            "content_type": "video/mp4",
            "size": len(video),
        },
    )
    upload = created.raise_for_status().json()
    path, checksum = f"/api/uploads/{upload['id']}", hashlib.sha256(video).hexdigest()
    parts = {"parts": [{"part_number": 1, "checksum": checksum}]}  # the sample has one part
    signed = (await api.post(f"{path}/parts", json=parts)).raise_for_status().json()
    [part] = signed["parts"]
    async with httpx.AsyncClient(timeout=60) as storage:
        sent = await storage.put(part["url"], content=video, headers=part["headers"])
        sent.raise_for_status()
    completed = await api.post(f"{path}/complete", json={"checksum": checksum})
    done = completed.raise_for_status().json()
    return [job["id"] for job in done["training"]["jobs"]]
