"""The guide's routes as a stranger calls them: sessions, visible work, questions, cancelling."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand_apps.chat import routes
from tests.integration.chat.conftest import BOB, EVE, Harness, asked_and_ticked
from tests.support.project import ACME, ADA, Project
from tests.unit.ai.model_server import Fault, ModelServer

SESSION = "an-unguessable-session-id"


@pytest.fixture
async def guide(project: Project, rules: Settings) -> AsyncIterator[Harness]:
    """The app without a language model."""
    async with Harness(project, rules).open() as harness:
        yield harness


async def test_visible_work(guide: Harness, caplog: pytest.LogCaptureFixture) -> None:
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
        "sessionId", "activeWork", "endedWork", "replies", "pendingQuestions",
        "unreadMessageCount", "queueStatus",
    }  # fmt: skip
    assert [each["id"] for each in seen["activeWork"]] == [each["id"] for each in body["work"]]
    assert set(seen["activeWork"][0]) == {
        "id", "type", "title", "status", "estimatedDuration", "elapsedSeconds", "progress",
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


async def test_question_and_answer(guide: Harness) -> None:
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
    url = messages[-1]["result"]["artefact"]["url"]
    page = await guide.call("GET", url.removeprefix("/api"), user=None)
    assert page.status_code == 200
    assert "--accent:#b3261e" in page.text
    assert "sandbox allow-scripts" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["content-disposition"] == 'inline; filename="page.html"'
    zipped = url.removeprefix("/api").replace("s/page.html", "s.zip")
    packed = await guide.call("GET", zipped, user=None)
    assert zipfile.ZipFile(io.BytesIO(packed.content)).read("page.html") == page.content
    assert "attachment" in packed.headers["content-disposition"]
    everything = url.removeprefix("/api").partition("/page.html")[0]
    listed = await guide.call("GET", everything + url[-69:], user=None)
    assert [each["url"] for each in listed.json()["artefacts"]] == [url]
    assert (await guide.call("GET", everything, user=None)).status_code == 401
    assert (await guide.call("GET", everything)).status_code == 404  # of another workspace
    wrong = await guide.call("GET", f"{url.removeprefix('/api')[:-64]}{'0' * 64}", user=None)
    assert wrong.status_code == 404
    gone = await guide.call("DELETE", f"/chat?sessionId={session}", user=None)
    assert gone.status_code == 204, gone.text
    assert (await guide.call("GET", url.removeprefix("/api"), user=None)).status_code == 404


async def test_no_server_answers(guide: Harness) -> None:
    """The stated default is taken at the deadline, and an answer is then too late."""
    session = f"{SESSION}-silence"
    await guide.ask(session, "Build a dashboard: Jan 10, Feb 14")
    await guide.quiet(session)
    [question] = (await guide.notes(session))["pendingQuestions"]
    assert question["default"] == "Blue and white"
    guide.project.run_sql(
        "update queue.waits set timeout_at = queue.clock() - interval '1 second' where job_id = %s",
        question["workId"].removeprefix("work_"),
    )
    guide.project.run_sql(
        "update queue.job_events set data = jsonb_set(data, '{wait,until}', to_jsonb(queue.clock()"
        " - interval '1 second')) where job_id = %s and type = 'job.waiting'",
        question["workId"].removeprefix("work_"),
    )
    early = await guide.respond(messageId=question["id"], sessionId=session, content="Dark")
    assert (early.status_code, early.json()["detail"]["status"]) == (409, "timed_out")

    await guide.tick_until(lambda: guide.status(session), lambda seen: seen["endedWork"])

    late = await guide.respond(messageId=question["id"], sessionId=session, content="Dark")
    assert late.status_code == 409
    [row] = guide.project.rows(
        "select result, status from public.async_work_items where session_id = %s", session
    )
    assert row["status"] == "completed"
    assert "colours: Blue and white" in row["result"]


async def test_guidance_reaches_work_that_did_not_ask(guide: Harness) -> None:
    """A message without a question is taken in by the next stage; to ended work it is a 409."""
    session = f"{SESSION}-guided"
    begun = (await guide.ask(session, "Research renewable energy")).json()
    [work] = begun["work"]

    told = await guide.respond(sessionId=session, workId=work["id"], content="and heat pumps")
    await guide.quiet(session)

    assert (told.status_code, told.json()["workId"]) == (200, work["id"])
    [row] = guide.project.rows(
        "select result from public.async_work_items where session_id = %s", session
    )
    assert "[1] Heat pumps (Minutehand corpus, CC BY 4.0)" in row["result"]
    assert "[2] Renewable energy (Minutehand corpus, CC BY 4.0)" in row["result"]
    late = await guide.respond(sessionId=session, content="more, please")
    assert late.status_code == 409


async def test_the_guides_lines_end_with_the_page(guide: Harness) -> None:
    """Request, question, answer, and each place that is followed gives the result itself."""
    session = f"{SESSION}-guide"
    wanted = "Research renewable energy and build me an interactive dashboard"
    await guide.ask(session, wanted)
    await guide.quiet(session)
    [question] = (await guide.notes(session))["pendingQuestions"]
    content = "Use a blue and white color scheme"
    await guide.respond(messageId=question["id"], sessionId=session, content=content)
    await guide.quiet(session)

    noted = [each for each in (await guide.notes(session))["messages"] if "result" in each]
    ended = (await guide.status(session))["endedWork"]
    told = await read_events(guide, session)
    opened = (await guide.call("GET", f"/chat?sessionId={session}", user=None)).json()

    results = [each["result"] for each in noted]
    assert [each["result"] for each in ended] == results
    assert [e["data"]["result"] for e in told if e["type"] == "work_completed"] == results
    assert [e["result"] for e in opened["messages"] if e["kind"] == "result"] == results
    research, built = results
    assert research["text"] in noted[0]["content"]
    assert research["sources"] == built["sources"] == [
        "[1] Renewable energy (Minutehand corpus, CC BY 4.0)"
    ]  # fmt: skip
    assert built["artefact"].keys() == {"url", "title", "type"}
    page = await guide.call("GET", built["artefact"]["url"].removeprefix("/api"), user=None)
    assert "Share of world electricity 2023, wind" in page.text
    for work in {each["workId"] for each in told[1:]}:
        shown = [
            each["data"]["percentage"]
            for each in told
            if each["type"] == "work_progress" and each["workId"] == work
        ]
        assert shown == sorted(shown), "progress fell"


async def test_a_reply_of_ninety_seconds_reaches_its_caller(
    project: Project, settings: Settings, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the address of the 202, as a message, an event and the session's state."""
    monkeypatch.setattr(routes, "BUFFERED_SECONDS", 0.1)  # each look waits as long as a request
    server.answers["decide"] = {"needs_work": False, "items": []}
    server.faults["text"] = [Fault(said="Forty-two.")]
    async with Harness(project, settings).open() as harness:
        session = f"{SESSION}-slow"
        taken = await harness.ask(session, "What is the answer?", body={"wait_seconds": 0.2})
        assert (taken.status_code, taken.json()["work"]) == (202, [])
        project.run_sql(
            "update public.jobs set created_at = created_at - interval '90 seconds' where id ="
            " (select job_id from public.chat_messages where id = %s)",
            taken.json()["messageId"].removeprefix("msg_"),
        )
        at = taken.headers["location"].removeprefix("/api")
        assert (await harness.call("GET", at, user=None)).status_code == 202
        while (found := await harness.call("GET", at, user=None)).status_code == 202:
            await harness.worker.tick()
        [note] = (await harness.notes(session))["messages"]
        told = await read_events(harness, session)
        [reply] = (await harness.status(session))["replies"]

    assert (found.status_code, found.json()["reply"]) == (200, "Forty-two.")
    result = note["result"]
    assert (result["text"], note["content"], note["type"]) == ("Forty-two.", "Forty-two.", "info")
    asked = taken.json()["messageId"]
    assert [(e["type"], e["data"]) for e in told[1:]] == [
        ("reply_completed", {"messageId": asked, "result": result})
    ]
    assert reply == {
        "messageId": asked, "jobId": harness.job_of(asked), "status": "completed", "result": result,
    }  # fmt: skip


