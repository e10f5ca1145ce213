"""The guide's routes as a stranger calls them: sessions, visible work, questions, cancelling."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.apps.chat.store import SessionStore
from minutehand.config import Settings
from tests.integration.chat.conftest import BOB, EVE, Harness
from tests.support.project import ACME, ADA, Project
from tests.unit.ai.model_server import Fault, ModelServer

SESSION = "an-unguessable-session-id"


class SessionHarness(Harness):
    """The app by the guide's own paths; work is done when a test ticks."""

    below = "/api"

    async def ask(self, session: str | None, text: str, **options: Any) -> httpx.Response:
        """POST /api/chat; anonymous unless a user is named."""
        headers = {"x-session-id": session} if session else {}
        user = options.pop("user", None)
        body = {"messages": [{"role": "user", "content": text}], **options.pop("body", {})}
        headers |= options.pop("headers", {})
        return await self.call("POST", "/chat", user=user, json=body, headers=headers)

    async def status(self, session: str, user: str | None = None) -> dict[str, Any]:
        """GET /api/async-status."""
        answer = await self.call("GET", f"/async-status?sessionId={session}", user=user)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def notes(self, session: str) -> dict[str, Any]:
        """GET /api/async-messages."""
        answer = await self.call("GET", f"/async-messages?sessionId={session}", user=None)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def respond(self, **body: Any) -> httpx.Response:
        """POST /api/async-messages."""
        return await self.call("POST", "/async-messages", user=None, json=body)

    async def cancel(self, user: str | None = None, **body: Any) -> httpx.Response:
        """POST /api/async-cancel."""
        return await self.call("POST", "/async-cancel", user=user, json=body)

    async def quiet(self, session: str) -> dict[str, Any]:
        """Tick until nothing runs: all has ended or asks."""
        return await self.tick_until(
            lambda: self.status(session),
            lambda seen: all(each["status"] == "waiting_for_user" for each in seen["activeWork"]),
        )

    def figures(self) -> dict[str, int]:
        """The queue's figures as an operator counts them."""
        [row] = self.project.rows(
            "select count(*) filter (where status = 'accepted') as queued,"
            " count(*) filter (where status = 'in_progress') as executing"
            " from public.async_work_items"
        )
        return {name: int(value) for name, value in row.items()}


@pytest.fixture
async def guide(project: Project, rules: Settings) -> AsyncIterator[SessionHarness]:
    """The app without a language model."""
    async with SessionHarness(project, rules).open() as harness:
        yield harness


async def test_visible_work(guide: SessionHarness, caplog: pytest.LogCaptureFixture) -> None:
    """Research and a page fed by it: accepted, seen, counted, done."""
    with caplog.at_level(logging.INFO):
        begun = await guide.ask(
            f"{SESSION}-visible", "Research renewable energy and build me an interactive dashboard"
        )

    assert begun.status_code == 202, begun.text
    assert begun.headers["x-session-id"] == f"{SESSION}-visible"
    body = begun.json()
    assert [(each["type"], each["status"]) for each in body["work"]] == [
        ("research", "accepted"), ("build", "accepted"),
    ]  # fmt: skip
    assert all(each["id"].startswith("work_") for each in body["work"])
    assert all(isinstance(each["estimatedDuration"], int) for each in body["work"])
    [line] = [each for each in caplog.records if each.message == "Request classified"]
    assert line.__dict__["tier"] == "async"
    seen = await guide.status(f"{SESSION}-visible")
    assert set(seen) == {
        "sessionId", "activeWork", "pendingQuestions", "unreadMessageCount", "queueStatus",
    }  # fmt: skip
    assert [each["id"] for each in seen["activeWork"]] == [each["id"] for each in body["work"]]
    assert set(seen["activeWork"][0]) == {
        "id", "type", "status", "estimatedDuration", "elapsedSeconds", "progress",
    }  # fmt: skip
    assert seen["activeWork"][0]["progress"] == {
        "stage": "ANALYZING", "percentage": 0, "message": "Waiting in the queue",
    }  # fmt: skip
    assert seen["queueStatus"] == guide.figures()
    assert seen["queueStatus"]["queued"] >= 2

    asking = await guide.quiet(f"{SESSION}-visible")

    [work] = asking["activeWork"]
    assert (work["type"], work["status"]) == ("build", "waiting_for_user")
    assert asking["queueStatus"] == guide.figures()


