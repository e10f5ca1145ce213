"""From a message to its reply, and from a complex one to background work and its result."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from minutehand.config import Settings
from minutehand_apps.chat import page
from minutehand_apps.chat.classifier import classify
from minutehand_apps.chat.tables import find_data
from tests.integration.chat.conftest import BOB, EVE, NOTES, Harness
from tests.support.project import ACME, ADA, Project
from tests.unit.ai.model_server import Fault, ModelServer


async def test_a_message_is_answered(harness: Harness, server: ModelServer) -> None:
    """Once, by a job of its own; its text streamed as progress, usage and cost counted."""
    server.faults["text"] = [Fault(said="The roof is being mended; it will take a week. " * 3)]
    session = harness.begin()
    sent = harness.job_of(await harness.say(session, "What about the roof?"))

    state = await harness.settled(session)

    asked, reply = harness.messages(session)
    assert (asked["text"], asked["kind"], asked["job_id"]) == (
        "What about the roof?", "message", sent,
    )  # fmt: skip
    assert (reply["author"], reply["kind"], reply["job_id"]) == (
        "assistant", "reply", sent,
    )  # fmt: skip
    assert reply["text"].startswith("The roof is being mended")
    assert (reply["model"], reply["offline"], reply["input_tokens"]) == ("test-model", False, 100)
    assert float(reply["cost_usd"]) == pytest.approx((100 * 1 + 50 * 2) / 1e6)
    assert (state["title"], state["messages"]) == ("What about the roof?", 2)
    told = harness.project.rows(
        "select data -> 'progress' as p from public.job_events"
        " where session_id = %s and type = 'job.progress' order by seq",
        session,
    )
    live = [row["p"] for row in told if row["p"]["stage"].startswith("text:")]
    assert live[-1]["stage"] == "text:0"
    assert live[-1]["message"].startswith("The roof is being mended")
    job = harness.project.row(sent)
    assert (job["status"], job["result"]) == ("completed", {"message_id": str(reply["id"])})


async def test_replies_know_what_was_said_before(harness: Harness, server: ModelServer) -> None:
    """Two messages at once get a reply each, in order, the second with the first in mind."""
    session = harness.begin()
    server.faults["text"] = [Fault(said="Nine tonnes."), Fault(said="Yes, nine.")]
    await harness.say(session, "What does the lift carry?", documents=NOTES[:1])
    await harness.say(session, "Are you sure?")

    await harness.settled(session)

    said = [each["text"] for each in harness.messages(session)]
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
    session = harness.begin()
    server.faults["text"] = [Fault(said="Both speak of the lift.")]
    await harness.say(session, "Put these side by side.", mode="auto", documents=NOTES)

    state = await harness.settled(session)

    [item] = state["work"]
    assert (item["title"], item["type"], item["status"]) == ("Two notes", "compare", "completed")
    asked, plan, result = harness.messages(session)
    assert asked["documents"] == NOTES
    told = await harness.call("GET", f"/chat?sessionId={session}")
    assert told.json()["messages"][0]["documents"] == [
        {"title": "Ada's notes", "characters": 44}, {"title": "Bob's notes", "characters": 40},
    ]  # fmt: skip
    assert told.json()["messages"][1]["work"] == [item["id"]]
    assert (plan["kind"], plan["data"]) == (
        "plan",
        {"tier": "async", "work_items": [item["job_id"]], "reasons": ["the model decided so"]},
    )
    assert "Two notes" in plan["text"]
    assert (result["kind"], result["text"]) == ("result", "Both speak of the lift.")
    assert result["id"] == item["result_message_id"]
    assert result["data"]["parts"] == [
        {"title": "Ada's notes", "text": "Two tonnes."},
        {"title": "Bob's notes", "text": "Out of order."},
    ]
    assert result["input_tokens"] == 4 * 100
    assert dict(server.paid) == {"decide": 1, "scope": 1, "part_1": 1, "part_2": 1, "text": 1}
    job = harness.project.row(item["job_id"])
    assert str(job["parent_id"]) == plan["job_id"]
    assert job["payload"].keys() == {"conversation_id", "message_id"}


OFFERS = [
    {"title": "Offer A", "text": "The roof costs 9,000 EUR and takes two weeks."},
    {"title": "Offer B", "text": "The roof costs 7,500 EUR and takes five weeks."},
]
#: Requests, their texts, the work they become, and what a person looks for in its results.
REQUESTS: list[tuple[str, list[dict[str, str]], str, str]] = [
    ("Research renewable energy and build me an interactive dashboard", [], "research build",
     "Renewable energy|Share of world electricity 2023, wind|8"),
    ("Research the moon landings and visualise them as a timeline", [], "research build",
     "Luna 9|Apollo 17|timeline"),
    ("Compare heat pumps with gas boilers, then draft a recommendation", [], "compare draft",
     "Heat pump|Gas boiler|Sources"),
    ("Research tidal power and build a comprehensive report", [], "research build",
     "Tidal power|report"),
    ("Compare both offers and draft a reply to the better one", OFFERS, "compare draft",
     "9,000|7,500"),
    ("Summarise the attached minutes", NOTES[:1], "summarise", "two tonnes"),
    ("Build a dashboard of the sales: Jan 10, Feb 14, Mar 9", [], "build", "Jan|14"),
    ("Make me a timeline of the moon landings", [], "build", "Apollo 11"),
    ("Turn these numbers into a bar chart: apples 3, pears 5, plums 9", [], "build", "plums"),
    ("Draft a letter to the city about the broken street lamp: it has been dark since May", [],
     "draft", "street lamp"),
    ("Investigate coral reefs, with sources", [], "research", "Coral reefs|Sources"),
    ("Recherchiere Lighthouses und baue mir ein Dashboard", [], "research build", "Lighthouses"),
    ("Compare these notes", NOTES, "compare", "two tonnes|out of order"),
    ("Look into composting, then compare it with peat bogs", [], "research compare", "Composting"),
    ("Write a memo on the notes", NOTES, "draft", "lift"),
    ("Table of prices: tea 2.5, coffee 3", [], "build", "coffee|2.5"),
]  # fmt: skip


def _decided(body: dict[str, Any]) -> dict[str, Any]:
    """What the rules find in the message, as a model's decision."""
    message = body["messages"][1]["content"].removeprefix("# Message\n").partition("\n\n# ")[0]
    fields = {"kind", "title", "instruction"}
    items = [each.model_dump(include=fields) for each in classify(message).items]
    return {"needs_work": True, "items": items}


