"""From a prompt to its report, for members and guests; failures, restarts and forks."""

from __future__ import annotations

import asyncio
import io
import zipfile
from typing import Any

import pytest

from minutehand.config import Settings
from minutehand_apps.plans.planning.chapters import Chapter, Inputs
from minutehand_apps.plans.planning.graph import stages_of
from minutehand_apps.plans.planning.making import MAKERS
from tests.integration.plans.conftest import EVE, PROMPT, Harness
from tests.support.project import ACME, Project
from tests.unit.ai.model_server import Fault, ModelServer

SPEEDS = ["fast_but_skip_details", "balanced_speed_and_detail", "all_details_but_slow"]
WORDS = {
    "plan_created", "stage_started", "stage_progress", "log", "stage_completed", "stage_failed",
    "artifact_ready", "plan_completed", "plan_failed", "plan_cancelled", "plan_deleted",
}  # fmt: skip


@pytest.mark.parametrize("speed", SPEEDS)
async def test_a_prompt_becomes_a_plan_with_every_stage_of_its_level(
    harness: Harness, speed: str
) -> None:
    """Each stage once, in an order that the graph allows, with two files each."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    plan = await harness.create(speed=speed, headers={"traceparent": trace})
    assert plan["status"] == "pending"
    assert plan["realtime_topic"] == f"session:plan:{plan['plan_id']}"

    state = await harness.ended(plan)
    events = await harness.events(plan)

    declared = [stage.name for stage in stages_of(speed)]
    assert len(declared) >= 15
    assert (state["status"], state["percentage"], state["error"]) == ("completed", 100, None)
    assert [stage["name"] for stage in state["stages"]] == declared
    assert {(stage["status"], stage["attempts"]) for stage in state["stages"]} == {("completed", 1)}
    assert all(stage["started_at"] <= stage["ended_at"] for stage in state["stages"])
    ends = [event["data"]["stage"] for event in events if event["type"] == "stage_completed"]
    assert sorted(ends) == sorted(declared)
    for stage in stages_of(speed):
        assert all(ends.index(need) < ends.index(stage.name) for need in stage.needs), stage.name
    names = {each["name"] for each in state["artifacts"]}
    assert {"report.html", "report.md", "gantt.svg"} <= names
    assert len([name for name in names if name.endswith(".json")]) == len(declared) - 1
    assert {event["type"] for event in events} <= WORDS
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("plan_created", "plan_completed")
    job = harness.project.row(plan["job_id"])
    assert (job["status"], job["result"]["outcome"]) == ("completed", "completed")
    assert job["traceparent"] == trace


async def test_stages_that_do_not_need_each_other_run_side_by_side(harness: Harness) -> None:
    """More than one is started before the first of them is completed."""
    plan = await harness.create(speed="all_details_but_slow")
    await harness.ended(plan)

    running, most = 0, 0
    for event in await harness.events(plan):
        running += {"stage_started": 1, "stage_completed": -1}.get(event["type"], 0)
        most = max(most, running)
    assert most >= 3


async def test_the_report_is_there_in_three_forms_with_all_files(harness: Harness) -> None:
    """HTML by default, Markdown and JSON by `Accept`; the zip has what the list names."""
    plan = await harness.create(speed="balanced_speed_and_detail")
    await harness.ended(plan)

    page = await harness.get(plan, "/report")
    text = await harness.get(plan, "/report", headers={"Accept": "text/markdown"})
    listed = (await harness.get(plan, "/files")).json()
    packed = await harness.get(plan, "/zip")
    again = await harness.get(plan, "/zip")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<svg" in page.text
    assert "<script" not in page.text
    assert "http" not in page.text.replace("http://www.w3.org/2000/svg", "")
    assert "sandbox" in page.headers["content-security-policy"]
    assert text.text.startswith("# Project plan")
    assert (await harness.report(plan))["partial"] is False
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.namelist() == [each["name"] for each in listed["files"]]
        assert (
            archive.read("report.html").decode()
            == (await harness.get(plan, "/files/report.html")).text
        )
    assert packed.content == again.content
    assert (await harness.get(plan, "/files/nothing.md")).status_code == 404
    ready = await harness.get(plan, "/stream-status")
    assert ready.json() == {"status": "ready", "ready": True}


async def test_a_deleted_plan_is_gone_everywhere(harness: Harness) -> None:
    """Its files and stages with it; the second deletion is a 404 as well."""
    plan = await harness.create()
    await harness.ended(plan)

    first = await harness.call("DELETE", f"/{plan['plan_id']}")
    second = await harness.call("DELETE", f"/{plan['plan_id']}")

    assert (first.status_code, second.status_code) == (204, 404)
    for path in ("", "/stream-status", "/stream", "/report", "/files", "/files/report.md", "/zip"):
        answer = await harness.get(plan, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "plan_not_found"), path
    for action in ("cancel", "restart"):
        assert (await harness.call("POST", f"/{plan['plan_id']}/{action}")).status_code == 404
    left = harness.project.rows(
        "select 1 from public.plan_stages where plan_id = %s", plan["plan_id"]
    )
    assert left == []
    mine = (await harness.call("GET", "")).json()["plans"]
    assert plan["plan_id"] not in {each["plan_id"] for each in mine}


async def test_deleting_a_plan_that_runs_cancels_its_job(
    narrated: Harness, server: ModelServer
) -> None:
    """The worker finds it gone and stores nothing."""
    server.faults["strategy"] = [Fault(hang_after=1)]
    plan = await narrated.create()
    ticking = asyncio.create_task(narrated.worker.tick(budget_seconds=60))
    await asyncio.wait_for(server.reached.wait(), 90)

    deleted = await narrated.call("DELETE", f"/{plan['plan_id']}")
    await ticking

    assert deleted.status_code == 204
    assert narrated.project.row(plan["job_id"])["status"] in {"cancelled", "completed"}
    assert (await narrated.get(plan, "")).status_code == 404


async def test_a_cancelled_plan_keeps_its_report_and_can_be_restarted(
    narrated: Harness, server: ModelServer
) -> None:
    """What is missing is named with its reason; finished stages are not run again."""
    server.faults["strategy"] = [Fault(hang_after=1)]
    plan = await narrated.create()
    ticking = asyncio.create_task(narrated.worker.tick(budget_seconds=60))
    await asyncio.wait_for(server.reached.wait(), 90)
    cancelled = await narrated.call("POST", f"/{plan['plan_id']}/cancel")
    await ticking

    report = await narrated.report(plan)
    assert cancelled.json()["status"] == "cancelled"
    assert report["partial"] is True
    assert {each["code"] for each in report["missing"]} == {"cancelled"}
    assert "understand" in {chapter["stage"] for chapter in report["chapters"]}
    assert (await narrated.events(plan))[-1]["type"] == "plan_cancelled"

    restarted = await narrated.call("POST", f"/{plan['plan_id']}/restart")
    state = await narrated.ended(plan)
    assert (restarted.status_code, state["status"], state["run"]) == (202, "completed", 2)
    starts = [
        event["data"]["stage"]
        for event in await narrated.events(plan)
        if event["type"] == "stage_started"
    ]
    assert starts.count("understand") == 1
    assert (await narrated.call("POST", f"/{plan['plan_id']}/restart")).status_code == 409


async def test_a_stage_that_fails_leaves_a_partial_report_and_is_restarted_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest goes on as far as it does not need it; a restart makes what is missing."""

    def broken(inputs: Inputs) -> Chapter:
        raise ValueError("no such figure")

    monkeypatch.setitem(MAKERS, "budget", broken)
    plan = await harness.create()
    state = await harness.ended(plan)
    report = await harness.report(plan)

    assert (state["status"], state["error"]["stage"]) == ("failed", "budget")
    missing = {each["stage"]: each["code"] for each in report["missing"]}
    assert missing["budget"] == "not_computable"
    assert set(missing.values()) <= {"not_computable", "needs_stage"}
    assert "This report is partial" in (await harness.get(plan, "/report")).text
    types = [event["type"] for event in await harness.events(plan)]
    assert (types.count("stage_failed"), types[-1]) == (1, "plan_failed")
    monkeypatch.undo()
    assert (await harness.call("POST", f"/{plan['plan_id']}/restart")).status_code == 202
    state = await harness.ended(plan)
    assert (state["status"], (await harness.report(plan))["missing"]) == ("completed", [])
    assert {each["attempts"] for each in state["stages"]} <= {1, 2}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(422, {"error": {"message": "flagged as unsafe"}}),
        Fault(said='{"text": "There are 987 risks."}'),
        Fault(said='{"text": "There'),
    ],
)
async def test_a_bad_paragraph_costs_no_stage(
    narrated: Harness, server: ModelServer, fault: Fault
) -> None:
    """After its tries the template's text stands, marked as such; the refused figure is nowhere."""
    server.faults["strategy"] = [fault] * 3
    plan = await narrated.create()

    state = await narrated.ended(plan)
    report = await narrated.report(plan)

    assert (state["status"], report["missing"]) == ("completed", [])
    chapters = {chapter["stage"]: chapter for chapter in report["chapters"]}
    strategy, risks = chapters["strategy"], chapters["risks"]
    assert "the template's" in strategy["blocks"][1]["text"]
    assert (strategy["model"], risks["model"]) == (None, "test-model")
    assert "987" not in (await narrated.get(plan, "/report")).text