async def test_question_and_answer(guide: SessionHarness) -> None:
    """In free words, once; the page wears the colours, and the session is read to its end."""
    session = f"{SESSION}-question"
    await guide.ask(session, "Build me a dashboard of the sales: Jan 10, Feb 14, Mar 9")
    await guide.quiet(session)

    told = await guide.notes(session)

    [question] = told["pendingQuestions"]
    assert question["id"].startswith("msg_")
    assert (question["direction"], question["type"]) == ("to_user", "question")
    assert question["requiresResponse"]
    assert (told["unreadCount"], told["workId"]) == (1, question["workId"])
    assert (await guide.notes(session))["unreadCount"] == 0
    answered = await guide.respond(
        messageId=question["id"], sessionId=session, content="Use a red and white color scheme"
    )
    assert answered.status_code == 200, answered.text
    second = await guide.respond(messageId=question["id"], sessionId=session, content="Blue")
    assert (second.status_code, second.json()["code"]) == (409, "invalid_state")
    assert (await guide.quiet(session))["activeWork"] == []
    messages = (await guide.notes(session))["messages"]
    assert [(each["direction"], each["type"]) for each in messages] == [
        ("to_user", "question"), ("to_work", "answer"), ("to_user", "info"),
    ]  # fmt: skip
    [result] = guide.project.rows(
        "select m.data from public.chat_messages as m join public.async_work_items as w"
        " on w.result_message_id = m.id where w.session_id = %s", session,
    )  # fmt: skip
    url = result["data"]["artefact"]["url"]
    page = await guide.call("GET", url.removeprefix("/api"), user=None)
    assert page.status_code == 200
    assert "--accent:#b3261e" in page.text
    assert "sandbox allow-scripts" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    wrong = await guide.call("GET", f"/chat/artefacts/{'0' * 64}", user=None)
    assert wrong.status_code == 404


async def test_nobody_answers(guide: SessionHarness) -> None:
    """The stated default is taken at the deadline, and an answer is then too late."""
    session = f"{SESSION}-silence"
    await guide.ask(session, "Draft a letter to the city about the lift")
    await guide.quiet(session)
    [question] = (await guide.notes(session))["pendingQuestions"]
    assert question["default"] == "Formal"
    guide.project.run_sql(
        "update queue.waits set timeout_at = queue.clock() - interval '1 second' where job_id = %s",
        question["workId"].removeprefix("work_"),
    )

    await guide.quiet(session)

    late = await guide.respond(messageId=question["id"], sessionId=session, content="Friendly")
    assert late.status_code == 409
    [row] = guide.project.rows(
        "select result, status from public.async_work_items where session_id = %s", session
    )
    assert row["status"] == "completed"
    assert "Dear city," in row["result"]


async def test_guidance_reaches_work_that_did_not_ask(guide: SessionHarness) -> None:
    """A message without a question is taken in by the next stage; to ended work it is a 409."""
    session = f"{SESSION}-guided"
    begun = (await guide.ask(session, "Research renewable energy")).json()
    [work] = begun["work"]

    told = await guide.respond(sessionId=session, workId=work["id"], content="storage over seasons")
    await guide.quiet(session)

    assert (told.status_code, told.json()["workId"]) == (200, work["id"])
    [row] = guide.project.rows(
        "select result from public.async_work_items where session_id = %s", session
    )
    assert "What was asked for: storage over seasons" in row["result"]
    assert "[1] Renewable energy (Minutehand corpus, CC BY 4.0)" in row["result"]
    late = await guide.respond(sessionId=session, content="more, please")
    assert late.status_code == 409