def _quoted(body: dict[str, Any]) -> str:
    """The texts it was given, without what is wanted of them."""
    parts = re.split(r"(?:^|\n\n)# (.+)\n", body["messages"][1]["content"])[1:]
    given = zip(parts[::2], parts[1::2], strict=True)
    return "\n".join(text for title, text in given if title not in {"Part", "What is wanted"})[
        :3900
    ]


def _shown(body: dict[str, Any]) -> dict[str, Any]:
    """A page of the figures and dates that stand in the material."""
    text = body["messages"][1]["content"]
    series = [*find_data(text.splitlines()).series]
    series += re.findall(r"^(\D.{0,80}): (\d[\d.]*) ?(.*)$", text, re.M)
    return {
        "type": page.type_of(text), "title": "What was found", "chart": "bar", "summary": [],
        "figures": [{"label": a, "value": float(n), "unit": u} for a, n, u in series],
        "events": [
            {"date": at, "what": what} for at, what in re.findall(r"^(\d{4}): (.+)$", text, re.M)
        ],
    }  # fmt: skip


async def test_requests_end_in_results_to_keep(harness: Harness, server: ModelServer) -> None:
    """The guide's complex ones and a dozen others, by a model that keeps to its material."""
    scope = {"parts": ["What it is", "What follows"], "questions": []}
    server.answers = {"decide": _decided, "scope": scope, "page": _shown, "text": _quoted}
    for number in (1, 2):
        server.answers[f"part_{number}"] = lambda body: {"gist": _quoted(body)}
    sessions = [harness.begin() for _ in REQUESTS]
    for session, (text, documents, _, _) in zip(sessions, REQUESTS, strict=True):
        await harness.say(session, text, mode="auto", documents=documents)

    for session, (text, _, kinds, wanted) in zip(sessions, REQUESTS, strict=True):
        state = await harness.settled(session)
        assert {(each["type"], each["status"]) for each in state["work"]} == {
            (kind, "completed") for kind in kinds.split()
        }, text
        results = [each for each in harness.messages(session) if each["kind"] == "result"]
        if kinds == "compare draft":  # what it is to be drafted of
            assert results[0]["text"][:200] in results[1]["text"], text
        told = "\n".join(each["text"] for each in results)
        for each in results:
            if artefact := each["data"].get("artefact"):
                at = artefact["url"].removeprefix("/api")
                told += (await harness.call("GET", at, user=None)).text
        for word in wanted.split("|"):
            assert word.casefold() in told.casefold(), (text, word, told[:2000])


