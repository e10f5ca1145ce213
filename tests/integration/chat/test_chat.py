"""From a message to its reply, and from a complex one to background work and its result."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from minutehand.apps.chat.feed import ConversationFeed
from minutehand.apps.chat.models import Conversation
from minutehand.config import Settings
from minutehand.queue.client import QueueClient
from minutehand.queue.errors import QueueError
from minutehand.web.shared_reads import SharedReads
from tests.integration.chat.conftest import BOB, EVE, NOTES, Harness
from tests.support.project import ACME, ADA, Project
from tests.unit.ai.model_server import Fault, ModelServer


async def test_a_message_is_answered(harness: Harness, server: ModelServer) -> None:
    """Once, by a job of its own; its text streamed as progress, usage and cost counted."""
    server.faults["text"] = [Fault(said="The roof is being mended; it will take a week. " * 3)]
    conversation = await harness.begin()
    sent = await harness.say(conversation, "What about the roof?", client_id="one")

    state = await harness.settled(conversation)

    asked, reply = await harness.messages(conversation)
    assert (asked["text"], asked["kind"], asked["job_id"]) == (
        "What about the roof?", "message", sent["job_id"],
    )  # fmt: skip
    assert (reply["author"], reply["kind"], reply["job_id"]) == (
        "assistant", "reply", sent["job_id"],
    )  # fmt: skip
    assert reply["text"].startswith("The roof is being mended")
    assert (reply["model"], reply["offline"], reply["input_tokens"]) == ("test-model", False, 100)
    assert reply["cost_usd"] == pytest.approx((100 * 1 + 50 * 2) / 1e6)
    assert (state["title"], state["messages"], state["replies"]) == ("What about the roof?", 2, [])
    told = harness.project.rows(
        "select data -> 'progress' as p from public.job_events"
        " where session_id = %s and type = 'job.progress'",
        f"chat:{conversation}",
    )
    live = [row["p"] for row in told if row["p"]["stage"].startswith("text:")]
    assert live[-1]["stage"] == "text:0"
    assert live[-1]["message"].startswith("The roof is being mended")
    job = harness.project.row(sent["job_id"])
    assert (job["status"], job["result"]) == ("completed", {"message_id": reply["id"]})


async def test_replies_know_what_was_said_before(harness: Harness, server: ModelServer) -> None:
    """Two messages at once get a reply each, in order, the second with the first in mind."""
    conversation = await harness.begin()
    server.faults["text"] = [Fault(said="Nine tonnes."), Fault(said="Yes, nine.")]
    await harness.say(conversation, "What does the lift carry?", documents=NOTES[:1])
    await harness.say(conversation, "Are you sure?")

    await harness.settled(conversation)

    said = [each["text"] for each in await harness.messages(conversation)]
    assert said == [
        "What does the lift carry?", "Are you sure?", "Nine tonnes.", "Yes, nine.",
    ]  # fmt: skip
    [first, second] = [seen.body["messages"][1]["content"] for seen in server.seen]
    assert "Are you sure?" not in first
    for known in ("What does the lift carry?", "Nine tonnes.", "The lift carries two tonnes."):
        assert known in second


async def test_a_complex_message_becomes_background_work(
    harness: Harness, server: ModelServer
) -> None:
    """The model decides; a plan is said, steps are done, the result is posted once."""
    conversation = await harness.begin()
    server.faults["text"] = [Fault(said="Both speak of the lift.")]
    await harness.say(conversation, "Put these side by side.", mode="auto", documents=NOTES)

    state = await harness.settled(conversation)

    [item] = state["work"]
    assert (item["title"], item["kind"], item["status"]) == ("Two notes", "compare", "completed")
    asked, plan, result = await harness.messages(conversation)
    assert asked["documents"] == [
        {"title": "Ada's notes", "characters": 44}, {"title": "Bob's notes", "characters": 40},
    ]  # fmt: skip
    assert (plan["kind"], plan["data"]) == (
        "plan", {"tier": "async", "work_items": [item["work_item_id"]]},
    )  # fmt: skip
    assert "Two notes" in plan["text"]
    assert (result["kind"], result["text"]) == ("result", "Both speak of the lift.")
    assert result["id"] == item["result_message_id"]
    assert result["data"]["parts"] == [
        {"title": "Ada's notes", "text": "Two tonnes."},
        {"title": "Bob's notes", "text": "Out of order."},
    ]
    assert result["input_tokens"] == 4 * 100
    assert dict(server.paid) == {"decide": 1, "scope": 1, "part_1": 1, "part_2": 1, "text": 1}
    job = harness.project.row(item["work_item_id"])
    assert str(job["parent_id"]) == plan["job_id"]
    assert job["payload"].keys() == {"conversation_id", "message_id"}


async def test_a_simple_message_needs_no_work(harness: Harness, server: ModelServer) -> None:
    """What the model decides; one that cannot decide leaves it to the words."""
    server.answers["decide"] = {"needs_work": False, "items": []}
    simple = await harness.begin()
    await harness.say(simple, "Good morning", mode="auto")
    await harness.settled(simple)
    server.faults["decide"] = [Fault(said="Well,")] * 2
    undecided = await harness.begin()
    await harness.say(undecided, "Summarise this, please.", mode="auto", documents=NOTES[:1])
    await harness.settled(undecided)

    assert [each["kind"] for each in await harness.messages(simple)] == ["message", "reply"]
    assert [each["kind"] for each in await harness.messages(undecided)] == [
        "message", "plan", "result",
    ]  # fmt: skip


async def test_offline_it_says_so(project: Project, rules: Settings) -> None:
    """Without an address the offline model answers and works, by rules and extraction."""
    async with Harness(project, rules).open() as harness:
        conversation = await harness.begin()
        await harness.say(conversation, "The harbour is quiet today.", mode="auto")
        text = "Summarise the notes, then draft a letter to the city."
        await harness.say(
            conversation, text, mode="auto", documents=NOTES, ask=True, ask_seconds=60
        )
        state = await harness.settled(conversation)
        assert [item["kind"] for item in state["work"]] == ["summarise", "draft"]
        # how to summarise is no question; how formal to write is one
        assert [item["status"] for item in state["work"]] == ["completed", "waiting"]
        for item in state["work"][1:]:
            assert item["question_default"] == "Formal"
            answered = await harness.call(
                "POST",
                f"/{conversation}/work/{item['work_item_id']}/answer",
                json={"answer": item["question_options"][0], "name": item["question_name"]},
            )
            assert answered.status_code == 200, answered.text
        await harness.settled(conversation)
        said = await harness.messages(conversation)

    kinds = [each["kind"] for each in said]
    assert sorted(kinds) == sorted(
        ["message", "message", "reply", "plan", "result", "answer", "result"]
    )
    for each in said:
        if each["kind"] in {"reply", "result"}:
            assert each["offline"]
            assert "no language model" in each["model"]
    reply = next(each for each in said if each["kind"] == "reply")
    assert "LANGUAGE_MODEL_URL" in reply["text"]
    result = next(each for each in said if each["kind"] == "result")
    assert "two tonnes" in result["data"]["parts"][0]["text"]


async def test_several_items_work_while_the_chat_goes_on(
    harness: Harness, server: ModelServer
) -> None:
    """A reply comes while others ask; each result comes to the same conversation."""
    conversation, item = await harness.asking()
    await harness.say(conversation, "Compare them again.", mode="work", ask=True, documents=NOTES)
    await harness.say(conversation, "And how are you?")

    state = await harness.settled(conversation)

    assert (state["live"], state["waiting"]) == (2, 2)
    said = await harness.messages(conversation)
    assert [each["kind"] for each in said if each["author"] == "assistant"].count("reply") == 1
    for each in state["work"]:
        await answer(harness, conversation, each, "The city")
    state = await harness.settled(conversation)
    assert (state["done"], state["live"], state["answer_wanted"]) == (2, 0, False)
    results = [each for each in await harness.messages(conversation) if each["kind"] == "result"]
    assert {each["job_id"] for each in results} == {w["work_item_id"] for w in state["work"]}
    assert item["work_item_id"] in {each["job_id"] for each in results}


async def answer(harness: Harness, conversation: str, item: dict[str, Any], text: str) -> int:
    """Answer an item's question; returns the status."""
    answered = await harness.call(
        "POST",
        f"/{conversation}/work/{item['work_item_id']}/answer",
        json={"answer": text, "name": item["question_name"]},
    )
    return answered.status_code