async def test_cancel_one_and_all(guide: SessionHarness) -> None:
    """404 for the unknown, 409 with the state for the ended, 400 for neither."""
    session = f"{SESSION}-cancel"
    begun = (await guide.ask(session, "Research bees, compare Python and Go")).json()
    await guide.ask(session, "Research lighthouses")
    first = begun["work"][0]["id"]

    one = await guide.cancel(workId=first)
    again = await guide.cancel(workId=first)
    everything = await guide.cancel(sessionId=session, cancelAll=True)

    assert one.json() == {
        "success": True, "cancelled": [first], "message": "Work cancelled successfully",
    }  # fmt: skip
    assert (again.status_code, again.json()["code"]) == (409, "invalid_state")
    assert "cancelled" in json.dumps(again.json()["detail"])
    assert everything.json()["success"]
    # what was to be made of the cancelled research is cancelled with it
    assert len(everything.json()["cancelled"]) >= 1
    assert (await guide.status(session))["activeWork"] == []
    assert (await guide.cancel(sessionId=session, cancelAll=True)).json()["cancelled"] == []
    assert (await guide.cancel(workId=f"work_{ACME}")).status_code == 404
    assert (await guide.cancel(workId="nonsense")).status_code == 404
    assert (
        await guide.cancel(sessionId="a-session-nobody-knows", cancelAll=True)
    ).status_code == 404
    assert (await guide.cancel(sessionId=session)).status_code == 400
    assert (await guide.cancel()).status_code == 400


async def test_an_unknown_session_is_empty(guide: SessionHarness) -> None:
    """It has no work and no messages; the queue's figures are everybody's."""
    seen = await guide.status("a-session-nobody-knows")
    assert seen == {
        "sessionId": "a-session-nobody-knows", "activeWork": [], "pendingQuestions": [],
        "unreadMessageCount": 0, "queueStatus": guide.figures(),
    }  # fmt: skip
    notes = await guide.notes("a-session-nobody-knows")
    assert (notes["messages"], notes["unreadCount"]) == ([], 0)


async def test_a_session_is_a_key(guide: SessionHarness) -> None:
    """It is made where none is brought; a user's is theirs alone, and a short one is none."""
    made = await guide.cancel(sessionId=f"{SESSION}-nobody", cancelAll=True)
    assert made.status_code == 404
    short = await guide.ask("1234", "Research bees")
    assert (short.status_code, short.json()["code"]) == (422, "session_id_invalid")
    session = f"{SESSION}-adas"
    mine = await guide.ask(session, "Research bees", user=ADA)
    assert mine.status_code == 202, mine.text
    work = mine.json()["work"][0]["id"]
    assert len((await guide.status(session, user=ADA))["activeWork"]) == 1
    for stranger in (None, EVE):
        assert (await guide.status(session, user=stranger))["activeWork"] == []
        assert (await guide.ask(session, "Hello", user=stranger)).status_code == 404
        assert (await guide.cancel(stranger, workId=work)).status_code == 404
        assert (await guide.cancel(stranger, sessionId=session, cancelAll=True)).status_code == 404
    [row] = guide.project.rows(
        "select workspace_id::text from public.async_work_items where session_id = %s", session
    )
    assert row["workspace_id"] == ACME
    assert (await guide.cancel(BOB, workId=work)).status_code == 200


async def test_guests_are_let_in_where_they_are_allowed(project: Project, rules: Settings) -> None:
    """Elsewhere every route asks for a token."""
    settings = rules.model_copy(update={"allow_anonymous": False})
    async with SessionHarness(project, settings).open() as harness:
        assert (await harness.ask(SESSION, "Hello")).status_code == 401
        for path in ("async-status", "async-messages", "async-events"):
            answer = await harness.call("GET", f"/{path}?sessionId={SESSION}", user=None)
            assert answer.status_code == 401, path


async def test_without_async_work_all_is_answered_directly(
    project: Project, rules: Settings
) -> None:
    """And the status routes answer empty, not 404."""
    async with SessionHarness(
        project, rules.with_environ(ENABLE_ASYNC_WORK="false")
    ).open() as harness:
        session = f"{SESSION}-direct"
        answer = await asked_and_ticked(harness, session, "Research renewable energy")
        assert (answer.status_code, answer.json()["tier"]) == (200, "standard")
        assert answer.json()["work"] == []
        assert (await harness.status(session))["activeWork"] == []