async def test_a_model_without_data_asks_for_it(harness: Harness, server: ModelServer) -> None:
    """An empty page is none; the answer's table is shown with all of its columns."""
    nothing = {**_shown({"messages": [{}, {"content": "a table"}]}), "events": []}
    table = {**nothing, "columns": ["Who", "Age", "City"], "rows": [["Ada", "36", "London"]]}
    server.answers["scope"] = {"parts": ["Ages"], "questions": []}
    server.answers["page"] = lambda body: table if "Ada" in str(body) else nothing
    items = [{"kind": "build", "title": "Table", "instruction": "Make a table."}]
    server.answers["decide"] = {"needs_work": True, "items": items}
    told = []
    for answer in ("Ada, 36, London", "Make no page"):
        session = harness.begin()
        await harness.say(session, "Make a table.", mode="auto", ask=True)
        [item] = (await harness.settled(session))["work"]
        assert item["question"].startswith("Which data")
        await harness.answer(session, item, answer)
        await harness.settled(session)
        told.append(harness.messages(session)[-1])

    shown, none = told
    page_ = await harness.call(
        "GET", shown["data"]["artefact"]["url"].removeprefix("/api"), user=None
    )
    assert "<td>Ada</td>" in page_.text
    assert "<td>London</td>" in page_.text
    assert (none["text"].startswith("No page was made"), "artefact" in none["data"]) == (
        True,
        False,
    )


async def test_this_is_what_was_found_before(harness: Harness, server: ModelServer) -> None:
    """Work without texts of its own has the latest results; work that names none is an answer."""
    scope = {"parts": ["All"], "questions": []}
    part = {"part_1": lambda body: {"gist": _quoted(body)}}
    server.answers |= {"decide": _decided, "scope": scope, "text": _quoted, **part}
    session = harness.begin()
    for text in ("Research composting", "Draft a letter about this"):
        await harness.say(session, text, mode="auto")
        await harness.settled(session)
    server.answers["decide"] = {"needs_work": True, "items": []}
    await harness.say(session, "And now?", mode="auto")
    await harness.settled(session)

    said = harness.messages(session)
    [_, letter] = [each for each in said if each["kind"] == "result"]
    assert "fungi and worms" in letter["text"]
    assert (said[-1]["kind"], said[-1]["data"]["tier"]) == ("reply", "standard")


async def test_a_bad_answer_costs_no_work(harness: Harness, server: ModelServer) -> None:
    """After its tries texts are quoted and data is shown by rules, marked as such."""
    bad = Fault(said="Well,")
    server.answers["scope"] = {"parts": ["Lift"], "questions": []}
    server.faults |= {"part_1": [bad] * 2, "page": [bad] * 2, "text": [Fault(said=" ")]}
    session = harness.begin()
    await harness.say(session, "Compare.", mode="work", documents=NOTES)
    state = await harness.settled(session)
    server.answers["decide"] = _decided
    await harness.say(session, "Build a dashboard: Jan 10, Feb 14", mode="auto")
    state = await harness.settled(session)

    assert [each["status"] for each in state["work"]] == ["completed"] * 2
    compared, built = (e for e in harness.messages(session) if e["kind"] == "result")
    assert "could not be used. The lift carries two tonnes." in compared["text"]
    assert "Out of order." in compared["text"]
    shown = await harness.call(
        "GET", built["data"]["artefact"]["url"].removeprefix("/api"), user=None
    )
    assert "could not be used" in shown.text
    assert "Feb" in shown.text