async def test_a_model_writes_the_narratives_and_no_figures_of_its_own(
    narrated: Harness, server: ModelServer
) -> None:
    """A text with a figure that was not computed is refused, and asked for once more."""
    server.faults["risks"] = [Fault(said='{"text": "There are 987 risks."}')]
    plan = await narrated.create()

    await narrated.ended(plan)

    report = await narrated.report(plan)
    chapters = {chapter["stage"]: chapter for chapter in report["chapters"]}
    assert chapters["risks"]["blocks"][0]["text"] == "In words: risks."
    assert chapters["risks"]["model"] == "test-model"
    assert "test-model" in report["notice"]
    logs = [e["data"]["message"] for e in await narrated.events(plan) if e["type"] == "log"]
    assert any("987" in line for line in logs)


async def test_regenerating_from_a_stage_makes_another_plan(harness: Harness) -> None:
    """What does not need the stage is taken over; the dates count from the same day."""
    plan = await harness.create()
    await harness.ended(plan)

    forked = await harness.call("POST", f"/{plan['plan_id']}/regenerate", json={"stage": "budget"})
    assert forked.status_code == 202, forked.text
    state = await harness.ended(forked.json())

    assert (state["status"], state["forked_from"], state["forked_at_stage"]) == (
        "completed", plan["plan_id"], "budget",
    )  # fmt: skip
    events = await harness.events(forked.json())
    again = {e["data"]["stage"] for e in events if e["type"] == "stage_started"}
    assert again == {"budget", "risks", "governance", "questions", "executive_summary", "report"}
    assert (await harness.report(plan))["chapters"] == (await harness.report(forked.json()))[
        "chapters"
    ]
    unknown = await harness.call("POST", f"/{plan['plan_id']}/regenerate", json={"stage": "x"})
    assert unknown.status_code == 422