async def test_the_first_answer_wins(harness: Harness, server: ModelServer) -> None:
    """Of two at the same moment; it is a message, and the model reads it."""
    conversation, item = await harness.asking()
    assert (item["status"], item["question"]) == ("waiting", "For whom?")
    assert item["question_options"] == ["The city", "The museum"]
    raced = await asyncio.gather(
        *(answer(harness, conversation, item, text) for text in ("The city", "Somebody else"))
    )

    assert sorted(raced) == [200, 409]
    winner = ("The city", "Somebody else")[raced.index(200)]
    await harness.settled(conversation)
    assert await answer(harness, conversation, item, "The city") == 409
    said = await harness.messages(conversation)
    [answered] = [each for each in said if each["kind"] == "answer"]
    assert (answered["text"], answered["data"]) == (winner, {"question": "For whom?"})
    parts = [seen.body["messages"][1]["content"] for seen in server.seen if "part" in seen.name]
    assert all(f"For whom? {winner}" in each for each in parts)
    [result] = [each for each in said if each["kind"] == "result"]
    assert result["data"]["answer"] == winner


async def test_a_question_nobody_answers_takes_its_default(harness: Harness) -> None:
    """After its time, an answer is too late, also before the work has gone on."""
    conversation, item = await harness.asking(ask_seconds=60)
    harness.project.run_sql(
        "update public.job_events set data = jsonb_set(data, '{wait,until}',"
        " to_jsonb(queue.clock() - interval '1 second')) where job_id = %s"
        " and type = 'job.waiting'",
        item["work_item_id"],
    )
    assert await answer(harness, conversation, item, "The city") == 409
    harness.project.run_sql(
        "update queue.waits set timeout_at = queue.clock() - interval '1 second' where job_id = %s",
        item["work_item_id"],
    )

    state = await harness.settled(conversation)

    assert state["work"][0]["status"] == "completed"
    assert await answer(harness, conversation, item, "The city") == 409
    [result] = [e for e in await harness.messages(conversation) if e["kind"] == "result"]
    assert result["data"]["answer"] == "The city"