async def test_a_simple_message_needs_no_work(harness: Harness, server: ModelServer) -> None:
    """What the model decides; one that cannot decide leaves it to the words."""
    server.answers["decide"] = {"needs_work": False, "items": []}
    simple = harness.begin()
    await harness.say(simple, "Good morning", mode="auto")
    await harness.settled(simple)
    server.faults["decide"] = [Fault(said="Well,")] * 2
    undecided = harness.begin()
    await harness.say(undecided, "Summarise this, please.", mode="auto", documents=NOTES[:1])
    await harness.settled(undecided)

    assert [each["kind"] for each in harness.messages(simple)] == ["message", "reply"]
    assert [each["kind"] for each in harness.messages(undecided)] == [
        "message", "plan", "result",
    ]  # fmt: skip


async def test_offline_it_says_so(project: Project, rules: Settings) -> None:
    """Without a model nothing is written: each result says what one would do, and what to set."""
    async with Harness(project, rules).open() as harness:
        session = harness.begin()
        await harness.say(session, "The harbour is quiet today.", mode="auto")
        text = "Summarise the notes, then draft a letter to the city."
        await harness.say(session, text, mode="auto", documents=NOTES, ask=True)
        state = await harness.settled(session)
        assert [(item["type"], item["status"]) for item in state["work"]] == [
            ("summarise", "completed"), ("draft", "completed"),
        ]  # fmt: skip
        said = harness.messages(session)

    assert sorted(each["kind"] for each in said) == sorted(
        ["message", "message", "reply", "plan", "result", "result"]
    )
    for each in said:
        if each["kind"] in {"reply", "result"}:
            assert (each["offline"], each["model"]) == (True, "no language model")
            assert "LANGUAGE_MODEL_URL" in each["text"]


async def test_several_items_work_while_the_chat_continues(
    harness: Harness, server: ModelServer
) -> None:
    """A reply comes while others ask; each result comes to the same session."""
    session, item = await harness.asking()
    await harness.say(session, "Compare them again.", mode="work", ask=True, documents=NOTES)
    await harness.say(session, "And how are you?")

    state = await harness.settled(session)

    assert (state["live"], state["waiting"]) == (2, 2)
    said = harness.messages(session)
    assert [each["kind"] for each in said if each["author"] == "assistant"].count("reply") == 1
    for each in state["work"]:
        await harness.answer(session, each, "The city")
    state = await harness.settled(session)
    assert (state["done"], state["live"], state["answer_wanted"]) == (2, 0, False)
    results = [each for each in harness.messages(session) if each["kind"] == "result"]
    assert {each["job_id"] for each in results} == {w["job_id"] for w in state["work"]}
    assert item["job_id"] in {each["job_id"] for each in results}


async def test_the_first_answer_wins(harness: Harness, server: ModelServer) -> None:
    """Of two at the same moment; it is a message, and the model reads it."""
    session, item = await harness.asking()
    assert (item["status"], item["question"]) == ("waiting_for_user", "For whom?")
    assert item["question_options"] == ["The city", "The museum"]
    raced = await asyncio.gather(
        *(harness.answer(session, item, text) for text in ("The city", "Somebody else"))
    )

    assert sorted(raced) == [200, 409]
    winner = ("The city", "Somebody else")[raced.index(200)]
    await harness.settled(session)
    assert await harness.answer(session, item, "The city") == 409
    said = harness.messages(session)
    [answered] = [each for each in said if each["kind"] == "answer"]
    assert (answered["text"], answered["data"]) == (winner, {"question": "For whom?"})
    parts = [seen.body["messages"][1]["content"] for seen in server.seen if "part" in seen.name]
    assert all(f"For whom? {winner}" in each for each in parts)
    [result] = [each for each in said if each["kind"] == "result"]
    assert result["data"]["answer"] == winner


