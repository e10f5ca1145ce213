"""The app's demo: store a key, enrich every account and contact.

Goes through the same functions as a person in the console does, as a signed-in manager.
"""

from __future__ import annotations

import httpx

DEMO_KEY = "test-key-demo-0001"
#: Ids of the seeded accounts and contacts; what a person added is not touched.
SEEDED_ACCOUNTS = "ac000000-0000-4000-8000-{}"
SEEDED_CONTACTS = "cc000000-0000-4000-8000-{}"


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Enqueue the demo's jobs; answers their ids.

    Where someone saved a key of their own, nothing is enriched: that might cost them credits.
    """
    ids: list[str] = []
    if await _has_demo_key(api, workspace_id):
        for table, pattern in (("accounts", SEEDED_ACCOUNTS), ("contacts", SEEDED_CONTACTS)):
            for record in await _seeded(data, table, pattern):
                answer = await api.post(f"/api/{table}/{record}/enrich")
                answer.raise_for_status()
                ids.append(answer.json()["id"])
    return ids


async def _has_demo_key(api: httpx.AsyncClient, workspace_id: str) -> bool:
    """Whether the workspace uses the demo's key, which is stored where there is none."""
    path = f"/api/workspaces/{workspace_id}/settings"
    answer = await api.get(path)
    answer.raise_for_status()
    key = answer.json()["apollo_api_key"]
    if key["configured"] and key["last4"] != DEMO_KEY[-4:]:
        return False
    answer = await api.put(path, json={"apollo_api_key": DEMO_KEY})
    answer.raise_for_status()
    return True


async def _seeded(data: httpx.AsyncClient, table: str, pattern: str) -> list[str]:
    params: list[tuple[str, str | int | float | bool | None]] = [
        ("select", "id"),
        ("id", f"gte.{pattern.format('0' * 12)}"),
        ("id", f"lte.{pattern.format('f' * 12)}"),
        ("order", "id"),
    ]
    answer = await data.get(f"/rest/v1/{table}", params=params)
    answer.raise_for_status()
    return [row["id"] for row in answer.json()]