async def test_work_is_cancelled_and_begun_again(harness: Harness, server: ModelServer) -> None:
    """While it runs, and while it asks; finished steps are not paid for twice."""
    conversation, item = await harness.asking()
    at = f"/{conversation}/work/{item['work_item_id']}"
    assert (await harness.call("POST", f"{at}/retry")).status_code == 409
    cancelled = await harness.call("POST", f"{at}/cancel")
    assert cancelled.json()["work"][0]["status"] == "cancelled"
    assert (await harness.call("POST", f"{at}/cancel")).status_code == 200
    assert await answer(harness, conversation, item, "The city") == 409
    retried = await asyncio.gather(*(harness.call("POST", f"{at}/retry") for _ in range(2)))
    assert sorted(each.status_code for each in retried) == [200, 409]
    state = await harness.settled(conversation)
    server.faults["part_2"] = [Fault(hang_after=1)]
    assert await answer(harness, conversation, state["work"][0], "The city") == 200
    ticking = asyncio.create_task(harness.settled(conversation))
    await asyncio.wait_for(server.reached.wait(), 60)

    stopping = await harness.call("POST", f"{at}/cancel")
    state = await ticking

    assert stopping.status_code == 200
    assert (state["cancelled"], state["live"]) == (1, 0)
    assert (await harness.call("POST", f"{at}/retry")).status_code == 200
    state = await harness.settled(conversation)
    assert state["done"] == 1
    assert (server.paid["scope"], server.paid["part_1"]) == (1, 1)
    over = await harness.call("POST", f"{at}/cancel")
    assert (over.status_code, over.json()["code"]) == (409, "invalid_state")
    assert [e["kind"] for e in await harness.messages(conversation)].count("result") == 1