async def test_work_is_cancelled_and_begun_again(harness: Harness, server: ModelServer) -> None:
    """While it runs, and while it asks; finished steps are not paid for twice."""
    session, item = await harness.asking()
    assert await harness.retry(item["job_id"]) == 409
    assert (await harness.cancel(ADA, workId=item["id"])).status_code == 200
    assert (await harness.cancel(ADA, workId=item["id"])).status_code == 409
    assert await harness.answer(session, item, "The city") == 409
    retried = await asyncio.gather(*(harness.retry(item["job_id"]) for _ in range(2)))
    assert sorted(retried) == [200, 409]
    state = await harness.settled(session)
    server.faults["part_2"] = [Fault(hang_after=1)]
    assert await harness.answer(session, state["work"][0], "The city") == 200
    ticking = asyncio.create_task(harness.settled(session))
    await asyncio.wait_for(server.reached.wait(), 60)

    stopping = await harness.cancel(ADA, workId=item["id"])
    state = await ticking

    assert stopping.status_code == 200
    assert (state["cancelled"], state["live"]) == (1, 0)
    assert await harness.retry(item["job_id"]) == 200
    state = await harness.settled(session)
    assert state["done"] == 1
    assert (server.paid["scope"], server.paid["part_1"]) == (1, 1)
    over = await harness.cancel(ADA, workId=item["id"])
    assert (over.status_code, over.json()["code"]) == (409, "invalid_state")
    assert [e["kind"] for e in harness.messages(session)].count("result") == 1


async def test_what_fails_says_why_and_may_be_tried_again(
    harness: Harness, server: ModelServer
) -> None:
    """A reply and a work item; a model in trouble is asked again later by itself."""
    session = harness.begin()
    refused = Fault(422, {"error": {"message": "flagged as unsafe"}})
    server.faults["text"] = [Fault(429, {}, {"Retry-After": "60"}), refused]
    sent = await harness.say(session, "How are you?")
    await harness.settled(session)
    [failed] = (await harness.status(session, ADA))["replies"]
    assert (failed["messageId"], failed["status"]) == (sent, "failed")
    assert "flagged as unsafe" in failed["error"]

    assert await harness.retry(failed["jobId"]) == 200
    await harness.settled(session)
    assert [e["kind"] for e in harness.messages(session)] == ["message", "reply"]

    server.faults["part_1"] = [refused]
    await harness.say(session, "Compare.", mode="work", documents=NOTES)
    state = await harness.settled(session)
    [item] = state["work"]
    assert (item["status"], state["failed"]) == ("failed", 1)
    assert "flagged as unsafe" in item["error_message"]
    assert await harness.retry(item["job_id"]) == 200
    state = await harness.settled(session)
    assert (state["failed"], state["done"]) == (0, 1)
    assert server.paid["scope"] == 1


async def test_messages_sent_at_once_are_all_kept(harness: Harness) -> None:
    """In one order without gaps, each with its reply."""
    session = harness.begin()
    await asyncio.gather(*(harness.say(session, f"Message {n}") for n in range(8)))

    await harness.settled(session)

    said = harness.messages(session)
    assert {e["text"] for e in said if e["author"] == "user"} == {f"Message {n}" for n in range(8)}
    assert len(said) == 16
    at = f"/chat?sessionId={session}&limit=5"
    page = await harness.call("GET", at)
    assert [each["seq"] for each in page.json()["messages"]] == [12, 13, 14, 15, 16]
    older = await harness.call("GET", f"{at}&before=5")
    assert [each["seq"] for each in older.json()["messages"]] == [1, 2, 3, 4]


async def test_sessions_are_paged_and_deleted(harness: Harness) -> None:
    """The one written in last first; deleting cancels what works for it, and nothing comes back."""
    made = [harness.begin() for _ in range(3)]
    for session in (made[1], made[2], made[0]):
        await harness.say(session, "Hello", user=BOB)
    at = f"/chat/sessions?workspace_id={ACME}&limit=2"
    page = (await harness.call("GET", at)).json()
    assert [each["session_id"] for each in page["sessions"]] == [made[0], made[2]]
    more = (await harness.call("GET", f"{at}&after={page['next']}")).json()
    assert more["sessions"][0]["session_id"] == made[1]
    stranger = await harness.call("GET", at, user=EVE)
    assert (stranger.status_code, stranger.json()["code"]) == (404, "workspace_not_found")
    assert (await harness.call("GET", at, user=None)).status_code == 401

    session, _ = await harness.asking()
    for user, status in ((EVE, 404), (None, 404), (BOB, 403), (ADA, 204), (ADA, 404)):
        told = await harness.call("DELETE", f"/chat?sessionId={session}", user=user)
        assert told.status_code == status, told.text
    left = harness.project.rows("select id from public.jobs where session_id = %s", session)
    assert left == []
    # a manager's right
    assert (await harness.call("DELETE", f"/chat?sessionId={made[1]}")).status_code == 204


