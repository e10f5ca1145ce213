"""The app's demo: store a key, enrich every account and contact, import a short list.

Goes through the same doors as a person in the console does, as a signed-in manager.
"""

from __future__ import annotations

import httpx

DEMO_KEY = "test-key-demo-0001"
DEMO_LIST = (
    "name,domain,industry,employee_count\n"
    "Tyrell,tyrell.example,Robotics,1200\n"
    "Weyland-Yutani,weyland.example,Mining,85000\n"
    "Massive Dynamic,massive.example,,\n"
)


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Enqueue the demo's jobs; answers their ids."""
    settings = await api.put(
        f"/api/workspaces/{workspace_id}/settings", json={"apollo_api_key": DEMO_KEY}
    )
    settings.raise_for_status()
    selection = await api.post(
        "/api/accounts/enrich", json={"workspace_id": workspace_id, "filter": {}}
    )
    selection.raise_for_status()
    ids = [made["job"]["id"] for made in selection.json()["jobs"]]
    contacts = await data.get(
        "/rest/v1/contacts", params={"workspace_id": f"eq.{workspace_id}", "select": "id"}
    )
    contacts.raise_for_status()
    for contact in contacts.json():
        answer = await api.post(f"/api/contacts/{contact['id']}/enrich")
        answer.raise_for_status()
        ids.append(answer.json()["id"])
    imported = await api.post(
        "/api/accounts/import",
        data={"workspace_id": workspace_id},
        files={"file": ("demo.csv", DEMO_LIST.encode(), "text/csv")},
    )
    imported.raise_for_status()
    return [*ids, imported.json()["job"]["id"]]
