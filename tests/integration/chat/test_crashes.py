"""A worker killed in the middle: the work goes on from there, and each message is posted once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from infra.local.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY
from shared.apps.chat.models import Item, Written
from shared.config import Settings
from shared.queue.errors import LeaseLost
from tests.integration.chat.conftest import NOTES, Desk
from tests.unit.ai.model_server import KEY, Fault, ModelServer

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process; killed at the end, if not before."""
    environment = {
        "SUPABASE_URL": settings.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "LANGUAGE_MODEL_URL": settings.language_model_url or "",
        "LANGUAGE_MODEL_KEY": KEY,
        "LANGUAGE_MODEL": "test-model",
        "STAGE": "local",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.chat.worker_process"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("stage", ["decide", "part_2", "text"])
async def test_a_killed_worker_costs_the_step_under_way(
    desk: Desk, server: ModelServer, settings: Settings, stage: str
) -> None:
    """SIGKILL in the middle of the model's answer; another worker finishes, and posts once."""
    server.faults[stage] = [Fault(hang_after=1)]
    conversation = await desk.begin()
    await desk.say(conversation, "Put these side by side.", mode="auto", documents=NOTES)
    with worker(settings) as process:
        await asyncio.wait_for(server.reached.wait(), 90)
        process.kill()
        process.wait(10)

    state = await desk.settled(conversation, others_died=True)

    assert (state["done"], state["live"]) == (1, 0)
    said = [each["kind"] for each in await desk.messages(conversation)]
    assert said == ["message", "plan", "result"]
    assert dict(server.paid) == {"decide": 1, "scope": 1, "part_1": 1, "part_2": 1, "text": 1}


def lease(desk: Desk, job_id: str) -> int:
    """Take a job's lease, as a worker would; answers the fence."""
    request = {"worker_id": "w", "call": 1, "limit": 100, "tick_id": str(uuid.uuid4())}
    with desk.project.database.connect() as connection:
        row = connection.execute("select public.lease_jobs(%s)", (Jsonb(request),)).fetchone()
    assert row is not None
    [fence] = [each["fence"] for each in row[0]["leases"] if each["job"]["id"] == job_id]
    return int(fence)


async def test_a_worker_that_dies_after_posting_has_posted(desk: Desk) -> None:
    """The next one finds the message there; the dead one's second try is refused."""
    conversation = await desk.begin()
    sent = await desk.say(conversation, "Hello")
    fence = lease(desk, sent["job_id"])
    store = desk.chat.store
    first = await store.post(sent["job_id"], fence, Written(text="Good day"))
    again = await store.post(sent["job_id"], fence, Written(text="Good evening"))

    await desk.settled(conversation, others_died=True)

    assert again == first
    said = await desk.messages(conversation)
    assert [each["text"] for each in said] == ["Hello", "Good day"]
    assert desk.project.row(sent["job_id"])["result"] == {"message_id": str(first.message_id)}
    with pytest.raises(LeaseLost):
        await store.post(sent["job_id"], fence, Written(text="Good night"))


async def test_a_worker_that_dies_after_delegating_has_delegated(desk: Desk) -> None:
    """The work is begun once, said once, and done once."""
    conversation = await desk.begin()
    sent = await desk.say(conversation, "Compare.", mode="work", documents=NOTES)
    fence = lease(desk, sent["job_id"])
    items = [Item(kind="compare", title=f"Item {n}", instruction="Compare.") for n in range(2)]
    said = Written(text="On it")
    first = await desk.chat.store.delegate(sent["job_id"], fence, items, said)
    again = await desk.chat.store.delegate(sent["job_id"], fence, items[:1], said)

    state = await desk.settled(conversation, others_died=True)

    assert again == first
    assert [item["work_item_id"] for item in state["work"]] == [str(e) for e in first.work_items]
    assert state["done"] == 2
    kinds = [each["kind"] for each in await desk.messages(conversation)]
    assert kinds == ["message", "plan", "result", "result"]


async def test_ever_dying_workers_leave_a_failure_that_may_be_tried_again(desk: Desk) -> None:
    """The conversation says so, and a click goes on."""
    conversation = await desk.begin()
    sent = await desk.say(conversation, "Hello")
    job_id = sent["job_id"]
    desk.project.run_sql("update public.jobs set max_attempts = 1 where id = %s", job_id)
    lease(desk, job_id)

    state = await desk.settled(conversation, others_died=True)

    [reply] = state["replies"]
    assert (reply["job_id"], reply["status"]) == (job_id, "failed")
    assert (await desk.call("POST", f"/{conversation}/work/{job_id}/retry")).status_code == 200
    await desk.settled(conversation)
    assert [e["kind"] for e in await desk.messages(conversation)] == ["message", "reply"]


async def test_views_are_what_a_frontend_reads(desk: Desk) -> None:
    """Through the Data API under the reader's own token: members alone, question and all."""
    conversation, item = await desk.asking()

    def read(user: str | None, view: str) -> list[dict[str, Any]]:
        claims = {"sub": user} if user else {}
        role = "authenticated" if user else "anon"
        with desk.project.database.as_role(role, claims) as connection:
            rows = connection.execute(
                f"select to_jsonb(v) from public.{view} as v where conversation_id = %s".encode(),
                (conversation,),
            ).fetchall()
        return [row[0] for row in rows]

    ada, eve = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000003"
    [row] = read(ada, "async_work_items")
    [state] = read(ada, "async_session_state")
    assert (row["session_id"], row["status"]) == (f"chat:{conversation}", "waiting")
    assert (row["question"], row["question_default"]) == ("For whom?", "Go on without")
    assert row["question_expires_at"] > row["created_at"]
    assert (state["live"], state["waiting"], state["answer_wanted"]) == (1, 1, True)
    assert state["last_activity_at"] >= state["last_message_at"]
    assert read(eve, "async_work_items") == read(eve, "async_session_state") == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        read(None, "async_work_items")
    await desk.call("POST", f"/{conversation}/work/{item['work_item_id']}/cancel")
    [ended] = read(ada, "async_work_items")
    assert (ended["status"], ended["question"]) == ("cancelled", None)