async def test_what_fails_says_why_and_may_be_tried_again(
    harness: Harness, server: ModelServer
) -> None:
    """A reply and a work item; a model in trouble is asked again later by itself."""
    conversation = await harness.begin()
    refused = Fault(422, {"error": {"message": "flagged as unsafe"}})
    server.faults["text"] = [Fault(429, {}, {"Retry-After": "60"}), refused]
    sent = await harness.say(conversation, "How are you?")
    state = await harness.settled(conversation)
    [failed] = state["replies"]
    assert (failed["job_id"], failed["status"]) == (sent["job_id"], "failed")
    assert "flagged as unsafe" in failed["error_message"]

    retried = await harness.call("POST", f"/{conversation}/work/{sent['job_id']}/retry")
    assert retried.status_code == 200, retried.text
    await harness.settled(conversation)
    assert [e["kind"] for e in await harness.messages(conversation)] == ["message", "reply"]

    server.faults["part_1"] = [refused]
    await harness.say(conversation, "Compare.", mode="work", documents=NOTES)
    state = await harness.settled(conversation)
    [item] = state["work"]
    assert (item["status"], state["failed"]) == ("failed", 1)
    assert "flagged as unsafe" in item["error_message"]
    retried = await harness.call("POST", f"/{conversation}/work/{item['work_item_id']}/retry")
    assert retried.status_code == 200
    state = await harness.settled(conversation)
    assert (state["failed"], state["done"]) == (0, 1)
    assert server.paid["scope"] == 1


async def test_the_stream_tells_each_event_once_across_a_reconnect(harness: Harness) -> None:
    """`Last-Event-ID` goes on after the last one seen; before a first message it is empty."""
    conversation = await harness.begin()
    empty = await harness.call("GET", f"/{conversation}/stream")
    assert (empty.status_code, empty.json()["events"]) == (200, [])
    await harness.say(conversation, "Compare.", mode="work", documents=NOTES)
    await harness.settled(conversation)

    stream = f"/{conversation}/stream"
    whole = await harness.stream(stream)
    rest = await harness.stream(stream, **{"Last-Event-ID": whole[3][0]})

    def named(events: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, int]]:
        return [(event["job_id"], event["seq"]) for _, event in events]

    assert named(rest) == named(whole)[4:]
    assert len(set(named(whole))) == len(whole) > 8
    types = {event["type"] for _, event in whole}
    assert {"job.created", "job.progress", "job.completed"} <= types
    assert "job.log" not in types


async def test_the_same_client_id_finds_the_same_message(harness: Harness) -> None:
    """However many send it at once; another message under it is refused."""
    conversation = await harness.begin()
    body = {"text": "Hello", "client_id": "tab-1", "mode": "reply"}
    sent = await asyncio.gather(
        *(harness.call("POST", f"/{conversation}/messages", json=body) for _ in range(5))
    )
    other = await harness.call(
        "POST", f"/{conversation}/messages", json={**body, "text": "Good-bye"}
    )

    assert sorted(each.status_code for each in sent) == [200, 200, 200, 200, 201]
    assert len({each.json()["job_id"] for each in sent}) == 1
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    await harness.settled(conversation)
    assert len(await harness.messages(conversation)) == 2
    headers = {"Idempotency-Key": "begin-1"}
    begun = [
        await harness.call("POST", "", json={"workspace_id": ACME}, headers=dict(headers))
        for _ in range(2)
    ]
    assert [each.status_code for each in begun] == [201, 200]
    assert begun[0].json()["id"] == begun[1].json()["id"]


async def test_messages_sent_at_once_are_all_kept(harness: Harness) -> None:
    """In one order without gaps, each with its reply."""
    conversation = await harness.begin()
    await asyncio.gather(*(harness.say(conversation, f"Message {n}") for n in range(8)))

    await harness.settled(conversation)

    said = await harness.messages(conversation)
    assert {e["text"] for e in said if e["author"] == "user"} == {f"Message {n}" for n in range(8)}
    assert len(said) == 16
    page = await harness.call("GET", f"/{conversation}/messages?limit=5")
    assert [each["seq"] for each in page.json()["messages"]] == [12, 13, 14, 15, 16]
    older = await harness.call("GET", f"/{conversation}/messages?limit=5&before=5")
    assert [each["seq"] for each in older.json()["messages"]] == [1, 2, 3, 4]
    assert (page.json()["before"], older.json()["before"]) == (12, None)