async def test_a_figure_is_corrected_and_everything_computed_again(harness: Harness) -> None:
    """By a plan of its own, from the words that the ledger shows; the first one stays."""
    plan = await harness.create(prompt="Plant 40 roses by 30 June 2099. Each rose costs 4,50 EUR.")
    await harness.ended(plan)
    chapter = next(
        each for each in (await harness.report(plan))["chapters"] if each["stage"] == "understand"
    )
    lines = [row for block in chapter["blocks"] for row in block.get("rows", [])]
    assert ["4,50 EUR", "price: EUR 4.50 for each rose", "Costs, by quantity"] in lines

    body = {"corrections": [{"text": "4,50 EUR", "means": "450 EUR"}]}
    made = await harness.call("POST", f"/{plan['plan_id']}/regenerate", json=body)
    assert made.status_code == 202, made.text
    state = await harness.ended(made.json())

    assert state["prompt"] == "Plant 40 roses by 30 June 2099. Each rose costs 450 EUR."
    assert (state["status"], state["forked_from"]) == ("completed", plan["plan_id"])
    budgets = {
        each["data"]["budget"]["known"]
        for one in (plan, made.json())
        for each in (await harness.report(one))["chapters"]
        if each["stage"] == "budget"
    }
    assert budgets == {"180.00", "18000.00"}
    for wrong in (
        {"corrections": [{"text": "5 EUR", "means": "6 EUR"}]},
        {"corrections": [{"text": "EUR", "means": "x" * 501}]},
        {"stage": "budget", **body},
    ):
        refused = await harness.call("POST", f"/{plan['plan_id']}/regenerate", json=wrong)
        assert refused.status_code == 422, refused.text