async def test_a_link_to_a_guest_session_is_a_key(harness: Harness) -> None:
    """Of an application's own, by `open_guest_session`: empty, then said in, then closed."""
    session = harness.project.guest_session()
    named = {"X-Session-Id": session}
    empty = await harness.call("GET", "/chat", user=None, headers=named)
    assert (empty.status_code, empty.json()["messages"]) == (200, [])
    body = {"mode": "reply", "wait_seconds": 0}
    assert (await harness.ask(session, "It leaks.", body=body)).status_code == 202
    await harness.settled(session)
    told = (await harness.call("GET", "/chat", user=None, headers=named)).json()["messages"]
    assert [(each["kind"], each.get("byGuest")) for each in told] == [
        ("message", True), ("reply", None),
    ]  # fmt: skip
    harness.project.run_sql("select public.close_guest_session(%s)", session)
    assert (await harness.call("GET", "/chat", user=None, headers=named)).status_code == 404
    gone = await harness.ask(session, "Hello?")
    assert (gone.status_code, gone.json()["code"]) == (404, "session_not_found")


async def test_a_reply_is_stopped(harness: Harness) -> None:
    """By its message's id, once, and never by who may not."""
    session = harness.begin()
    sent = await harness.say(session, "Hello")
    for user, status in ((EVE, 404), (None, 404), (BOB, 200), (ADA, 409)):
        assert (await harness.cancel(user, workId=sent)).status_code == status
    [reply] = (await harness.status(session, ADA))["replies"]
    assert reply["status"] == "cancelled"


async def test_a_conversation_deleted_under_running_work_stays_deleted(
    harness: Harness, server: ModelServer
) -> None:
    """The work is stopped; what its worker sends later is stored nowhere."""
    server.faults["text"] = [Fault(hang_after=1)]
    session = harness.begin()
    sent = harness.job_of(await harness.say(session, "How are you?"))
    ticking = asyncio.create_task(harness.worker.tick(budget_seconds=60))
    await asyncio.wait_for(server.reached.wait(), 60)

    deleted = await harness.call("DELETE", f"/chat?sessionId={session}")
    await ticking

    assert deleted.status_code == 204
    assert harness.project.row(sent)["status"] == "cancelled"
    assert harness.messages(session) == []


@pytest.mark.parametrize(
    ("text", "fields", "status", "field"),
    [
        ("", {}, 422, "content"),
        (" \n\t ", {}, 422, "content"),
        ("x" * 8001, {}, 400, "messages"),
        (7, {}, 422, "content"),
        ("nul \x00 nul", {}, 400, "U+0000"),
        ("x", {"documents": [{"title": "t", "text": "x" * 20_001}]}, 422, "text"),
        ("x", {"documents": [{"title": "t", "text": "x"}] * 6}, 422, "documents"),
        ("x", {"mode": "think"}, 422, "mode"),
        ("x", {"ask_seconds": 0}, 422, "ask_seconds"),
        ("x", {"wait_seconds": 61}, 422, "wait_seconds"),
        ("x", {"workspace_id": "nonsense"}, 400, "workspace_id"),
    ],
)
async def test_a_bad_message_is_reported_by_its_field(
    harness: Harness, text: Any, fields: dict[str, Any], status: int, field: str
) -> None:
    """Never a 500, and nothing is stored."""
    session = harness.begin()

    told = await harness.ask(session, text, body=fields)

    assert told.status_code == status, told.text
    assert field in told.text
    assert harness.messages(session) == []


async def test_an_answer_that_is_too_long_says_that_it_is_cut(
    harness: Harness, server: ModelServer
) -> None:
    """By a model that keeps to no bound: what is left out is not left out in silence."""
    server.faults["text"] = [Fault(said="word " * 9000)]
    session = harness.begin()
    await harness.say(session, "Tell me everything.")

    await harness.settled(session)

    [_, reply] = harness.messages(session)
    assert (len(reply["text"]), reply["text"][-7:]) == (40_002, "word  …")


