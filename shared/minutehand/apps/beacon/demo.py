"""The app's demo: measure the stack's own API from two regions, and sign what was measured.

The endpoint is on this machine, which only a development database allows (`seeds/beacon.sql`).
"""

from __future__ import annotations

import httpx


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Start a run of the demo's spec; answers its job's id."""
    spec = await api.post(
        "/api/beacon/specs",
        json={
            "workspace_id": workspace_id,
            "name": "This stack",
            "target": {"url": f"{str(api.base_url).rstrip('/')}/health"},
            "regions": ["eu-west-1", "us-east-1"],
            "samples": 40,
            "concurrency": 2,
            "thresholds": {"p95_ms": 2000, "error_rate": 0.05},
        },
    )
    spec.raise_for_status()
    run = await api.post(f"/api/beacon/specs/{spec.json()['id']}/runs")
    run.raise_for_status()
    return [run.json()["job_id"]]
