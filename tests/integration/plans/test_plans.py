"""The plans app with and without a language model: stages, reports, streams and access.

The file tests/contract/test_guide_plans.py tests the commands of the guide.
"""

from typing import Any

import pytest

from minutehand_apps.plans.graph import STAGES, select_stages
from minutehand_apps.plans.sample import SAMPLES
from tests.integration.plans.conftest import Harness
from tests.support.engine import ACME, ADA, EVE, Json
from tests.unit.ai.model_server import Fault, ModelServer

SAMPLE = "Sample: no language model is connected"


@pytest.mark.parametrize(
    ("speed", "stages"),
    [("fast_but_skip_details", 8), ("balanced_speed_and_detail", 12), ("all_details_but_slow", 15)],
)
async def test_without_a_model_there_is_one_sample_under_its_banner(
    harness: Harness, speed: Any, stages: int
) -> None:
    """Without a language model, a plan completes with a sample.

    The report states that it is not about the prompt.
    """
    plan_id = await harness.create(speed)
    plan = await harness.ended(plan_id)

    assert (plan["status"], plan["percentage"], len(plan["stages"])) == ("completed", 100, stages)
    response = harness.project.sql(
        "select string_agg(text, '' order by end_offset) as text from queue.output"
        " where job_id = %s and stream = 'strategy'",
        plan["job_id"],
    )
    assert response == [{"text": SAMPLES["strategy"]["text"]}]
    report = await harness.report(plan_id)
    assert f"{SAMPLE}, so this plan does not answer the request." in report
    assert report.startswith("# Sample plan")
    assert len(report.split("\n## ")) == stages + 1
    assert "26 days along the longest chain of tasks." in report
    assert "partial" not in report


async def test_a_model_makes_the_plan_and_the_code_adds_it_up(
    with_model: Harness, server: ModelServer
) -> None:
    """With a language model, each stage sends one request.

    The code computes the sums, and the report escapes the model's text.
    """
    plan_id = await with_model.create("all_details_but_slow")
    plan = await with_model.ended(plan_id)

    assert plan["status"] == "completed"
    assert sorted(seen.name for seen in server.seen) == sorted(stage.name for stage in STAGES)
    report = await with_model.report(plan_id)
    assert report.startswith("# Bakery\n")
    assert "Written by a language model" in report
    assert "SAMPLE" not in report
    assert "6 days of work in all." in report
    assert "4 days along the longest chain of tasks." in report
    assert "| C | A, B | 3 | 4 |" in report
    assert "1,000.50 EUR in all." in report
    page = await with_model.report(plan_id, "text/html")
    assert "A line &lt;b&gt;" in page
    assert "<b>" not in page


CIRCLE = {"order": [{"task": "A", "after": ["B"]}, {"task": "B", "after": ["A"]}]}
UNKNOWN = {"order": [{"task": "C", "after": ["Paint"]}]}


@pytest.mark.parametrize(
    ("wrong", "response"),
    [(CIRCLE, "in a cycle: "), (UNKNOWN, "Paint: unknown tasks, known are A, B, C")],
)
async def test_an_order_that_cannot_be_is_mended_once(
    with_model: Harness, server: ModelServer, wrong: Any, response: str
) -> None:
    """If the model orders tasks in a cycle or names unknown tasks, it is asked once more.

    A second error fails only this stage.
    """
    good = server.answers["dependencies"]
    server.answers["dependencies"] = lambda body: (
        good if response in body["messages"][0]["content"] else wrong
    )
    assert (await with_model.ended(await with_model.create()))["status"] == "completed"

    server.answers["dependencies"] = wrong
    plan_id = await with_model.create()
    plan = await with_model.ended(plan_id)
    report = await with_model.report(plan_id)

    assert plan["status"] == "failed"
    assert "## This report is partial" in report
    assert "- Schedule: The language model's answer could not be used. Try again" in report
    logs = with_model.project.sql("select message from job_logs where log_level = 'error'")
    assert any(response in line["message"] for line in logs)
    assert "## Budget" in report
    assert "Written by a language model" in report


DOWN = Fault(500, {"error": {"message": "out of order"}})