async def test_conversations_are_paged_renamed_and_deleted(harness: Harness) -> None:
    """The one written in last first; deleting cancels what works for it, and nothing comes back."""
    made = [await harness.begin(user=BOB) for _ in range(3)]
    await harness.say(made[0], "Newest")
    await harness.settled(made[0])
    page = (await harness.call("GET", f"?workspace_id={ACME}&limit=2")).json()
    assert [each["id"] for each in page["conversations"]] == [made[0], made[2]]
    more = (await harness.call("GET", f"?workspace_id={ACME}&limit=2&after={page['next']}")).json()
    assert more["conversations"][0]["id"] == made[1]
    renamed = await harness.call("PATCH", f"/{made[1]}", json={"title": "<b>Roof</b>"}, user=BOB)
    assert (renamed.status_code, renamed.json()["title"]) == (200, "<b>Roof</b>")

    conversation, _ = await harness.asking()
    for method, options in (("DELETE", {}), ("PATCH", {"json": {"title": "x"}})):
        member = await harness.call(method, f"/{conversation}", user=BOB, **options)
        assert (member.status_code, member.json()["code"]) == (403, "forbidden")
    deleted = await harness.call("DELETE", f"/{conversation}")
    assert deleted.status_code == 204
    assert (await harness.call("GET", f"/{conversation}")).status_code == 404
    left = harness.project.rows(
        "select id from public.jobs where session_id = %s", f"chat:{conversation}"
    )
    assert left == []
    assert (await harness.call("DELETE", f"/{made[1]}")).status_code == 204  # a manager's right


async def test_a_conversation_deleted_under_running_work_stays_deleted(
    harness: Harness, server: ModelServer
) -> None:
    """The work is stopped; what its worker sends later is stored nowhere."""
    server.faults["text"] = [Fault(hang_after=1)]
    conversation = await harness.begin()
    sent = await harness.say(conversation, "How are you?")
    ticking = asyncio.create_task(harness.worker.tick(budget_seconds=60))
    await asyncio.wait_for(server.reached.wait(), 60)

    deleted = await harness.call("DELETE", f"/{conversation}")
    await ticking

    assert deleted.status_code == 204
    assert harness.project.row(sent["job_id"])["status"] == "cancelled"
    assert harness.project.rows(
        "select 1 from public.chat_messages where conversation_id = %s", conversation
    ) == []  # fmt: skip


async def test_a_stream_ends_with_its_conversation(harness: Harness) -> None:
    """Also where its session, a guest session, goes on."""
    key = harness.project.guest_session()
    at = {"session_id": key}
    queue = QueueClient(harness.chat.settings)
    for params, token in ((at, None), ({}, harness.project.token())):
        user = ADA if token else None
        begun = await harness.call(
            "POST", "", user=user, params=params, json={"workspace_id": ACME}
        )
        conversation = Conversation.model_validate(begun.json())
        store = harness.chat.acting_as(token, params.get("session_id"))
        feed = ConversationFeed(
            conversation,
            store,
            queue.acting_as(token),
            after=None,
            reads=SharedReads(),
            circle="readers",
        )
        await feed.read()
        assert (await feed.check()).end is None
        await store.delete(conversation.id)
        with pytest.raises(QueueError, match="no such conversation"):
            await feed.check()
    await queue.aclose()


async def test_a_stream_ends_when_its_conversation_is_shared(harness: Harness) -> None:
    """Whoever comes back finds the new session's, and goes on where the old one stopped."""
    queue = QueueClient(harness.chat.settings)
    token = harness.project.token()
    store = harness.chat.acting_as(token)
    conversation = Conversation.model_validate(await harness.look(await harness.begin()))
    first = await harness.say(str(conversation.id), "One")

    def feed(of: Conversation, after: str | None) -> ConversationFeed:
        reader = queue.acting_as(token)
        return ConversationFeed(
            of, store, reader, after=after, reads=SharedReads(), circle="readers"
        )

    before = feed(conversation, None)
    told = await before.read()
    assert {line.data["job_id"] for line in told.lines} == {first["job_id"]}
    shared = await harness.call("POST", f"/{conversation.id}/share", json={})
    assert shared.status_code == 201, shared.text
    second = await harness.say(str(conversation.id), "Two")
    assert (await before.check()).end == "moved"
    moved = Conversation.model_validate(await harness.look(str(conversation.id)))
    told = await feed(moved, told.cursor).read()
    assert {line.data["job_id"] for line in told.lines} == {second["job_id"]}
    await queue.aclose()


