"""The app's demo. Stores a key and enriches every account and contact.

It calls the same functions as the console, as a signed-in manager.
"""

from __future__ import annotations

import httpx

DEMO_KEY = "test-key-demo-0001"
#: Ids of the seeded accounts and contacts. Other records are not enriched.
SEEDED_ACCOUNTS = "ac000000-0000-4000-8000-{}"
SEEDED_CONTACTS = "cc000000-0000-4000-8000-{}"


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Enqueue the demo's jobs and return their ids.

    If someone saved another key, nothing is enriched, because that could cost credits.
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
    """Return whether the workspace uses the demo's key. Stores the key if there is none."""
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
