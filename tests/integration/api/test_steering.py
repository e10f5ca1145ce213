"""Pauses, schedules, webhooks, limits and retention over HTTP, as managers, members, strangers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from minutehand.local.users import ADA, BOB
from tests.e2e.console.worker import delete
from tests.integration.api.conftest import Hand, error_of, eventually
from tests.support.stacks import RunningStack


def refused(response: httpx.Response, status: int, code: str) -> None:
    """A refusal in the shape of every refusal."""
    assert (response.status_code, error_of(response)["code"]) == (status, code)


@pytest.fixture
def room(stack: RunningStack) -> Iterator[str]:
    """The path of a workspace of this test alone: Ada manages it, Bob is a member."""
    made = str(uuid.uuid4())
    with stack.connect() as connection:
        connection.execute(
            "insert into public.workspaces (id, name) values (%s, 'Steered')", (made,)
        )
        connection.execute(
            "insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%s, %s, 'manager'), (%s, %s, 'member')",
            (made, ADA.id, made, BOB.id),
        )
    yield f"/api/workspaces/{made}"
    delete(stack, "delete from public.workspaces where id = %s", made)


async def test_a_paused_workspace_starts_nothing_until_it_is_resumed(
    room: str, hand: Hand, ada: httpx.AsyncClient
) -> None:
    """The whole of it, or one type."""
    job = {"workspace_id": room.rpartition("/")[2], "job_type": hand.job_type}
    paused = await ada.post(f"{room}/pause", json={"reason": "maintenance"})
    assert paused.status_code == 200, paused.text
    assert (await ada.post("/api/jobs", json=job)).status_code == 201
    assert await hand.lease() == []

    resumed = await ada.post(f"{room}/resume", json={})
    assert resumed.json() == {
        "workspace_id": job["workspace_id"],
        "job_type": None,
        "paused": False,
    }
    await ada.post(f"{room}/pause", json={"job_type": hand.job_type})
    assert await hand.lease() == []
    await ada.post(f"{room}/resume", json={"job_type": hand.job_type})

    assert len(await eventually(hand.lease)) == 1


class Wakes:
    """A waker that only notes why it was asked."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def wake(self, *, reason: str = "enqueue") -> None:
        self.reasons.append(reason)


async def test_a_schedule_is_created_changed_previewed_and_deleted(
    room: str, hand: Hand, ada: httpx.AsyncClient
) -> None:
    """By its name, which may hold a slash; saving twice is one schedule."""
    path = f"{room}/schedules/reports%2Fnightly"
    body = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "job_type": hand.job_type}

    made = await ada.put(path, json=body)
    again = await ada.put(path, json={**body, "payload": {"n": 2}})
    listed = (await ada.get(f"{room}/schedules")).json()["schedules"]
    runs = await ada.get(f"{room}/next-runs", params={"schedule": "reports/nightly", "count": 3})
    tried = await ada.get(f"{room}/next-runs", params={"cron": "0 0 29 2 *"})
    zoned = {"cron": body["cron"], "timezone": body["timezone"]}
    assert (await ada.get(f"{room}/next-runs", params=zoned)).json()["runs"][:3] == runs.json()[
        "runs"
    ]
    deleted = await ada.delete(path)

    assert (made.status_code, again.status_code) == (201, 200)
    assert [(one["name"], one["payload"]) for one in listed] == [("reports/nightly", {"n": 2})]
    assert len(runs.json()["runs"]) == 3
    assert runs.json()["runs"][0] == listed[0]["next_at"]
    assert all("-02-29T" in run for run in tried.json()["runs"])
    assert deleted.status_code == 204
    refused(await ada.delete(path), 404, "schedule_not_found")


async def test_a_webhooks_secret_is_shown_when_it_is_made_and_when_it_is_rotated(
    room: str, ada: httpx.AsyncClient
) -> None:
    """And in no other answer."""
    made = await ada.post(f"{room}/webhooks", json={"url": "https://hooks.example/a"})
    path = made.headers["location"]
    changed = await ada.patch(path, json={"event_types": ["job.failed"], "description": "on fire"})
    rotated = await ada.post(f"{path}/rotate-secret")
    off = await ada.patch(path, json={"enabled": False, "event_types": None})
    shown = [await ada.get(path), await ada.get(f"{room}/webhooks"), changed, off]
    deliveries = await ada.get(f"{path}/deliveries")
    deleted = await ada.delete(path)

    assert made.status_code == 201, made.text
    secrets = {made.json()["secret"], rotated.json()["secret"]}
    assert len(secrets) == 2
    assert all(secret.startswith("whsec_") for secret in secrets)
    assert not any("whsec_" in answer.text for answer in shown)
    assert changed.json()["event_types"] == ["job.failed"]
    assert (off.json()["enabled"], off.json()["event_types"]) == (False, None)
    assert off.json()["description"] == "on fire"
    assert deliveries.json()["jobs"] == []
    assert deliveries.json()["next_cursor"] is None
    assert deleted.status_code == 204
    refused(await ada.get(path), 404, "webhook_not_found")


async def test_limits_are_read_by_members_and_set_by_managers(
    room: str, ada: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    """The numbers of the operations page."""
    changed = await ada.patch(f"{room}/limits", json={"own_max_running": 3})
    limits = (await bob.get(f"{room}/limits")).json()
    lifted = await ada.patch(f"{room}/limits", json={"own_max_running": None})

    assert changed.json() == limits
    assert (limits["own_max_running"], limits["running"]) == (3, 0)
    assert lifted.json()["own_max_running"] is None


SCHEDULE: dict[str, Any] = {
    "cron": "* * * * *",
    "job_type": "enrich_account",
    "payload": {"account_id": str(uuid.uuid4())},
}
WRITES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/pause", {}),
    ("POST", "/resume", {}),
    ("PUT", "/schedules/a", SCHEDULE),
    ("DELETE", "/schedules/a", None),
    ("POST", "/webhooks", {"url": "https://hooks.example/a"}),
    ("PATCH", f"/webhooks/{uuid.uuid4()}", {"enabled": False}),
    ("POST", f"/webhooks/{uuid.uuid4()}/rotate-secret", None),
    ("DELETE", f"/webhooks/{uuid.uuid4()}", None),
    ("PATCH", "/limits", {"own_max_running": 1}),
]
READS = ["/schedules", "/next-runs?cron=@daily", "/webhooks", "/limits"]
