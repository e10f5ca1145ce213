"""A worker killed in the middle: the work goes on from there, and each message is posted once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from minutehand.apps.chat.models import Item, Posted, Written
from minutehand.config import Settings
from minutehand.queue.errors import LeaseLost
from tests.integration.chat.conftest import NOTES, Harness
from tests.support.functions import lease
from tests.support.killable import Killable
from tests.support.project import Project
from tests.unit.ai.model_server import Fault, ModelServer


@pytest.fixture
def killable(project: Project, settings: Settings) -> Iterator[Killable]:
    """Workers of this app that die."""
    with Killable(
        project,
        "chat",
        ENABLE_ASYNC_WORK="true",
        LANGUAGE_MODEL_URL=settings.language_model_url,
        LANGUAGE_MODEL_KEY=settings.language_model_key,
        LANGUAGE_MODEL=settings.language_model,
    ) as made:
        yield made


@pytest.mark.parametrize("stage", ["decide", "part_2", "text"])
async def test_a_killed_worker_costs_the_step_under_way(
    harness: Harness, server: ModelServer, killable: Killable, stage: str
) -> None:
    """SIGKILL in the middle of the model's answer; another worker finishes, and posts once."""
    server.faults[stage] = [Fault(hang_after=1)]
    conversation = await harness.begin()
    await harness.say(conversation, "Put these side by side.", mode="auto", documents=NOTES)
    killable.start()
    await asyncio.wait_for(server.reached.wait(), 90)
    killable.kill()

    state = await harness.settled(conversation, others_died=True)

    assert (state["done"], state["live"]) == (1, 0)
    said = [each["kind"] for each in await harness.messages(conversation)]
    assert said == ["message", "plan", "result"]
    assert dict(server.paid) == {"decide": 1, "scope": 1, "part_1": 1, "part_2": 1, "text": 1}


async def test_a_worker_that_dies_after_posting_has_posted(harness: Harness) -> None:
    """The next one finds the message there; the dead one's second try is refused."""
    conversation = await harness.begin()
    sent = await harness.say(conversation, "Hello")
    fence = lease(harness.project.database, sent["job_id"])["fence"]
    store = harness.chat.store
    first = await store.post(sent["job_id"], fence, Written(text="Good day"))
    again = await store.post(sent["job_id"], fence, Written(text="Good evening"))

    await harness.settled(conversation, others_died=True)

    assert again == first
    said = await harness.messages(conversation)
    assert [each["text"] for each in said] == ["Hello", "Good day"]
    assert harness.project.row(sent["job_id"])["result"] == {"message_id": str(first.message_id)}
    with pytest.raises(LeaseLost):
        await store.post(sent["job_id"], fence, Written(text="Good night"))


async def test_a_worker_that_dies_after_delegating_has_delegated(harness: Harness) -> None:
    """The work is begun once, said once, and done once."""
    conversation = await harness.begin()
    sent = await harness.say(conversation, "Compare.", mode="work", documents=NOTES)
    fence = lease(harness.project.database, sent["job_id"])["fence"]
    items = [Item(kind="compare", title=f"Item {n}", instruction="Compare.") for n in range(2)]
    said = Written(text="On it")
    first = await harness.chat.store.delegate(sent["job_id"], fence, items, said)
    again = await harness.chat.store.delegate(sent["job_id"], fence, items[:1], said)

    state = await harness.settled(conversation, others_died=True)

    assert again == first
    assert [item["work_item_id"] for item in state["work"]] == [str(e) for e in first.work_items]
    assert state["done"] == 2
    kinds = [each["kind"] for each in await harness.messages(conversation)]
    assert kinds == ["message", "plan", "result", "result"]


async def test_a_reply_stopped_as_it_is_posted_is_not_said(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker learns it from the function, before any heartbeat tells it; a retry answers."""
    conversation = await harness.begin()
    sent = await harness.say(conversation, "Hello")
    at = f"/{conversation}/work/{sent['job_id']}"
    post = harness.chat.store.post

    async def stopped_just_before(job_id: str, fence: int, written: Written) -> Posted:
        assert (await harness.call("POST", f"{at}/cancel")).status_code == 200
        return await post(job_id, fence, written)

    monkeypatch.setattr(harness.chat.store, "post", stopped_just_before)
    state = await harness.settled(conversation)
    [reply] = state["replies"]
    assert (reply["status"], state["messages"]) == ("cancelled", 1)

    monkeypatch.undo()
    assert (await harness.call("POST", f"{at}/retry")).status_code == 200
    await harness.settled(conversation)
    assert [each["kind"] for each in await harness.messages(conversation)] == ["message", "reply"]
    assert (await harness.call("POST", f"{at}/cancel")).status_code == 409


async def test_ever_dying_workers_leave_a_failure_that_may_be_tried_again(harness: Harness) -> None:
    """The conversation says so, and a click goes on."""
    conversation = await harness.begin()
    sent = await harness.say(conversation, "Hello")
    job_id = sent["job_id"]
    harness.project.run_sql("update public.jobs set max_attempts = 1 where id = %s", job_id)
    lease(harness.project.database, job_id)

    state = await harness.settled(conversation, others_died=True)

    [reply] = state["replies"]
    assert (reply["job_id"], reply["status"]) == (job_id, "failed")
    assert (await harness.call("POST", f"/{conversation}/work/{job_id}/retry")).status_code == 200
    await harness.settled(conversation)
    assert [e["kind"] for e in await harness.messages(conversation)] == ["message", "reply"]


async def test_views_are_what_a_frontend_reads(harness: Harness) -> None:
    """Through the Data API under the reader's own token: members alone, question and all."""
    conversation, item = await harness.asking()

    def read(user: str | None, view: str) -> list[dict[str, Any]]:
        claims = {"sub": user} if user else {}
        role = "authenticated" if user else "anon"
        with harness.project.database.as_role(role, claims) as connection:
            rows = connection.execute(
                f"select to_jsonb(v) from public.{view} as v where conversation_id = %s".encode(),
                (conversation,),
            ).fetchall()
        return [row[0] for row in rows]

    ada, eve = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000003"
    [row] = read(ada, "async_work_items")
    [state] = read(ada, "async_session_state")
    assert (row["session_id"], row["status"]) == (f"chat:{conversation}", "waiting_for_user")
    assert (row["question"], row["question_default"]) == ("For whom?", "The city")
    assert row["question_expires_at"] > row["created_at"]
    assert (state["live"], state["waiting"], state["answer_wanted"]) == (1, 1, True)
    assert state["last_activity_at"] >= state["last_message_at"]
    assert read(eve, "async_work_items") == read(eve, "async_session_state") == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        read(None, "async_work_items")
    await harness.call("POST", f"/{conversation}/work/{item['work_item_id']}/cancel")
    [ended] = read(ada, "async_work_items")
    assert (ended["status"], ended["question"]) == ("cancelled", None)
