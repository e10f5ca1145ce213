"""Streams of a plan: complete from the first event, however late or often one connects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from minutehand.functions.jobs.app import build_app
from tests.integration.plans.conftest import Harness
from tests.support.harness import serving
from tests.support.project import Project


@asynccontextmanager
async def streaming(harness: Harness) -> AsyncIterator[httpx.AsyncClient]:
    """The API on a host that keeps streams open."""
    app = build_app(harness.settings.model_copy(update={"streaming": True}))
    async with (
        serving(app) as url,
        httpx.AsyncClient(
            base_url=f"{url}/api/plans", timeout=60, trust_env=False,
            limits=httpx.Limits(max_connections=200),
        ) as client,
    ):  # fmt: skip
        yield client


async def follow(
    client: httpx.AsyncClient,
    plan: dict[str, Any],
    *,
    after: int = 0,
    most: int | None = None,
    opened: asyncio.Semaphore | None = None,
) -> list[dict[str, Any]]:
    """What a stream brings until it ends, or until `most` events have come.

    Args:
        opened: Released when the stream is open.
    """
    headers = {"Accept": "text/event-stream", "X-Session-Id": plan["session_id"]}
    if after:
        headers["Last-Event-ID"] = str(after)
    events: list[dict[str, Any]] = []
    async with client.stream("GET", f"/{plan['plan_id']}/stream", headers=headers) as answer:
        if answer.status_code == 204:
            return events
        assert answer.status_code == 200
        if opened is not None:
            opened.release()
        async for line in answer.aiter_lines():
            # an event with a name would not come to `onmessage`
            assert not line.startswith("event:")
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if len(events) == most:
                    break
    return events


async def all_open(
    client: httpx.AsyncClient, plans: list[dict[str, Any]]
) -> list[asyncio.Task[list[dict[str, Any]]]]:
    """A reader for each plan, each with its stream open."""
    opened = asyncio.Semaphore(0)
    following = [asyncio.create_task(follow(client, plan, opened=opened)) for plan in plans]
    for _ in following:
        await asyncio.wait_for(opened.acquire(), 60)
    return following


def is_whole(events: list[dict[str, Any]], last: str) -> bool:
    """Whether events are numbered without a gap from the first to that last one."""
    numbers = [event["seq"] for event in events]
    return numbers == list(range(1, len(events) + 1)) and events[-1]["type"] == last


async def test_five_clients_and_a_late_one_see_the_same(harness: Harness) -> None:
    """Five from the beginning, one after the end: event by event."""
    plan = await harness.create(user=None)
    async with streaming(harness) as client:
        following = await all_open(client, [plan] * 5)
        await harness.ended(plan, user=None)
        seen = await asyncio.gather(*following)
        late = await follow(client, plan)
        after_the_end = await follow(client, plan, after=late[-1]["seq"])

    assert is_whole(late, "plan_completed")
    assert all(events == late for events in seen)
    assert after_the_end == []


async def test_a_client_that_drops_fifty_times_misses_nothing(harness: Harness) -> None:
    """`Last-Event-ID` goes on after the last one seen."""
    plan = await harness.create(user=None)
    seen: list[dict[str, Any]] = []
    async with streaming(harness) as client:
        running = asyncio.create_task(harness.ended(plan, user=None))
        for _ in range(50):
            after = seen[-1]["seq"] if seen else 0
            seen += await follow(client, plan, after=after, most=1)
        await running
        seen += await follow(client, plan, after=seen[-1]["seq"])
        whole = await follow(client, plan)

    assert is_whole(seen, "plan_completed")
    assert seen == whole


async def test_fifty_readers_get_the_deletion_and_no_more(harness: Harness) -> None:
    """Each stream ends with `plan_deleted`, numbered as its successor; then it is a 404."""
    plan = await harness.create(user=None)
    async with streaming(harness) as client:
        following = await all_open(client, [plan] * 50)
        deleted = await client.delete(f"/{plan['plan_id']}")
        seen = await asyncio.gather(*following)
        again = await client.delete(f"/{plan['plan_id']}")
        gone = await client.get(f"/{plan['plan_id']}/stream")

    assert (deleted.status_code, again.status_code, gone.status_code) == (204, 404, 404)
    assert all(is_whole(events, "plan_deleted") for events in seen)


async def test_plans_deleted_while_they_run_end_their_streams(harness: Harness) -> None:
    """Ten at moments of their own, watched all the time."""
    async with streaming(harness) as client:
        plans = [await harness.create(user=None) for _ in range(10)]
        following = await all_open(client, plans)
        ticking = asyncio.create_task(harness.worker.tick(budget_seconds=60))
        for number, plan in enumerate(plans):
            await asyncio.sleep(0.03 * (number % 4))
            answer = await client.delete(f"/{plan['plan_id']}")
            assert answer.status_code == 204
        seen = await asyncio.gather(*following)
        await ticking

    for events in seen:
        # a stream of a plan that was completed first has ended with that
        assert is_whole(events, "plan_deleted") or is_whole(events, "plan_completed")


@pytest.mark.parametrize("cursor", ["nonsense", "-1", "1.5"])
async def test_an_unknown_cursor_is_refused(harness: Harness, cursor: str) -> None:
    """By its name, and not with all events once more."""
    plan = await harness.create()

    answer = await harness.get(plan, "/stream", headers={"Last-Event-ID": cursor})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")


async def test_a_page_of_events_is_json(harness: Harness) -> None:
    """For those who poll: what followed on a number, and how the plan ended."""
    plan = await harness.create()
    await harness.ended(plan)

    headers = {"Accept": "application/json"}
    page = (await harness.get(plan, "/stream?after=3", headers=headers)).json()

    assert (page["events"][0]["seq"], page["more"], page["ended"]) == (4, False, "completed")


async def test_a_plan_is_ready_as_soon_as_its_creation_answered(
    project: Project, harness: Harness
) -> None:
    """As many at once as there are connections, asked right after; the soak asks for a thousand."""
    project.run_sql("select public.set_settings('{\"plan_guest_plans_per_minute\": 10000}')")

    async def one(number: int) -> bool:
        plan = await harness.create(f"Plant tree number {number}", user=None)
        answer = await harness.get(plan, "/stream-status", user=None)
        await harness.call("DELETE", f"/{plan['plan_id']}", user=None)
        return bool(answer.json() == {"status": "ready", "ready": True})

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(one(number)) for number in range(20)]

    assert all(task.result() for task in asked)
