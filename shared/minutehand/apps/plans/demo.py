"""The app's demo: a small plan from a goal and a text, written by the offline model unless told.

It asks nothing back, so that it ends by itself.
"""

from __future__ import annotations

import httpx


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Start the demo's plan; answers its job's id."""
    started = await api.post(
        "/api/plans",
        json={
            "workspace_id": workspace_id,
            "goal": (
                "Move the harbour museum into the old customs house before the spring season,"
                " without closing the ship workshop for longer than a week."
            ),
            "constraints": ["The figureheads may only travel in their crates."],
            "documents": [
                {
                    "title": "Notes of the curator",
                    "text": (
                        "The customs house has a goods lift for two tonnes. The workshop needs"
                        " running water. The city pays for the move if the season opens in April."
                    ),
                }
            ],
            "ask": False,
            "max_phases": 3,
        },
    )
    started.raise_for_status()
    return [started.json()["job_id"]]