async def test_a_permanent_error_costs_a_handful_of_requests(
    with_model: Harness, server: ModelServer
) -> None:
    """If every request to the model fails, the plan fails after at most ten requests.

    A user may then retry the plan.
    """
    server.faults["*"] = [DOWN] * 99
    plan_id = await with_model.create("all_details_but_slow")
    plan = await with_model.ended(plan_id)
    report = await with_model.report(plan_id)

    assert plan["status"] == "failed"
    assert plan["error"] == "What is asked: The language model failed"
    assert len(server.seen) <= 10
    assert "sample" not in report
    assert (
        f"- {select_stages('all_details_but_slow')[0].title}: The language model failed" in report
    )
    server.faults.clear()
    again = await with_model.call("POST", f"/{plan_id}/retry", user=None)
    assert again.json()["status"] in {"pending", "running"}
    assert (await with_model.ended(plan_id))["status"] == "completed"
    over = await with_model.call("POST", f"/{plan_id}/retry", user=None)
    assert over.status_code == 409


async def test_a_plan_waits_for_a_model_that_is_away(
    with_model: Harness, server: ModelServer
) -> None:
    """A plan waits while the model's rate limit is reached, and shows when it asks again.

    No attempt counts.
    """
    server.faults["budget"] = [Fault(429, {}, {"Retry-After": "20"})] * 9
    plan_id = await with_model.create()
    waits = await with_model.tick_until(
        lambda: with_model.look(plan_id), lambda seen: seen["waits_for"]
    )
    assert (waits["status"], waits["error"]) == ("running", None)
    assert "has reached its rate limit; it is asked again at " in waits["waits_for"]
    done = await with_model.ended(plan_id)

    assert (done["status"], done["waits_for"]) == ("completed", None)
    response = await with_model.stream(f"/{plan_id}/stream", user=None)
    shown = [e["data"]["percentage"] for _, e in response if e["type"] == "stage_progress"]
    assert shown == sorted(shown)
    assert with_model.project.row(done["job_id"])["attempts"] == 1


async def test_a_members_plan_is_their_workspaces(harness: Harness) -> None:
    """Guests and other tenants get 404 for a member's plan.

    A repeated idempotency key returns the plan, and 409 for another prompt.
    """
    key = {"Idempotency-Key": "k"}
    plan_id = await harness.create(user=ADA, headers=key)
    assert await harness.create(user=ADA, headers=key) == plan_id
    body = {"prompt": "Another", "workspace_id": ACME}
    other = await harness.call("POST", "", json=body, headers=key)
    assert other.status_code == 409

    for stranger in (EVE, None):
        answer = await harness.call("GET", f"/{plan_id}/report", user=stranger)
        assert answer.status_code == 404
    await harness.ended(plan_id, ADA)
    [row] = (await harness.rest("GET", f"/plan_states?plan_id=eq.{plan_id}")).json()
    assert row["status"] == "completed"


async def test_a_shared_report_shows_no_id_of_its_plan(harness: Harness) -> None:
    """A public link to a plan's report has its own id and shows no other id.

    A link that was ended returns 404.
    """
    plan_id = await harness.create(user=ADA)
    place = f"/{plan_id}/share"
    links = []
    for shared in (True, True, False, True):
        made = await harness.ok("PUT", place, json={"shared": shared})
        links.append(made["share_id"])
    database = harness.project.database
    of_it = "select id, share_id, workspace_id, job_id, created_by from plans where id = %s"
    [ids] = database.session().execute(of_it, (plan_id,)).fetchall()
    made_by = str(ids[3])
    with database.as_role("anon") as anyone:
        shown = anyone.execute("select plan_shared(%s)::text", (links[-1],)).fetchone()

    assert (links[0] == links[1], links[2], links[3] in {links[0], plan_id}) == (True, None, False)
    assert "prompt" in str(shown)
    assert [each for each in ids if str(each) in str(shown)] == []
    ended = await harness.call("GET", f"/shared/{links[0]}", user=None)
    assert ended.status_code == 404
    assert (await harness.call("DELETE", f"/{plan_id}")).status_code == 204
    assert harness.project.row(made_by)["status"] == "cancelled"