async def test_without_data_a_page_is_asked_about(guide: Harness) -> None:
    """The answer may be the data; where nobody gives any, no page is made."""
    for answer, words in (("Jan 10, Feb 14", "2 entries"), ("Make no page", "No page was made")):
        session = f"{SESSION}-no-data-{len(words)}"
        await guide.ask(session, "Build me an interactive dashboard in green")
        await guide.quiet(session)
        [question] = (await guide.notes(session))["pendingQuestions"]
        assert "Which data" in question["content"]
        await guide.respond(messageId=question["id"], sessionId=session, content=answer)
        await guide.quiet(session)
        [ended] = (await guide.status(session))["endedWork"]
        assert words in ended["result"]["text"]
        assert (ended["result"].get("artefact") is None) == ("No page" in words)


async def test_cancel_one_and_all(guide: Harness) -> None:
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


async def test_an_unknown_session_is_empty(guide: Harness) -> None:
    """It has no work and no messages; the queue's figures are everybody's."""
    seen = await guide.status("a-session-nobody-knows")
    assert seen == {
        "sessionId": "a-session-nobody-knows", "activeWork": [], "endedWork": [], "replies": [],
        "pendingQuestions": [], "unreadMessageCount": 0, "queueStatus": guide.figures(),
    }  # fmt: skip
    notes = await guide.notes("a-session-nobody-knows")
    assert (notes["messages"], notes["unreadCount"]) == ([], 0)


async def test_a_session_is_a_key(guide: Harness) -> None:
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
    async with Harness(project, settings).open() as harness:
        assert (await harness.ask(SESSION, "Hello")).status_code == 401
        for path in ("async-status", "async-messages", "async-events"):
            answer = await harness.call("GET", f"/{path}?sessionId={SESSION}", user=None)
            assert answer.status_code == 401, path


