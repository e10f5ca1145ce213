"""The chat app with and without a language model: replies, work, questions, pages and failures.

The file tests/contract/test_guide_chat.py tests the commands of the guide.
"""

import asyncio
import json
from collections import defaultdict
from typing import Any

import pytest

from minutehand.worker.testing import drain
from tests.integration.chat.conftest import ANSWERS, PAGE, TEXT, Harness
from tests.support.engine import ACME, ADA, EVE
from tests.support.harness import until
from tests.support.killable import survive
from tests.unit.ai.model_server import Fault, ModelServer

SAMPLE = "Sample: no language model is connected"


async def test_a_model_decides_asks_and_fills_a_page(
    with_model: Harness, server: ModelServer
) -> None:
    """The model's answer starts work with a question and a web page.

    The page escapes the model's text. While the model is busy, the work keeps its progress.
    """
    server.faults["page"] = [Fault(429, {}, {"Retry-After": "20"})]
    session = with_model.begin()
    await with_model.say(session, "Show me the tides.")
    assert (await with_model.asking(session))["options"] == ["North", "South"]
    await with_model.respond(session, "Only the north")
    work = await with_model.ended(session)

    assert work["result"]["text"] == (
        "Two a day. <script>\n\nFrom the model's knowledge, without research."
    )
    url = work["result"]["page"]["url"].removeprefix("/api")
    page = await with_model.call("GET", url, user=None)
    assert "sandbox" in page.headers["content-security-policy"]
    assert "Two a day. &lt;script&gt;" in page.text
    assert "#112233" in page.text
    assert [seen.name for seen in server.seen] == ["decide", "research", "page", "page"]
    assert "Only the north" in server.seen[-1].body["messages"][1]["content"]
    lines = [line["data"] for _, line in await events(with_model, session)]
    shown = [line["percentage"] for line in lines if "percentage" in line]
    assert (shown, shown[-1]) == (sorted(shown), 100)


async def test_a_reply_that_fails_says_why(with_model: Harness, server: ModelServer) -> None:
    """If the model's server fails, the request gets 502 with a sentence for the user.

    The job's log contains the server's own message.
    """
    server.faults["decide"] = [Fault(400, {"error": {"message": "no such model"}})] * 9
    session = with_model.begin()
    response = await with_model.say(session, "Hello")

    assert response.status_code == 502
    words = "The language model would not answer this. Ask it differently."
    assert response.json()["error"] == words
    [message] = await with_model.talk(session)
    assert message["status"] == "failed"
    assert message["error"] == words
    logs = with_model.project.sql("select message from job_logs where log_level = 'error'")
    assert [("no such model" in line["message"]) for line in logs] == [True]
    for kind, shown in (
        ("AttemptTimeout", "It took too long and was stopped. Try again."),
        ("minutehand.queue.errors.QueueUnavailable", "The server failed. Try again."),
    ):
        with_model.project.sql(
            "update jobs set error_message = 'rpc', error_data = %s where id = %s",
            json.dumps({"type": kind}),
            message["job"],
        )
        assert (await with_model.talk(session))[0]["error"] == shown


@pytest.mark.parametrize("begins_again", [False, True])
async def test_a_reply_that_broke_off_fails_at_once_and_continues_when_it_is_retried(
    with_model: Harness, server: ModelServer, begins_again: bool
) -> None:
    """If the model's answer breaks off, the reply fails.

    After the user's retry, the model continues the text and does not repeat it, or begins again in
    other words. Then no word of the broken answer remains.
    """
    reply = "Rain is water that falls from clouds. " * 5000
    answer = json.dumps({"tier": "standard", "reply": reply})
    server.answers["decide"] = answer
    if begins_again:
        reply = "Clouds rain."
        server.answers["text"] = {"tier": "instant", "reply": reply}
    else:
        server.answers["text"] = lambda body: answer.removeprefix(body["messages"][-2]["content"])
    server.faults = defaultdict(list, {"decide": [Fault(cut=True)], "text": [Fault(cut=True)]})
    session = with_model.begin()
    response = await with_model.say(session, "What is rain?", user=ADA, workspace_id=ACME)

    words = "The language model broke off its answer. Try again."
    assert (response.status_code, response.json()["error"]) == (502, words)
    [message] = await with_model.talk(session, ADA)
    assert (message["error"], len(message["said"]) > 50) == (words, True)
    await with_model.rest("POST", "/rpc/retry_job", json={"p_job_id": message["job"]})
    await drain(with_model.worker)
    [_, whole] = await with_model.talk(session, ADA)
    assert whole["content"] == reply
    assert [seen.name for seen in server.seen] == ["decide", "text", "text"]
    begun = server.seen[-1].body["messages"][-2]["content"]
    assert json.loads(begun + '"}')["reply"] == message["said"]
    query = "select chat.words_of(%s)"
    assert with_model.project.sql(query, message["job"])[0]["words_of"] == reply


