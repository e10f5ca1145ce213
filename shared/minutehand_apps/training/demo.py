"""The app's demo. Uploads the console's sample video in parts, as a browser does."""

from __future__ import annotations

import hashlib

import httpx

SAMPLE = "/apps/training/sample.mp4"


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Upload the sample, which enqueues its jobs, and return their ids."""
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
    path = f"/api/uploads/{upload['id']}"
    pieces = {
        number: video[(number - 1) * upload["part_bytes"] : number * upload["part_bytes"]]
        for number in upload["missing"]
    }
    parts = [
        {"part_number": number, "checksum": hashlib.sha256(piece).hexdigest()}
        for number, piece in pieces.items()
    ]
    signed = (await api.post(f"{path}/parts", json={"parts": parts})).raise_for_status().json()
    async with httpx.AsyncClient(timeout=60) as storage:
        for part in signed["parts"]:
            sent = await storage.put(
                part["url"], content=pieces[part["part_number"]], headers=part["headers"]
            )
            sent.raise_for_status()
    checksum = {"checksum": hashlib.sha256(video).hexdigest()}
    done = (await api.post(f"{path}/complete", json=checksum)).raise_for_status().json()
    return [job["id"] for job in done["training"]["jobs"]]