async def test_a_plan_asks_first(harness: Harness) -> None:
    """By the engine's own `ask`: an answer counts as words of the prompt, a skipped one not."""
    body = {"prompt": "Paint our fence by 03/04/2099.", "ask_seconds": 600}
    plan = (await harness.call("POST", "", json=body)).json()
    asked: list[str] = []
    for answer in ("3 April 2099", "skip", "EUR 300"):

        async def look() -> dict[str, Any]:
            return harness.project.row(plan["job_id"])

        await harness.tick_until(look, lambda job: job["status"] == "waiting")
        told = await harness.get(plan, "/stream", headers={"Accept": "application/json"})
        asked.append(told.json()["events"][-1]["data"]["question"])
        answered = await harness.rest(
            "POST",
            "/rpc/answer_job",
            json={"p_job_id": plan["job_id"], "p_answer": {"answer": answer}},
        )
        assert answered.status_code == 200, answered.text
    state = await harness.ended(plan)

    assert (state["status"], asked[1:]) == (
        "completed", ["How many people do the work?", "What may it cost?"],
    )  # fmt: skip
    assert "03/04/2099" in asked[0]
    chapters = {each["stage"]: each for each in (await harness.report(plan))["chapters"]}
    facts = chapters["understand"]["data"]["facts"]
    assert (facts["deadline"]["day"], facts["budget"]["amount"]) == ("2099-04-03", "300")
    assert facts["team"] == []


async def test_a_guest_needs_nothing_but_the_plans_id(harness: Harness, settings: Settings) -> None:
    """Creates, follows, reads and deletes; a session lists its plans."""
    plan = await harness.create(user=None)
    session = {"X-Session-Id": plan["session_id"]}
    second = await harness.create(user=None, headers=session)
    await harness.ended(plan, user=None)

    assert plan["realtime_topic"] == f"session:{plan['session_id']}"
    for path in ("/stream-status", "/stream", "/report", "/files", "/zip"):
        assert (await harness.get(plan, path, user=None)).status_code == 200, path
    listed = (await harness.call("GET", "", user=None, headers=session)).json()["plans"]
    assert [each["plan_id"] for each in listed] == [second["plan_id"], plan["plan_id"]]
    assert (await harness.call("GET", "", user=None)).json() == {"plans": [], "next": None}
    assert (await harness.call("DELETE", f"/{plan['plan_id']}", user=None)).status_code == 204
    assert (await harness.get(plan, "", user=None)).status_code == 404
    [owner] = harness.project.rows(
        "select w.name from public.plans as p join public.workspaces as w on w.id = p.workspace_id"
        " where p.id = %s",
        second["plan_id"],
    )
    assert owner["name"] == "Guests' plans"
    harness.project.run_sql("select public.close_guest_session(%s)", plan["session_id"])
    assert (await harness.get(second, "", user=None)).status_code == 404
    locked = settings.model_copy(update={"allow_anonymous": False})
    async with Harness(harness.project, locked).open() as closed:
        refused = await closed.call("POST", "", user=None, json={"prompt": PROMPT})
    assert refused.status_code == 401


