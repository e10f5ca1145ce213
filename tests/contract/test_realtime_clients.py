"""The official Realtime clients, unmodified: a private topic and rows, to their members alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from minutehand.local.users import ADA, EVE
from tests.e2e.console.worker import HandWorker
from tests.integration.realtime.support import JavaScript
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.stack
STATES = ["job.created", "job.leased", "job.completed"]


@pytest.fixture
async def js() -> AsyncIterator[JavaScript]:
    made = await JavaScript.start()
    yield made
    await made.stop()


async def follow(stack: RunningStack, topic: str, token: str) -> None:
    """Say that someone watches the topic, as our clients do and a channel joined by hand does."""
    async with httpx.AsyncClient(base_url=stack.supabase_url) as http:
        answer = await http.post(
            "/rest/v1/rpc/follow_topic",
            json={"p_topic": topic, "p_follower_id": str(uuid4())},
            headers=stack.headers(token),
        )
        answer.raise_for_status()


async def live(worker: HandWorker, session: str) -> None:
    await asyncio.to_thread(worker.enqueue, {"n": 1}, session_id=session)
    [lease] = await asyncio.to_thread(worker.lease)
    await asyncio.to_thread(worker.settle, lease, result={"done": True})


def kinds(heard: list[Any]) -> list[str]:
    told = []
    for message in heard:
        payload = message.get("payload", message)
        payload = payload.get("payload", payload) if "type" not in payload else payload
        told += [event["type"] for event in payload.get("events", [payload])]
    return told


async def test_the_javascript_client_hears_its_session_and_its_rows(
    stack: RunningStack, js: JavaScript
) -> None:
    """Broadcast on a private channel, Postgres Changes under row policies; a stranger none."""
    with HandWorker(stack, stack.demo_workspace_id) as worker:
        topic = f"session:s-{uuid4()}"
        await asyncio.to_thread(worker.enqueue, session_id=topic.removeprefix("session:"))
        await asyncio.to_thread(worker.lease)
        for name, email in (("ada", ADA.email), ("eve", EVE.email)):
            await js.call(
                "client",
                name=name,
                url=stack.supabase_url,
                key=stack.supabase_publishable_key,
                token=stack.sign_in(email),
            )
        on = [{"type": "broadcast", "event": "*"}]
        private = {"private": True}
        joined, refused = [
            await js.call("subscribe", client=who, channel=who, topic=topic, config=private, on=on)
            for who in ("ada", "eve")
        ]
        changes = [{"type": "postgres_changes", "event": "*", "schema": "public", "table": "jobs"}]
        for who in ("ada", "eve"):
            rows = {"client": who, "channel": f"{who}-rows", "topic": f"rows-{who}"}
            await js.call("subscribe", **rows, on=changes)
        assert joined["status"] == "SUBSCRIBED"
        assert refused["status"] == "CHANNEL_ERROR"
        await follow(stack, topic, stack.sign_in(ADA.email))
        await asyncio.sleep(0.5)  # replication begins a moment after the join

        await live(worker, topic.removeprefix("session:"))

        await js.until(lambda _: "job.completed" in kinds(js.got("ada")))
        assert kinds(js.got("ada")) == STATES
        assert js.got("eve") == []
        await js.receive("ada-rows", "postgres_changes", count=1)
        assert js.got("eve-rows", "postgres_changes") == []