async def asked_and_ticked(
    harness: SessionHarness, session: str | None, text: str, **options: Any
) -> httpx.Response:
    """Say something that is answered in the request, while a worker ticks."""
    asked = asyncio.ensure_future(harness.ask(session, text, **options))
    while not asked.done():
        await harness.worker.tick()
        await asyncio.sleep(0.01)
    return asked.result()


async def test_instant_and_standard_answers_are_in_the_response(guide: SessionHarness) -> None:
    """Exact ones, recalled ones, and one sentence where a language model is missing."""
    first = await asked_and_ticked(guide, None, "What is 17 * 23?")
    session = first.headers["x-session-id"]
    assert session.startswith("guest_")
    assert (first.status_code, first.json()["tier"], first.json()["reply"]) == (
        200, "instant", "17 × 23 = 391",
    )  # fmt: skip
    await asked_and_ticked(guide, session, "My favourite colour is teal.")
    recalled = await asked_and_ticked(guide, session, "What is my favourite colour?")
    assert recalled.json()["reply"] == "You said: “My favourite colour is teal.”"
    unknown = await asked_and_ticked(guide, session, "Who wrote Moby-Dick?")
    assert unknown.json()["tier"] == "standard"
    assert "LANGUAGE_MODEL_URL" in unknown.json()["reply"]
    streamed = await asked_and_ticked(
        guide, session, "2 + 2", headers={"accept": "text/event-stream"}
    )
    events = [
        json.loads(each.removeprefix("data: ")) for each in streamed.text.split("\n\n") if each
    ]
    assert [each["type"] for each in events] == ["text", "done"]
    assert events[0]["text"] == events[1]["reply"] == "2 + 2 = 4"


async def test_a_new_session_reads_what_was_said_before(guide: SessionHarness) -> None:
    """The whole list of messages is taken where nothing is known, and not again."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My dog is called Rex."},
        {"role": "assistant", "content": "Nice."},
        {"role": "user", "content": "What is my dog called?"},
    ]
    for _ in range(2):
        answer = await asked_and_ticked(guide, f"{SESSION}-before", "", body={"messages": messages})
        assert answer.json()["reply"] == "You said: “My dog is called Rex.”"
    [row] = guide.project.rows(
        "select count(*) from public.chat_messages as m join public.async_session_state as s"
        " using (conversation_id) where s.session_id = %s and m.text = 'My dog is called Rex.'",
        f"{SESSION}-before",
    )
    assert row["count"] == 1


async def test_the_same_key_is_one_request(guide: SessionHarness) -> None:
    """Sent again it finds the same work."""
    session, key = f"{SESSION}-key", {"Idempotency-Key": "once"}
    first = await guide.ask(session, "Research bees", headers=key)
    again = await guide.ask(session, "Research bees", headers=key)
    other = await guide.ask(session, "Research tides", headers=key)
    assert first.json()["work"][0]["id"] == again.json()["work"][0]["id"]
    assert other.status_code == 409


async def test_an_address_has_its_measure(guide: SessionHarness) -> None:
    """Of messages in a minute over all sessions, and of sessions."""
    set_ = "select public.set_settings(%s)"
    guide.project.run_sql(set_, json.dumps({"chat_address_sessions_per_hour": 1}))
    try:
        refused = await guide.ask(f"{SESSION}-one-too-many", "Research bees")
        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
        assert "chat_address_sessions_per_hour" in str(refused.json()["detail"])
    finally:
        guide.project.run_sql(set_, json.dumps({"chat_address_sessions_per_hour": 2000}))


async def test_what_exceeds_the_room_waits_and_is_said_to(guide: SessionHarness) -> None:
    """Nothing is refused: a session's sixth piece of work is in the queue."""
    session = f"{SESSION}-room"
    replies = [(await guide.ask(session, f"Research bees, part {n}")).json() for n in range(6)]
    assert "waits in the queue" in replies[-1]["reply"]
    assert "waits in the queue" not in replies[0]["reply"]
    await guide.quiet(session)
    [row] = guide.project.rows(
        "select count(*) filter (where status = 'completed') as done from public.async_work_items"
        " where session_id = %s", session,
    )  # fmt: skip
    assert row["done"] == 6