async def test_events_resume_without_a_gap_or_a_repeat(harness: Harness) -> None:
    """A client that resumes a chat session's events at any position gets each later event once."""
    session = harness.begin()
    await harness.say(session, "Hello!")
    await harness.say(session, PAGE)
    await harness.asking(session)
    await harness.respond(session, "Blue")
    await harness.ended(session)
    whole = await events(harness, session)

    kinds = [event["type"] for _, event in whole]
    assert kinds[:4] == ["connected", "reply_completed", "work_started", "work_progress"]
    assert kinds[-1] == "work_completed"
    assert kinds.count("work_started") == 1
    shown = [one["data"]["percentage"] for _, one in whole if one["type"] == "work_progress"]
    assert shown == sorted(set(shown))
    assert SAMPLE in whole[-1][1]["data"]["result"]["text"]
    for place in range(1, len(whole) - 1):
        rest = await events(harness, session, **{"Last-Event-ID": whole[place][0]})
        assert rest[1:] == whole[place + 1 :]
    other = f"(another-database,{whole[-1][0].partition(',')[2]}"
    old = await events(harness, session, **{"Last-Event-ID": other})
    assert [event["type"] for _, event in old[1:]] == ["reset", *kinds[1:]]
    refused = await harness.call(
        "GET", f"/async-events?sessionId={session}", headers={"Last-Event-ID": "11;12:5"}, user=None
    )
    assert refused.status_code == 400


async def test_what_is_decided_while_another_message_is_answered_is_all_in_the_stream(
    with_model: Harness, server: ModelServer
) -> None:
    """A client got one reply before another message's work began.

    Its resumed stream contains all events of that work.
    """
    held, work = asyncio.Event(), ANSWERS["decide"] | {"question": ""}
    server.faults["decide"] = [Fault(until=held)]
    server.answers["decide"] = lambda body: (
        work if "# The request\\nResearch" in str(body) else {"tier": "standard", "reply": "Water."}
    )
    session = with_model.begin()
    first = asyncio.create_task(with_model.say(session, "Research bread"))
    await until(lambda: server.seen)
    await with_model.say(session, "What is rain?")
    seen: list[tuple[str, Any]] = []
    while len(seen) < 2:  # the reply is stored shortly before its job ends
        seen = await events(with_model, session)
    held.set()
    await first
    await with_model.ended(session)

    assert [event["type"] for _, event in seen] == ["connected", "reply_completed"]
    rest = await events(with_model, session, **{"Last-Event-ID": seen[-1][0]})
    kinds = [event["type"] for _, event in rest]
    assert (kinds.pop(1), kinds.pop()) == ("work_started", "work_completed")
    assert "work_started" not in kinds


async def events(harness: Harness, session: str, **headers: str) -> list[tuple[str, Any]]:
    """Return the events in a chat session's stream so far."""
    path = f"/async-events?sessionId={session}"
    return await asyncio.wait_for(harness.stream(path, user=None, **headers), 60)


async def test_answering_and_cancelling_are_for_work_that_waits(harness: Harness) -> None:
    """A second answer or a second cancel of chat work returns 409.

    An unknown work id returns 404.
    """
    session = harness.begin()
    await harness.say(session, PAGE)
    await harness.asking(session)
    assert (await harness.respond(session, "Blue")).status_code == 200
    assert (await harness.respond(session, "Red")).status_code == 409

    session = harness.begin()
    [work] = (await harness.say(session, PAGE)).json()["work"]
    await harness.asking(session)
    for work_id, status in ((work["id"], 200), (work["id"], 409), ("work_1", 404)):
        response = await harness.call("POST", "/async-cancel", user=None, json={"workId": work_id})
        assert response.status_code == status
    assert (await harness.ended(session))["status"] == "cancelled"
    every = {"sessionId": session, "cancelAll": True}
    found = await harness.ok("POST", "/async-cancel", user=None, json=every)
    assert found["message"] == "There was no work to cancel"


