"""A worker killed in the middle: the work goes on from there, and each message is posted once."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from minutehand.config import Settings
from minutehand.queue.errors import LeaseLost
from minutehand_apps.chat.models import Item, Posted, Written
from tests.integration.chat.conftest import EVE, NOTES, Harness
from tests.support.functions import lease
from tests.support.project import ADA
from tests.unit.ai.model_server import ModelServer


@pytest.mark.timeout(600)
async def test_workers_killed_in_each_stage_post_once_and_pay_once(
    harness: Harness, server: ModelServer, settings: Settings
) -> None:
    """Classified, planned, written and posted by as many workers as there are writes."""
    session = harness.begin()
    await harness.say(session, "Put these side by side.", mode="auto", documents=NOTES)

    async def ended() -> object:
        state = harness.look(session)
        return (state["done"], state["live"]) == (1, 0)

    deaths = await harness.survive(
        "chat",
        ended,
        WORKER_CONCURRENCY="1",  # what another job's end cut off would be paid twice, rightly
        ENABLE_ASYNC_WORK="true",
        LANGUAGE_MODEL_URL=settings.language_model_url,
        LANGUAGE_MODEL_KEY=settings.language_model_key,
        LANGUAGE_MODEL=settings.language_model,
    )

    assert [each["kind"] for each in harness.messages(session)] == ["message", "plan", "result"]
    assert dict(server.paid) == {"decide": 1, "scope": 1, "part_1": 1, "part_2": 1, "text": 1}
    assert len(deaths) >= len(server.paid), deaths


async def test_a_worker_that_dies_after_posting_has_posted(harness: Harness) -> None:
    """The next one finds the message there; the dead one's second try is refused."""
    session = harness.begin()
    sent = harness.job_of(await harness.say(session, "Hello"))
    fence = lease(harness.project.database, sent)["fence"]
    store = harness.chat.store
    first = await store.post(sent, fence, Written(text="Good day"))
    again = await store.post(sent, fence, Written(text="Good evening"))

    await harness.settled(session, others_died=True)

    assert again == first
    said = harness.messages(session)
    assert [each["text"] for each in said] == ["Hello", "Good day"]
    assert harness.project.row(sent)["result"] == {"message_id": str(first.message_id)}
    with pytest.raises(LeaseLost):
        await store.post(sent, fence, Written(text="Good night"))


async def test_a_worker_that_dies_after_delegating_has_delegated(harness: Harness) -> None:
    """The work is begun once, said once, and done once."""
    session = harness.begin()
    sent = harness.job_of(await harness.say(session, "Compare.", mode="work", documents=NOTES))
    fence = lease(harness.project.database, sent)["fence"]
    items = [Item(kind="compare", title=f"Item {n}", instruction="Compare.") for n in range(2)]
    said = Written(text="On it")
    first = await harness.chat.store.delegate(sent, fence, items, said)
    again = await harness.chat.store.delegate(sent, fence, items[:1], said)

    state = await harness.settled(session, others_died=True)

    assert again == first
    assert [item["job_id"] for item in state["work"]] == [str(e) for e in first.work_items]
    assert state["done"] == 2
    kinds = [each["kind"] for each in harness.messages(session)]
    assert kinds == ["message", "plan", "result", "result"]


async def test_a_reply_stopped_as_it_is_posted_is_not_said(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker learns it from the function, before any heartbeat tells it; a retry answers."""
    session = harness.begin()
    sent = await harness.say(session, "Hello")
    post = harness.chat.store.post

    async def stopped_just_before(job_id: str, fence: int, written: Written) -> Posted:
        assert (await harness.cancel(ADA, workId=sent)).status_code == 200
        return await post(job_id, fence, written)

    monkeypatch.setattr(harness.chat.store, "post", stopped_just_before)
    state = await harness.settled(session)
    assert state["messages"] == 1

    monkeypatch.undo()
    assert await harness.retry(harness.job_of(sent)) == 200
    await harness.settled(session)
    assert [each["kind"] for each in harness.messages(session)] == ["message", "reply"]
    assert (await harness.cancel(ADA, workId=sent)).status_code == 409


async def test_ever_dying_workers_leave_a_failure_that_may_be_tried_again(harness: Harness) -> None:
    """The conversation says so, and a click goes on."""
    session = harness.begin()
    sent = await harness.say(session, "Hello")
    job_id = harness.job_of(sent)
    harness.project.run_sql("update public.jobs set max_attempts = 1 where id = %s", job_id)
    lease(harness.project.database, job_id)

    await harness.settled(session, others_died=True)

    [reply] = (await harness.status(session, ADA))["replies"]
    assert (reply["messageId"], reply["status"]) == (sent, "failed")
    assert await harness.retry(job_id) == 200
    await harness.settled(session)
    assert [e["kind"] for e in harness.messages(session)] == ["message", "reply"]


async def test_views_are_what_a_frontend_reads(harness: Harness) -> None:
    """Through the Data API under the reader's own token: members alone, question and all."""
    session, item = await harness.asking()

    def read(user: str | None, view: str) -> list[dict[str, Any]]:
        claims = {"sub": user} if user else {}
        role = "authenticated" if user else "anon"
        with harness.project.database.as_role(role, claims) as connection:
            rows = connection.execute(
                f"select to_jsonb(v) from public.{view} as v where session_id = %s".encode(),
                (session,),
            ).fetchall()
        return [row[0] for row in rows]

    [row] = read(ADA, "async_work_items")
    [state] = read(ADA, "async_session_state")
    assert (row["session_id"], row["status"]) == (session, "waiting_for_user")
    assert (row["question"], row["question_default"]) == ("For whom?", "The city")
    assert row["question_expires_at"] > row["created_at"]
    assert (state["live"], state["waiting"], state["answer_wanted"]) == (1, 1, True)
    assert state["last_activity_at"] >= state["last_message_at"]
    assert read(EVE, "async_work_items") == read(EVE, "async_session_state") == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        read(None, "async_work_items")
    await harness.cancel(ADA, workId=item["id"])
    [ended] = read(ADA, "async_work_items")
    assert (ended["status"], ended["question"]) == ("cancelled", None)