async def test_what_a_model_counts_is_no_reason_to_ask_it_again(
    harness: Harness, server: ModelServer
) -> None:
    """An endpoint that counts nonsense is paid once for its answer, which is said."""
    usage = {"prompt_tokens": 10**30, "completion_tokens": 10**30}
    server.faults["text"] = [Fault(said="Nine.", usage=usage)]
    session = harness.begin()
    await harness.say(session, "How many?")

    await harness.settled(session)

    said = [each["text"] for each in harness.messages(session)]
    assert (said, server.paid["text"]) == (["How many?", "Nine."], 1)


async def test_a_text_that_says_nothing_is_answered_like_any_other(harness: Harness) -> None:
    """What counts as a space is each database's own matter: what it took must not stop a worker."""
    session = harness.begin()
    first = harness.job_of(await harness.say(session, "x", mode="work", documents=NOTES))
    await harness.say(session, "Compare.", mode="work", documents=NOTES)
    blank = [{"title": "\u00a0", "text": "\u00a0"}]
    harness.project.run_sql(
        "update public.chat_messages set text = %s, documents = %s where job_id = %s",
        "\u00a0",
        Jsonb([]),
        first,
    )
    harness.project.run_sql(
        "update public.chat_messages set documents = %s where seq = 2 and conversation_id ="
        " (select conversation_id from public.async_session_state where session_id = %s)",
        Jsonb(blank),
        session,
    )

    state = await harness.settled(session)

    assert [(item["status"], item["error_message"]) for item in state["work"]] == [
        ("completed", None),
        ("completed", None),
    ]


async def test_blank_words_of_a_model_are_none(harness: Harness, server: ModelServer) -> None:
    """A title nobody can read, an option nobody can choose: asked again, then done without."""
    blank = {"parts": ["Lift", " "], "questions": []}
    option = {"parts": ["Lift"], "questions": [{"question": "For whom?", "options": ["\n", "We"]}]}
    server.faults["scope"] = [Fault(said=json.dumps(blank)), Fault(said=json.dumps(option))]
    _, item = await harness.asking()
    assert (item["status"], item["question"]) == ("completed", None)
    assert server.paid["scope"] == 2


async def test_lone_surrogates_and_markup_are_kept_or_refused(harness: Harness) -> None:
    """Markup is a text like any other; what no text can hold is a 400."""
    session = harness.begin()
    text = "<script>alert(1)</script> **b** \U0001f409"
    await harness.say(session, text)
    await harness.settled(session)
    broken = await harness.call(
        "POST",
        "/chat",
        content=b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        headers={"Content-Type": "application/json"},
    )

    assert harness.messages(session)[0]["text"] == text
    assert broken.status_code == 400


async def test_there_is_a_measure(harness: Harness) -> None:
    """Of messages in a minute, and of work at once; both are told as 429 before anything runs."""
    session, _ = await harness.asking()
    project, user = harness.project, str(uuid.uuid4())
    project.run_sql(
        "insert into public.workspace_members (workspace_id, user_id) values (%s, %s)", ACME, user
    )
    project.run_sql("select public.set_settings('{\"chat_queued_items_per_session\": 1}')")
    try:
        full = await harness.ask(session, "Compare.", user=ADA, body={"mode": "work"})
        assert (full.status_code, full.json()["code"]) == (429, "quota_exceeded")
        assert "Retry-After" in full.headers
        await harness.say(session, "Summarise and compare.", mode="auto", documents=NOTES)
        state = await harness.settled(session)
        assert state["live"] == 1
        assert "takes no more work" in (harness.messages(session))[-1]["text"]
    finally:
        project.run_sql("select public.set_settings('{\"chat_queued_items_per_session\": 100}')")
    quiet = harness.begin()
    project.run_sql("select public.set_settings('{\"chat_messages_per_minute\": 3}')")
    try:
        body = {"mode": "reply", "wait_seconds": 0, "workspace_id": ACME}
        sent = await asyncio.gather(
            *(harness.ask(quiet, "x", user=user, body=body) for _ in range(6))
        )
        codes = sorted(each.status_code for each in sent)
        assert codes == [202, 202, 202, 429, 429, 429]
    finally:
        project.run_sql("select public.set_settings('{\"chat_messages_per_minute\": 100000}')")
    await harness.settled(quiet)