async def test_a_person_edits_chapters_and_no_rewrite_replaces_them(with_model: Harness) -> None:
    """A user may edit chapters of text and points. A retry of another chapter keeps the edits."""
    plan_id = await with_model.create()
    await with_model.ended(plan_id)

    async def edit(stage: str, text: str) -> int:
        body = {"text": text}
        path = f"/{plan_id}/chapters/{stage}"
        return (await with_model.call("PUT", path, user=None, json=body)).status_code

    made = [
        await edit("strategy", " Bake\nless. "),
        await edit("assumptions", "Rain\r\n\n  Wind "),
        await edit("work_breakdown", "A"),
        await edit("weather", "A"),
        await edit("strategy", " \n"),
        await edit("strategy", "A" * 6001),
        await edit("assumptions", "A\n" * 31),
        await edit("assumptions", "A" * 501),
    ]
    await with_model.ok("POST", f"/{plan_id}/chapters/risks/retry", user=None)
    after = await with_model.ended(plan_id)

    assert made == [200, 200, 409, 409, 422, 422, 409, 409]
    results = {stage["name"]: stage["result"] for stage in after["stages"]}
    assert results["strategy"] == {"text": "Bake\nless."}
    assert results["assumptions"] == {"points": ["Rain", "Wind"]}


async def test_a_person_changes_the_days_and_the_order_of_tasks(with_model: Harness) -> None:
    """The report computes the schedule from the change. Wrong changes are rejected."""
    plan_id = await with_model.create()
    early = {"task": "A", "days": 1, "after": []}
    assert (await with_model.call("PUT", f"/{plan_id}/tasks", json=early)).status_code == 409
    await with_model.ended(plan_id)
    cases = {
        "a cycle": (400, {"task": "A", "days": 2, "after": ["C"]}),
        "an unknown task": (404, {"task": "X", "days": 2, "after": []}),
        "an unknown task before": (404, {"task": "A", "days": 2, "after": ["X"]}),
        "negative days": (422, {"task": "A", "days": -1, "after": []}),
        "a change": (200, {"task": "C", "days": 1.5, "after": ["B"]}),
        "another change": (200, {"task": "B", "days": 2, "after": ["A"]}),
    }
    for name, (status, body) in cases.items():
        response = await with_model.call("PUT", f"/{plan_id}/tasks", user=None, json=body)
        assert response.status_code == status, (name, response.text)
    report = await with_model.report(plan_id)
    assert "| A |  | 0 | 2 |\n| B | A | 2 | 4 |\n| C | B | 4 | 5.5 |" in report


async def test_one_chapter_is_made_again_and_the_others_are_kept(
    with_model: Harness, server: ModelServer
) -> None:
    """A retry of one chapter sends one request to the model and keeps the other chapters.

    The report is available meanwhile. While the plan runs, another retry is rejected.
    """
    plan_id = await with_model.create()
    plan = await with_model.ended(plan_id)
    server.answers["work_breakdown"] = {"tasks": [{"id": "X", "title": "Else", "days": 1}]}
    server.answers["strategy"] = {"text": "Bake more."}
    formats = ("text/markdown", "text/html", "application/json")

    async def retry(stage: str) -> int:
        path = f"/{plan_id}/chapters/{stage}/retry"
        return (await with_model.call("POST", path, user=None)).status_code

    def results(plan: Json) -> Json:
        return {each["name"]: each["result"] for each in plan["stages"]}

    for stage in select_stages("fast_but_skip_details"):
        server.seen.clear()
        before = results(plan)
        assert [await retry(name) for name in (stage.name, stage.name, "weather")] == [
            200,
            409,
            404,
        ]
        for accept in formats:
            assert stage.title in await with_model.report(plan_id, accept)
        plan = await with_model.ended(plan_id)
        for accept in formats:
            assert stage.title in await with_model.report(plan_id, accept)
        assert [seen.name for seen in server.seen] == [stage.name]
        after = results(plan)
        assert {**before, stage.name: after[stage.name]} == after
        if stage.name == "work_breakdown":
            outdated = "| c | A,  sign |\n| Oven |  |\n\nThe work breakdown has changed"
            assert outdated in await with_model.report(plan_id)
            server.answers["dependencies"] = {"order": [{"task": "X"}]}
    assert results(plan)["strategy"] == {"text": "Bake more."}
    assert "1 days along the longest chain" in await with_model.report(plan_id)
