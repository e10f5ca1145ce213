"""The app's demo, which stores an API key and enriches the accounts and contacts of the seed.

The demo calls the same routes as the console, as a manager who is signed in.
"""

import httpx

DEMO_KEY = "test-key-demo-0001"
#: Accounts and contacts of the seed. The demo enriches no other records.
SEEDED = (
    *(f"accounts/ac000000-0000-4000-8000-{number:012}" for number in range(1, 9)),
    *(f"contacts/cc000000-0000-4000-8000-{number:012}" for number in range(1, 3)),
)


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Enqueue the demo's jobs, and return their ids.

    If someone has stored another API key, nothing is enriched, because a call could cost credits.
    """
    ids: list[str] = []
    for record in SEEDED if await _has_demo_key(api, workspace_id) else ():
        answer = await api.post(f"/api/{record}/enrich")
        if answer.status_code != 404:  # someone may have deleted the record
            ids.append(answer.raise_for_status().json()["id"])
    return ids


async def _has_demo_key(api: httpx.AsyncClient, workspace_id: str) -> bool:
    """Return whether the workspace uses the demo's API key.

    If the workspace has no key, store the demo key.
    """
    path = f"/api/workspaces/{workspace_id}/settings"
    answer = await api.get(path)
    answer.raise_for_status()
    key = answer.json()["apollo_api_key"]
    if key["configured"] and key["last4"] != DEMO_KEY[-4:]:
        return False
    answer = await api.put(path, json={"apollo_api_key": DEMO_KEY})
    answer.raise_for_status()
    return True
