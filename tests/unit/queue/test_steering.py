"""What a workspace's people steer: what each call asks for, and which may be asked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from minutehand.queue.client import JOB_COLUMNS, UserQueue
from minutehand.queue.errors import QueueError
from minutehand.queue.models import Cursor
from minutehand.queue.steering import WEBHOOK_DELIVERY, WorkspaceSteering

AT = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
WEBHOOK = {"id": "h", "workspace_id": "w", "url": "https://x.test", "created_at": AT}
SCHEDULE = {
    "id": "s", "workspace_id": "w", "name": "n", "cron": "* * * * *", "timezone": "UTC",
    "job_type": "t", "created_at": AT, "updated_at": AT,
}  # fmt: skip
ALERT = {
    "id": "a", "workspace_id": "w", "name": "n", "metric": "failure_share", "threshold": 0.1,
    "minutes": 5, "created_at": AT,
}  # fmt: skip
LIMITS = {"workspace_id": "w", "weight": 1, "running": 0}
ANSWERS: Mapping[str, Any] = {
    "list_schedules": {"schedules": [SCHEDULE]},
    "put_schedule": SCHEDULE,
    "next_runs": {"cron": "* * * * *", "timezone": "UTC", "runs": [AT]},
    "list_webhooks": {"webhooks": [{**WEBHOOK, "id": "other"}, WEBHOOK]},
    "put_webhook": WEBHOOK,
    "list_alerts": {"alerts": [ALERT]},
    "put_alert": ALERT,
    "workspace_limits": LIMITS,
    "workspace_retention": {
        "workspace_id": "w", "days": {"completed": 1, "cancelled": 2, "failed": 3}
    },
}  # fmt: skip
JOBS = [
    {
        "id": f"019a9f10-7e2c-7d31-9c52-0d6d5f5b7c1{each}", "workspace_id": "w",
        "job_type": WEBHOOK_DELIVERY, "status": "completed", "created_at": AT,
    }
    for each in range(3)
]  # fmt: skip


class Wire:
    """Keeps what is asked, and answers as the functions do."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], bool]] = []
        self.reads: list[tuple[str, Sequence[tuple[str, str]]]] = []

    async def rpc(
        self,
        function: str,
        arguments: Mapping[str, Any],
        *,
        headers: Mapping[str, str],
        repeatable: bool,
    ) -> Any:
        self.calls.append((function, dict(arguments), repeatable))
        return ANSWERS.get(function)

    async def select(
        self, table: str, params: Sequence[tuple[str, str]], *, headers: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        self.reads.append((table, params))
        return JOBS


def steering(wire: Wire) -> WorkspaceSteering:
    return WorkspaceSteering(UserQueue(wire, {"apikey": "k"}), "w")


@pytest.mark.parametrize(
    ("call", "function", "arguments", "repeatable"),
    [
        (lambda s: s.schedules(), "list_schedules", {}, True),
        (lambda s: s.put_schedule({"name": "n"}), "put_schedule",
         {"p_schedule": {"name": "n"}}, True),
        (lambda s: s.delete_schedule("n"), "delete_schedule", {"p_name": "n"}, False),
        (lambda s: s.next_runs({"name": "n"}), "next_runs",
         {"p_schedule": {"name": "n"}, "p_count": 5}, True),
        (lambda s: s.next_runs({"name": "n"}, count=9), "next_runs",
         {"p_schedule": {"name": "n"}, "p_count": 9}, True),
        (lambda s: s.webhooks(), "list_webhooks", {}, True),
        (lambda s: s.get_webhook("h"), "list_webhooks", {}, True),
        (lambda s: s.create_webhook({"url": "u"}), "put_webhook",
         {"p_webhook": {"url": "u"}}, False),
        (lambda s: s.change_webhook("h", {"url": "u", "id": "other"}), "put_webhook",
         {"p_webhook": {"url": "u", "id": "h"}}, True),
        (lambda s: s.rotate_secret("h", "sealed"), "put_webhook",
         {"p_webhook": {"id": "h", "sealed_secret": "sealed"}}, False),
        (lambda s: s.delete_webhook("h"), "delete_webhook", {"p_webhook_id": "h"}, False),
        (lambda s: s.alerts(), "list_alerts", {}, True),
        (lambda s: s.put_alert({"name": "n"}), "put_alert", {"p_alert": {"name": "n"}}, True),
        (lambda s: s.delete_alert("n"), "delete_alert", {"p_name": "n"}, False),
        (lambda s: s.limits(), "workspace_limits", {}, True),
        (lambda s: s.retention(), "workspace_retention", {}, True),
    ],
)  # fmt: skip
async def test_each_call_names_its_workspace_and_what_was_given(
    call: Callable[[WorkspaceSteering], Any],
    function: str,
    arguments: dict[str, Any],
    repeatable: bool,
) -> None:
    """What would happen twice, or be refused the second time, is not asked for again."""
    wire = Wire()

    answer = await call(steering(wire))

    assert wire.calls == [(function, {"p_workspace_id": "w", **arguments}, repeatable)]
    assert (answer is None) is function.startswith("delete_")


@pytest.mark.parametrize(
    ("job_type", "kind", "name"), [(None, "workspace", "w"), ("t", "workspace_type", "t")]
)
async def test_a_workspace_is_paused_whole_or_by_type(
    job_type: str | None, kind: str, name: str
) -> None:
    wire = Wire()

    pause = await steering(wire).pause(True, job_type=job_type, reason="why")

    request = {
        "kind": kind, "name": name, "workspace_id": "w", "paused": True, "reason": "why"
    }  # fmt: skip
    assert wire.calls == [("pause_jobs", {"p_request": request}, True)]
    assert (pause.workspace_id, pause.job_type, pause.paused) == ("w", job_type, True)


async def test_limits_are_read_again_after_a_change() -> None:
    """The answer says what is in force, and not only what was asked for."""
    wire = Wire()

    limits = await steering(wire).set_limits({"weight": 2})

    assert limits.weight == 1
    assert wire.calls[0][:2] == (
        "set_workspace_limits", {"p_workspace_id": "w", "p_limits": {"weight": 2}}
    )  # fmt: skip


async def test_lists_hold_what_was_found() -> None:
    found = steering(Wire())

    assert [each.id for each in await found.schedules()] == ["s"]
    assert [each.id for each in await found.webhooks()] == ["other", "h"]
    assert (await found.get_webhook("h")).id == "h"
    assert [each.id for each in (await found.alerts()).alerts] == ["a"]


async def test_a_webhook_that_is_not_the_workspaces_is_not_found() -> None:
    """Nor are its deliveries read."""
    wire = Wire()

    for call in (steering(wire).get_webhook, steering(wire).deliveries):
        with pytest.raises(QueueError) as raised:
            await call("none")
        assert (raised.value.word, raised.value.status) == ("webhook_not_found", 404)
    assert wire.reads == []


async def test_deliveries_are_read_newest_first_page_by_page() -> None:
    """A page ends with the place of its last; the next begins after it, in one instant too."""
    wire = Wire()

    first = await steering(wire).deliveries("h", limit=2)
    whole = await steering(wire).deliveries("h", cursor=first.next_cursor, limit=3)

    at = Cursor(created_at=JOBS[1]["created_at"], id=JOBS[1]["id"])
    assert [job.id for job in first.jobs] == [job["id"] for job in JOBS[:2]]
    assert first.next_cursor == at.encode()
    assert (len(whole.jobs), whole.next_cursor) == (3, None)
    (table, params), (_, after) = wire.reads
    assert (table, params) == (
        "jobs",
        [
            ("select", JOB_COLUMNS), ("workspace_id", "eq.w"),
            ("job_type", "eq.webhook_delivery"), ("concurrency_key", "eq.h"),
            ("order", "created_at.desc,id.desc"), ("limit", "3"),
        ],
    )  # fmt: skip
    same = f'and(created_at.eq."{at.created_at}",id.lt.{at.id})'
    assert after[-1] == ("or", f'(created_at.lt."{at.created_at}",{same})')
    await steering(wire).deliveries("h")
    assert wire.reads[-1][1][-1] == ("limit", "51")