async def test_a_stranger_sees_nothing(harness: Harness) -> None:
    """Of a conversation, its messages, its stream, its work; neither may they touch it."""
    conversation, item = await harness.asking()
    at = f"/{conversation}/work/{item['work_item_id']}"
    mine = await harness.call(
        "POST", "", user=EVE, json={"workspace_id": "22222222-2222-4222-8222-222222222222"}
    )
    assert mine.status_code == 201
    for method, path, body in [
        ("GET", f"/{conversation}", None),
        ("GET", f"/{conversation}/messages", None),
        ("GET", f"/{conversation}/stream", None),
        ("PATCH", f"/{conversation}", {"title": "Mine"}),
        ("DELETE", f"/{conversation}", None),
        ("POST", f"/{conversation}/messages", {"text": "Hello"}),
        ("POST", f"{at}/answer", {"answer": "The city"}),
        ("POST", f"{at}/cancel", None),
        ("POST", f"{at}/retry", None),
        ("GET", "/00000000-0000-4000-8000-000000000000", None),
    ]:
        told = await harness.call(method, path, user=EVE, json=body)
        assert (told.status_code, told.json()["code"]) == (404, "conversation_not_found"), path
        assert (await harness.call(method, path, user=None, json=body)).status_code == 401
    # another conversation is no way to somebody's work
    through = await harness.call(
        "POST", f"/{mine.json()['id']}/work/{item['work_item_id']}/cancel", user=EVE
    )
    assert (through.status_code, through.json()["code"]) == (404, "work_item_not_found")
    listed = await harness.call("GET", f"?workspace_id={ACME}", user=EVE)
    assert (listed.status_code, listed.json()["code"]) == (404, "workspace_not_found")
    assert (await harness.look(conversation))["waiting"] == 1


async def test_a_guest_chats_with_nothing_but_the_guest_session(
    harness: Harness, settings: Settings
) -> None:
    """Says, follows, answers; another guest session sees nothing of it, nor of the members'."""
    mine, other = harness.project.guest_session(), harness.project.guest_session()
    at = {"session_id": mine}

    async def call(method: str, path: str, params: dict[str, str] = at, **options: Any) -> Any:
        return await harness.call(method, path, user=None, params=params, **options)

    begun = await call("POST", "", json={})
    assert begun.status_code == 201, begun.text
    conversation = begun.json()["id"]
    assert (begun.json()["workspace_id"], begun.json()["session_id"]) == (None, mine)
    body = {"text": "Compare.", "mode": "work", "documents": NOTES}
    sent = await call("POST", f"/{conversation}/messages", json=body)
    assert sent.status_code == 201, sent.text
    state = await harness.settled(conversation)
    path = f"/{conversation}/work/{state['work'][0]['work_item_id']}"
    answered = await call("POST", f"{path}/answer", json={"answer": "The museum"})
    assert answered.status_code == 200, answered.text
    await harness.settled(conversation)
    said = (await call("GET", f"/{conversation}/messages")).json()["messages"]
    feed = (await call("GET", f"/{conversation}/stream")).json()["events"]
    listed = (await call("GET", "")).json()["conversations"]

    assert [each["kind"] for each in said] == ["message", "plan", "answer", "result"]
    assert {event["job_id"] for event in feed} == {each["job_id"] for each in said}
    assert [each["id"] for each in listed] == [conversation]
    for path in ("", "/messages", "/stream"):
        told = await call("GET", f"/{conversation}{path}", {"session_id": other})
        assert (told.status_code, told.json()["code"]) == (404, "conversation_not_found")
    members = await harness.begin()
    assert (await call("GET", f"/{members}")).status_code == 404
    assert (await call("DELETE", f"/{conversation}")).status_code == 204
    harness.project.run_sql("select public.close_guest_session(%s)", mine)
    assert (await call("GET", "")).status_code == 404
    locked = settings.model_copy(update={"allow_anonymous": False})
    async with Harness(harness.project, locked).open() as closed:
        refused = await closed.call("GET", "", user=None, params={"session_id": other})
    assert refused.status_code == 401