async def test_without_async_work_all_is_answered_directly(
    project: Project, rules: Settings
) -> None:
    """And the status routes answer empty, not 404."""
    async with Harness(project, rules.with_environ(ENABLE_ASYNC_WORK="false")).open() as harness:
        session = f"{SESSION}-direct"
        answer = await asked_and_ticked(harness, session, "Research renewable energy")
        assert (answer.status_code, answer.json()["tier"]) == (200, "standard")
        assert answer.json()["work"] == []
        assert (await harness.status(session))["activeWork"] == []


async def test_instant_and_standard_answers_are_in_the_response(guide: Harness) -> None:
    """A quotation where the corpus has every word; else what is missing; nothing is computed."""
    first = await asked_and_ticked(guide, None, "What is 17 * 23?")
    session = first.headers["x-session-id"]
    assert session.startswith("guest_")
    assert (first.status_code, first.json()["tier"]) == (200, "instant")
    known = await asked_and_ticked(guide, session, "What does photosynthesis do?")
    assert known.json()["reply"].endswith("[Photosynthesis, Minutehand corpus, CC BY 4.0]")
    unknown = await asked_and_ticked(guide, session, "Who wrote Moby-Dick?")
    assert unknown.json()["tier"] == "standard"
    for each in (first, unknown):
        assert "LANGUAGE_MODEL_URL" in each.json()["reply"]
        assert "Ollama" in each.json()["reply"]
    streamed = await asked_and_ticked(
        guide, session, "2 + 2", headers={"accept": "text/event-stream"}
    )
    events = [
        json.loads(each.removeprefix("data: ")) for each in streamed.text.split("\n\n") if each
    ]
    assert [each["type"] for each in events] == ["text", "done"]
    assert events[0]["text"] == events[1]["reply"]


async def test_a_new_session_reads_what_was_said_before(guide: Harness) -> None:
    """The whole list of messages is taken where nothing is known, and not again."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My dog is called Rex."},
        {"role": "assistant", "content": "Nice."},
        {"role": "user", "content": "What is my dog called?"},
    ]
    for _ in range(2):
        answer = await asked_and_ticked(guide, f"{SESSION}-before", "", body={"messages": messages})
        assert answer.status_code == 200
    [row] = guide.project.rows(
        "select count(*) from public.chat_messages as m join public.async_session_state as s"
        " using (conversation_id) where s.session_id = %s and m.text = 'My dog is called Rex.'",
        f"{SESSION}-before",
    )
    assert row["count"] == 1


async def test_the_same_key_is_one_request(guide: Harness) -> None:
    """Sent again it finds the same work."""
    session, key = f"{SESSION}-key", {"Idempotency-Key": "once"}
    first, again = await asyncio.gather(
        *(guide.ask(session, "Research bees", headers=key) for _ in range(2))
    )
    other = await guide.ask(session, "Research tides", headers=key)
    assert first.json()["work"][0]["id"] == again.json()["work"][0]["id"]
    assert other.status_code == 409


async def test_an_address_has_its_measure(guide: Harness) -> None:
    """The caller's own, which the API signs; the day's, since the minute may be another by then."""
    set_ = "select public.set_settings(%s)"
    await guide.ask(f"{SESSION}-last", "Research bees")
    guide.project.run_sql(set_, json.dumps({"chat_guest_sessions_per_day": 1}))
    try:
        # two, of which one is not the first of a day that begins here
        asked = [await guide.ask(f"{SESSION}-too-many-{n}", "Research bees") for n in range(2)]
        refused = next(answer for answer in asked if answer.status_code == 429)
        assert refused.json()["code"] == "quota_exceeded"
        assert "chat_guest_sessions_per_day" in str(refused.json()["detail"])
    finally:
        guide.project.run_sql(set_, json.dumps({"chat_guest_sessions_per_day": 1_000_000}))
    counted = "select distinct address from queue.guest_uses where name = 'chat_guest_sessions'"
    assert {row["address"] for row in guide.project.rows(counted)} == {"", "127.0.0.1"}


async def test_what_exceeds_the_room_waits_and_is_said_to(guide: Harness) -> None:
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


async def test_events_come_unnamed_with_connected_first(guide: Harness) -> None:
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
    stream = f"/async-events?sessionId={session}"
    whole = await guide.stream(stream, user=None)
    rest = await guide.stream(stream, user=None, **{"Last-Event-ID": whole[3][0]})
    assert [each for _, each in rest[1:]] == [each for _, each in whole[4:]]
    [asked] = [each["data"] for each in told if each["type"] == "work_question"]
    assert (asked["messageId"], asked["default"]) == (question["id"], "Blue and white")


async def read_events(harness: Harness, session: str) -> list[dict[str, Any]]:
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
    async with Harness(project, settings).open() as harness:
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
    outcome = routes._outcome

    async def counted(functions: Any, session_id: str, message_id: str) -> Any:
        looks.append(message_id)
        return await outcome(functions, session_id, message_id)

    monkeypatch.setattr(routes, "_outcome", counted)
    buffered = rules.model_copy(update={"streaming": False})
    async with Harness(project, buffered).open() as harness:
        # past BUFFERED_SECONDS, and far from GATEWAY_SECONDS, beyond which it counts for nothing
        taken_at = {"timeEpoch": int((time.time() - 13) * 1000)}

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
