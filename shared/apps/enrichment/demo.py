"""What `make run` shows of this app: every account of the demo workspace is enriched."""

from __future__ import annotations

import httpx


async def enqueue(api: httpx.AsyncClient, data: httpx.AsyncClient, workspace_id: str) -> list[str]:
    """Enqueue one `enrich_account` per account the signed-in user sees; returns the jobs' ids.

    Raises:
        httpx.HTTPStatusError: The service refused; nothing more is enqueued.
    """
    accounts = await data.get(
        "/rest/v1/accounts",
        params={"workspace_id": f"eq.{workspace_id}", "select": "id", "order": "name", "limit": 20},
    )
    accounts.raise_for_status()
    ids: list[str] = []
    for account in accounts.json():
        answer = await api.post(
            "/api/jobs",
            json={
                "workspace_id": workspace_id,
                "job_type": "enrich_account",
                "payload": {"account_id": account["id"]},
            },
        )
        answer.raise_for_status()
        body = answer.json()
        ids.append((body.get("job") or body)["id"])
    return ids