async def test_a_conversation_is_opened_to_a_guest_who_names_it_in_a_header(
    harness: Harness,
) -> None:
    """The key is in no address; what the guest writes is the members' to see, until it closes."""
    conversation = await harness.begin()
    await harness.say(conversation, "What about the roof?")
    shared = await harness.call("POST", f"/{conversation}/share", json={"ttl_seconds": 600})
    assert shared.status_code == 201, shared.text
    again = await harness.call("POST", f"/{conversation}/share", json={}, user=BOB)
    assert (again.status_code, again.json()) == (200, shared.json())
    named = {"X-Session-Id": shared.json()["session_id"]}

    async def visiting(method: str, path: str, **options: Any) -> Any:
        return await harness.call(method, path, user=None, headers=named, **options)

    body = {"text": "It leaks.", "mode": "reply"}
    sent = await visiting("POST", f"/{conversation}/messages", json=body)
    assert sent.status_code == 201, sent.text
    assert sent.json()["message"]["by_guest"]
    state = await harness.settled(conversation)
    feed = (await visiting("GET", f"/{conversation}/stream")).json()["events"]

    assert state["shared_until"] == shared.json()["expires_at"]
    said = await harness.messages(conversation)
    assert [each["by_guest"] for each in said] == [False, True, False, False]
    assert sent.json()["job_id"] in {event["job_id"] for event in feed}
    for method, path in (("DELETE", ""), ("POST", "/share"), ("DELETE", "/share")):
        refused = await visiting(method, f"/{conversation}{path}", json={} if path else None)
        assert refused.status_code == (401 if path else 403), refused.text
    assert (await harness.call("DELETE", f"/{conversation}/share", user=BOB)).status_code == 403
    for _ in range(2):
        closed = await harness.call("DELETE", f"/{conversation}/share")
        assert closed.status_code == 204
    gone = await visiting("GET", f"/{conversation}")
    assert (gone.status_code, gone.json()["code"]) == (404, "conversation_not_found")
    assert (await harness.look(conversation))["shared_until"] is None


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"text": ""}, 422, "text"),
        ({"text": " \n\t "}, 422, "text"),
        ({"text": "x" * 8001}, 422, "text"),
        ({"text": 7}, 422, "text"),
        ({"text": "nul \x00 nul"}, 400, "U+0000"),
        ({"documents": [{"title": "t", "text": "x" * 20_001}]}, 422, "text"),
        ({"documents": [{"title": "t", "text": "x"}] * 6}, 422, "documents"),
        ({"mode": "think"}, 422, "mode"),
        ({"ask_seconds": 0}, 422, "ask_seconds"),
        ({"client_id": ""}, 422, "client_id"),
        ({"surprise": 1}, 422, "surprise"),
    ],
)
async def test_a_bad_message_is_told_by_its_field(
    harness: Harness, fields: dict[str, Any], status: int, field: str
) -> None:
    """Never a 500, and nothing is stored."""
    conversation = await harness.begin()

    told = await harness.call("POST", f"/{conversation}/messages", json={"text": "x", **fields})

    assert told.status_code == status, told.text
    assert field in told.text
    assert await harness.messages(conversation) == []


async def test_an_answer_that_is_too_long_says_that_it_is_cut(
    harness: Harness, server: ModelServer
) -> None:
    """By a model that keeps to no bound: what is left out is not left out in silence."""
    server.faults["text"] = [Fault(said="word " * 9000)]
    conversation = await harness.begin()
    await harness.say(conversation, "Tell me everything.")

    await harness.settled(conversation)

    [_, reply] = await harness.messages(conversation)
    assert (len(reply["text"]), reply["text"][-7:]) == (40_002, "word  …")


async def test_what_a_model_counts_is_no_reason_to_ask_it_again(
    harness: Harness, server: ModelServer
) -> None:
    """An endpoint that counts nonsense is paid once for its answer, which is said."""
    usage = {"prompt_tokens": 10**30, "completion_tokens": 10**30}
    server.faults["text"] = [Fault(said="Nine.", usage=usage)]
    conversation = await harness.begin()
    await harness.say(conversation, "How many?")

    await harness.settled(conversation)

    said = [each["text"] for each in await harness.messages(conversation)]
    assert (said, server.paid["text"]) == (["How many?", "Nine."], 1)