async def test_a_stranger_sees_nothing_of_a_members_plan(harness: Harness) -> None:
    """Neither another tenant nor a guest who knows the id."""
    plan = await harness.create()

    for user in (EVE, None):
        for method, path in [
            ("GET", ""), ("GET", "/report"), ("GET", "/stream"), ("GET", "/stream-status"),
            ("GET", "/files"), ("GET", "/zip"), ("DELETE", ""), ("POST", "/cancel"),
            ("POST", "/restart"),
        ]:  # fmt: skip
            answer = await harness.call(method, f"/{plan['plan_id']}{path}", user=user)
            assert (answer.status_code, answer.json()["code"]) == (404, "plan_not_found"), path
    listed = await harness.call("GET", f"?workspace_id={ACME}", user=EVE)
    assert (listed.status_code, listed.json()["code"]) == (404, "workspace_not_found")


@pytest.mark.parametrize("user", ["aaaaaaaa-0000-4000-8000-000000000001", None])
async def test_the_same_key_finds_the_same_plan(harness: Harness, user: str | None) -> None:
    """In the body or the header, raced; another prompt under it is refused."""
    body = {"prompt": "Plant a hedge", "idempotency_key": f"hedge-of-{user}"}
    named = {}
    if user is None:  # a guest's key counts within its session
        begun = await harness.call("POST", "", user=None, json={"prompt": "Buy a spade"})
        named = {"X-Session-Id": begun.json()["session_id"]}
    first, second = await asyncio.gather(
        *(harness.call("POST", "", user=user, json=body, headers=named) for _ in range(2))
    )
    header = await harness.call(
        "POST", "", user=user, json={"prompt": "Plant a hedge"},
        headers={"Idempotency-Key": f"hedge-of-{user}", **named},
    )  # fmt: skip
    other = await harness.call(
        "POST", "", user=user, json={**body, "prompt": "Fell it"}, headers=named
    )

    assert {first.status_code, second.status_code, header.status_code} == {202}
    assert len({answer.json()["plan_id"] for answer in (first, second, header)}) == 1
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "prompt"),
        ({"prompt": ""}, 422, "prompt"),
        ({"prompt": "   "}, 422, "prompt"),
        ({"prompt": "\u00a0"}, 422, "prompt"),
        ({"prompt": "x" * 8001}, 422, "prompt"),
        ({"prompt": "x", "speed_vs_detail": "warp"}, 422, "speed_vs_detail"),
        ({"prompt": "x", "idempotency_key": ""}, 422, "idempotency_key"),
        ({"prompt": "x", "surprise": 1}, 422, "surprise"),
        ({"prompt": "x", "workspace_id": "22222222-2222-4222-8222-222222222222"}, 404, ""),
    ],
)
async def test_a_bad_request_names_its_field(
    harness: Harness, body: dict[str, Any], status: int, field: str
) -> None:
    """Never a 500, and nothing is created."""
    answer = await harness.call("POST", "", json=body)

    assert answer.status_code == status, answer.text
    assert field in answer.text


async def test_a_plan_whose_job_became_a_dead_letter_has_failed(harness: Harness) -> None:
    """It says so by an event and in its report, and can be restarted."""
    plan = await harness.create()
    harness.project.run_sql(
        "select queue.finish(array[%s::uuid], 'failed', 'The worker died.', '{}', queue.clock())",
        plan["job_id"],
    )

    state = await harness.look(plan)
    report = await harness.report(plan)
    last = (await harness.events(plan))[-1]

    assert (state["status"], state["error"]["code"]) == ("failed", "job_failed")
    assert last["type"] == "plan_failed"
    assert {each["reason"] for each in report["missing"]} >= {"The worker died."}
    assert (await harness.call("POST", f"/{plan['plan_id']}/restart")).status_code == 202
    assert (await harness.ended(plan))["status"] == "completed"


async def test_events_go_to_realtime_as_they_go_to_the_stream(
    harness: Harness, project: Project
) -> None:
    """The same objects on the plan's topic, and nothing beside them."""
    plan = await harness.create()
    await harness.ended(plan)

    sent = project.rows(
        "select event, payload from realtime.messages where topic = %s"
        " order by (payload ->> 'seq')::bigint",
        plan["realtime_topic"],
    )
    events = await harness.events(plan)
    assert [row["event"] for row in sent] == [event["type"] for event in events]
    same = ("plan_id", "seq", "type", "data")
    for row, event in zip(sent, events, strict=True):
        assert {name: row["payload"][name] for name in same} == {n: event[n] for n in same}