async def test_events_come_unnamed_with_connected_first(guide: SessionHarness) -> None:
    """Each of the work's own, in order, and again after a cursor."""
    session = f"{SESSION}-events"
    empty = await read_events(guide, session)
    assert [each["type"] for each in empty] == ["connected"]
    begun = (await guide.ask(session, "Build a dashboard: Jan 10, Feb 14")).json()
    await guide.quiet(session)
    [question] = (await guide.notes(session))["pendingQuestions"]
    await guide.respond(messageId=question["id"], sessionId=session, content="Dark")
    await guide.quiet(session)

    told = await read_events(guide, session)

    types = [each["type"] for each in told]
    assert types[:2] == ["connected", "work_started"]
    assert types[-1] == "work_completed"
    assert types.count("work_started") == types.count("work_question") == 1
    assert {each["workId"] for each in told[1:]} == {begun["work"][0]["id"]}
    assert {each["sessionId"] for each in told} == {session}
    assert all(each["timestamp"] > 1_600_000_000_000 for each in told)
    [asked] = [each["data"] for each in told if each["type"] == "work_question"]
    assert (asked["messageId"], asked["default"]) == (question["id"], "Blue and white")


async def read_events(harness: SessionHarness, session: str) -> list[dict[str, Any]]:
    """What an EventSource gets until it has caught up."""
    answer = await harness.call(
        "GET", f"/async-events?sessionId={session}", user=None, headers={"accept": "*/*"}
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event:" not in answer.text
    return [
        json.loads(line.removeprefix("data: "))
        for line in answer.text.splitlines()
        if line.startswith("data: ")
    ]


async def test_a_model_decides_and_is_paid_for_each_try(
    project: Project, settings: Settings, server: ModelServer
) -> None:
    """What it answers and cannot be used is paid for too; the rules stand in at the end."""
    async with SessionHarness(project, settings).open() as harness:
        server.faults["decide"] = [Fault(said="Well,")] * 2
        server.faults["text"] = [Fault(said="Herman Melville did.")]
        answer = await asked_and_ticked(harness, f"{SESSION}-paid", "Who wrote Moby-Dick?")
        assert (answer.status_code, answer.json()["reply"]) == (200, "Herman Melville did.")
        [row] = project.rows(
            "select m.input_tokens, m.cost_usd, j.id from public.chat_messages as m join"
            " public.jobs as j on j.id = m.job_id where m.text = 'Herman Melville did.'"
        )
        assert row["input_tokens"] == 3 * 100
        assert float(row["cost_usd"]) == pytest.approx(3 * (100 * 1 + 50 * 2) / 1e6)


async def test_a_reply_is_waited_for_by_the_gateways_clock(
    project: Project, rules: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold start has used up the wait: one look, and the answer that it is on its way."""
    looks = []
    outcome = SessionStore.outcome

    async def counted(self: SessionStore, session_id: str, message_id: str) -> Any:
        looks.append(message_id)
        return await outcome(self, session_id, message_id)

    monkeypatch.setattr(SessionStore, "outcome", counted)
    buffered = rules.model_copy(update={"streaming": False})
    async with SessionHarness(project, buffered).open() as harness:
        taken_at = {"timeEpoch": int((time.time() - 25) * 1000)}

        async def behind_a_gateway(scope: Any, receive: Any, send: Any) -> None:
            event = {"aws.event": {"requestContext": taken_at}}
            await harness._api({**scope, **event}, receive, send)

        transport = httpx.ASGITransport(app=behind_a_gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as http:
            body = {"messages": [{"role": "user", "content": "What does the lift carry?"}]}
            headers = {"x-session-id": f"{SESSION}-late"}
            said = await http.post("/api/chat", json=body, headers=headers)

    assert said.status_code == 202, said.text
    assert len(looks) == 1