async def test_a_text_that_says_nothing_is_answered_like_any_other(harness: Harness) -> None:
    """What counts as a space is each database's own matter: what it took must not stop a worker."""
    conversation = await harness.begin()
    first = await harness.say(conversation, "x", mode="work", documents=NOTES)
    await harness.say(conversation, "Compare.", mode="work", documents=NOTES)
    blank = [{"title": "\u00a0", "text": "\u00a0"}]
    harness.project.run_sql(
        "update public.chat_messages set text = %s, documents = %s where job_id = %s",
        "\u00a0",
        Jsonb([]),
        first["job_id"],
    )
    harness.project.run_sql(
        "update public.chat_messages set documents = %s where conversation_id = %s and seq = 2",
        Jsonb(blank),
        conversation,
    )

    state = await harness.settled(conversation)

    assert [(item["status"], item["error_message"]) for item in state["work"]] == [
        ("completed", None),
        ("completed", None),
    ]


async def test_blank_words_of_a_model_are_none(harness: Harness, server: ModelServer) -> None:
    """A title nobody can read, an option nobody can choose: the model is asked again."""
    blank = {"parts": ["Lift", " "], "questions": []}
    option = {"parts": ["Lift"], "questions": [{"question": "For whom?", "options": ["\n", "We"]}]}
    server.faults["scope"] = [Fault(said=json.dumps(blank)), Fault(said=json.dumps(option))]
    conversation, item = await harness.asking()
    assert (item["status"], item["question"]) == ("failed", None)
    assert (
        await harness.call("POST", f"/{conversation}/work/{item['work_item_id']}/retry")
    ).status_code == 200
    state = await harness.settled(conversation)
    assert state["work"][0]["question_options"] == ["The city", "The museum"]


async def test_lone_surrogates_and_markup_are_kept_or_refused(harness: Harness) -> None:
    """Markup is a text like any other; what no text can hold is a 400."""
    conversation = await harness.begin()
    text = "<script>alert(1)</script> **b** \U0001f409"
    await harness.say(conversation, text)
    await harness.settled(conversation)
    broken = await harness.call(
        "POST",
        f"/{conversation}/messages",
        content=b'{"text": "\\ud800"}',
        headers={"Content-Type": "application/json"},
    )

    assert (await harness.messages(conversation))[0]["text"] == text
    assert broken.status_code == 400


async def test_there_is_a_measure(harness: Harness) -> None:
    """Of messages in a minute, and of work at once; both are told as 429 before anything runs."""
    conversation, _ = await harness.asking()
    project, user = harness.project, str(uuid.uuid4())
    project.run_sql(
        "insert into public.workspace_members (workspace_id, user_id) values (%s, %s)", ACME, user
    )
    project.run_sql("select public.set_settings('{\"chat_queued_items_per_session\": 1}')")
    try:
        body = {"text": "Compare.", "mode": "work", "documents": NOTES}
        full = await harness.call("POST", f"/{conversation}/messages", json=body)
        assert (full.status_code, full.json()["code"]) == (429, "quota_exceeded")
        assert "Retry-After" in full.headers
        await harness.say(conversation, "Summarise and compare.", mode="auto", documents=NOTES)
        state = await harness.settled(conversation)
        assert state["live"] == 1
        assert "takes no more work" in (await harness.messages(conversation))[-1]["text"]
    finally:
        project.run_sql("select public.set_settings('{\"chat_queued_items_per_session\": 100}')")
    # beginning counts as one; begun late, so that all of it is in the same minute
    quiet = await harness.begin(user=user)
    project.run_sql("select public.set_settings('{\"chat_messages_per_minute\": 4}')")
    try:
        sent = await asyncio.gather(
            *(
                harness.call("POST", f"/{quiet}/messages", json={"text": "x"}, user=user)
                for _ in range(6)
            )
        )
        codes = sorted(each.status_code for each in sent)
        assert codes == [201, 201, 201, 429, 429, 429]
    finally:
        project.run_sql("select public.set_settings('{\"chat_messages_per_minute\": 100000}')")
    await harness.settled(quiet)