async def test_a_question_that_no_one_answers_shows_the_default_that_was_used(
    harness: Harness,
) -> None:
    """A question that times out shows the default that was used. An answered question does not."""
    used = []
    for answer in ("Blue", None):
        session = harness.begin()
        await harness.say(session, PAGE, ask_seconds=None if answer else 1)
        default = (await harness.asking(session))["default"]
        if answer:
            await harness.respond(session, answer)
        await harness.ended(session)
        [question] = [each for each in await harness.talk(session) if each["type"] == "question"]
        used.append(question.get("used"))

    assert used == [None, default]


async def test_a_caller_may_prefer_not_to_wait_for_the_reply(harness: Harness) -> None:
    """With `Prefer: respond-async`, a chat request returns 202 before a worker runs the job.

    A repeated idempotency key returns the same message, and 409 for another text.
    """
    session = harness.begin()
    headers = {"x-session-id": session, "Idempotency-Key": "k", "Prefer": "respond-async"}
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    response = await harness.call("POST", "/chat", user=None, json=body, headers=headers)

    [message] = await harness.talk(session)
    assert (response.status_code, message["status"]) == (202, "pending")
    named = {"sessionId": session, "messageId": message["id"], "job": message["job"]}
    assert response.json() == named
    await drain(harness.worker)
    again = await harness.call("POST", "/chat", user=None, json=body, headers=headers)
    assert again.json() == named
    other = await harness.say(session, "Bye", headers={"Idempotency-Key": "k"})
    assert other.status_code == 409


async def test_an_edited_message_branches_into_a_new_session(
    with_model: Harness, server: ModelServer
) -> None:
    """The new session begins with the messages before the edited one, and the old one is kept.

    The model gets the copied messages. Only someone who may read the old session can branch it.
    """
    old, new = with_model.begin(), with_model.begin()
    for words in ("One", "Two"):
        await with_model.say(old, words, user=ADA, workspace_id=ACME)
    before = await with_model.talk(old, ADA)
    server.seen.clear()
    edited = next(one for one in before if one["content"] == "Two")
    branch = {"branch_from": edited["id"]}
    assert (await with_model.say(with_model.begin(), "Mine", user=EVE, **branch)).status_code == 404
    for _ in range(2):  # the second call repeats the first
        key = {"Idempotency-Key": "edit"}
        await with_model.say(new, "Three", user=ADA, headers=key, workspace_id=ACME, **branch)

    after = await with_model.talk(new, ADA)
    kept = [one["content"] for one in before[: before.index(edited)]]
    assert [one["content"] for one in after if one["job"] != after[-1]["job"]] == kept
    assert [one["content"] for one in after].count("Three") == 1
    assert await with_model.talk(old, ADA) == before
    assert "One" in json.dumps(server.seen[0].body)
    assert "Two" not in json.dumps([seen.body for seen in server.seen])
    with_model.project.sql(
        "update async_messages set content = repeat('x', 250000)"
        " where 'msg_' || id = %s returning 1",
        before[0]["id"],
    )
    bounded = with_model.begin()
    await with_model.say(bounded, "Four", user=ADA, workspace_id=ACME, **branch)
    copied = [one["content"] for one in await with_model.talk(bounded, ADA)]
    assert copied[: len(kept)] == [*kept[1:], "Four"]


async def test_production_refuses_guessable_ids(harness: Harness) -> None:
    """A chat session id that is shorter than the configured minimum is rejected."""
    harness.project.sql(
        "update queue.settings set value = '32' where name = 'chat_session_id_min_characters'"
    )
    assert (await harness.say("test_1732000000", "Hello")).status_code == 422


async def test_killed_workers_say_it_once(harness: Harness) -> None:
    """A worker is killed after each of its writes.

    The chat session still contains each message once.
    """
    session = harness.begin()
    await harness.say(session, TEXT)

    async def ended() -> object:
        return not (await harness.status(session))["activeWork"]

    await survive(harness.project, "chat", ended, ENABLE_ASYNC_WORK="true")

    response = [each["type"] for each in await harness.talk(session)]
    assert response == ["message", "reply", "info"]
