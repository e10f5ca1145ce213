"""A job from its submission to its end: states, both ids, repeats, pages, cancel, tenants."""

from __future__ import annotations

import asyncio

from tests.integration.beacon.conftest import EVE, GLOBEX, Providers, Station
from tests.support.killable import until
from tests.support.project import ACME


async def test_a_job_goes_from_created_to_completed(station: Station) -> None:
    """Each state is seen on the way, and both ids lead to it at any time."""
    spec = station.spec(constraints={"min_regions": 2})
    answer = await station.call("POST", "/jobs", json={"workspace_id": ACME, **spec})
    submitted = answer.json()

    assert answer.status_code == 202
    assert {name: submitted[name] for name in ("jobspec_id", "status")} == {
        "jobspec_id": spec["jobspec_id"],
        "status": "created",
    }
    created = await station.look(submitted)
    assert (created["status"], created["outbox_status"]) == ("created", "pending")
    assert [each["status"] for each in created["executions"]] == ["pending", "pending"]

    await station.publish()
    assert (await station.look(submitted))["status"] == "queued"

    state = await station.ended(submitted)
    assert (state["status"], state["reached"]) == ("completed", ["us-east", "eu-west"])
    assert (state["id"], state["jobspec_id"]) == (submitted["id"], spec["jobspec_id"])
    assert state["created_at"] <= state["started_at"] <= state["finished_at"]
    by_spec = (await station.call("GET", f"/jobs/{spec['jobspec_id']}")).json()
    assert by_spec["id"] == submitted["id"]
    for execution in state["executions"]:
        answers = execution["output"]["data"]["responses"]
        assert [each["question_id"] for each in answers] == ["q1", "m1"]
        assert [each.get("category") for each in answers] == [None, "mathematics"]
        assert all(each["response"] and each["duration_ms"] >= 0 for each in answers)


async def test_the_same_spec_again_is_the_same_job(station: Station) -> None:
    """A client that lost the answer may repeat; a changed body needs a version of its own."""
    body = {"workspace_id": ACME, **station.spec()}
    first = await station.call("POST", "/jobs", json=body)
    again = await asyncio.gather(*(station.call("POST", "/jobs", json=body) for _ in range(5)))
    other = await station.call("POST", "/jobs", json={**body, "questions": ["Another one?"]})
    next_version = await station.call(
        "POST", "/jobs", json={**body, "version": "2", "questions": ["Another one?"]}
    )

    assert first.status_code == 202
    assert {answer.status_code for answer in again} == {200}
    assert {answer.json()["id"] for answer in again} == {first.json()["id"]}
    assert (other.status_code, other.json()["code"]) == (409, "jobspec_conflict")
    assert next_version.status_code == 202
    newest = (await station.call("GET", f"/jobs/{body['jobspec_id']}")).json()
    assert newest["id"] == next_version.json()["id"]


async def test_a_cancelled_job_runs_nowhere(station: Station) -> None:
    """In the outbox and in the queue alike; what has ended stays as it ended."""
    waiting = await station.submit()
    first = await station.call("POST", f"/jobs/{waiting['id']}/cancel")
    queued = await station.submit()
    await station.publish()
    second = await station.call("POST", f"/jobs/{queued['jobspec_id']}/cancel")
    done = await station.ended(await station.submit())
    third = await station.call("POST", f"/jobs/{done['id']}/cancel")
    await station.tick()

    assert [answer.status_code for answer in (first, second, third)] == [200, 200, 409]
    assert third.json()["code"] == "invalid_state"
    for job in (waiting, queued):
        state = await station.look(job)
        assert state["status"] == "cancelled"
        assert {each["status"] for each in state["executions"]} == {"cancelled"}
    again = await station.call("POST", f"/jobs/{queued['id']}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")


async def test_a_running_job_is_cancelled_at_its_providers_too(
    station: Station, providers: Providers
) -> None:
    """A provider does not go on working for an answer that no one waits for."""
    providers.faults(None, delay_seconds=600)
    job = await station.submit(constraints={"regions": ["us-east"]})
    running = asyncio.create_task(station.worker.tick(budget_seconds=30))
    await until(lambda: providers.by_name["alpha"].tasks)
    await station.call("POST", f"/jobs/{job['id']}/cancel")
    await running
    await station.tick()
    await station.outbox.cancel_abandoned()

    assert (await station.look(job))["status"] == "cancelled"
    [task] = providers.by_name["alpha"].tasks
    assert task.status == "cancelled"


async def test_pages_are_walked_by_their_cursor(station: Station) -> None:
    """Newest first, each once, and filters narrow them."""
    made = [(await station.submit())["id"] for _ in range(5)]
    seen, cursor = [], None
    for _ in range(20):
        params = {"workspace_id": ACME, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await station.call("GET", "/jobs", params=params)).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None or len(seen) >= 5:
            break
    completed = (await station.call("GET", "/jobs", params={"status": "failed"})).json()

    assert seen[:5] == made[::-1]
    assert made[0] not in {job["id"] for job in completed["jobs"]}


async def test_jobs_of_others_do_not_exist(station: Station) -> None:
    """Not by id, not by jobspec_id, not in lists, nor their executions and receipts."""
    job = await station.ended(await station.submit())
    execution = job["executions"][0]["id"]

    for method, path in (
        ("GET", f"/jobs/{job['id']}"),
        ("GET", f"/jobs/{job['jobspec_id']}"),
        ("GET", f"/jobs/{job['id']}/bundle"),
        ("POST", f"/jobs/{job['id']}/cancel"),
        ("GET", f"/executions/{execution}"),
        ("GET", f"/executions/{execution}/receipt"),
    ):
        assert (await station.call(method, path, user=EVE)).status_code == 404, path
    listed = (await station.call("GET", "/jobs", user=EVE)).json()["jobs"]
    assert job["id"] not in {each["id"] for each in listed}
    into = await station.call(
        "POST", "/jobs", json={"workspace_id": ACME, **station.spec()}, user=EVE
    )
    assert (into.status_code, into.json()["code"]) == (404, "workspace_not_found")


async def test_the_only_workspace_need_not_be_named(station: Station) -> None:
    """Eve belongs to one workspace; her jobs land there."""
    answer = await station.call("POST", "/jobs", json=station.spec(), user=EVE)

    assert (answer.status_code, answer.json()["workspace_id"]) == (202, GLOBEX)


async def test_a_backlog_of_a_hundred_is_accepted_and_runs_once_each(station: Station) -> None:
    """Submissions meet no quota; smaller priorities first, then age; none runs twice."""
    bodies = [
        {
            "workspace_id": ACME,
            "priority": 200 if place % 2 else 50,
            **station.spec(constraints={"regions": ["us-east"]}, questions=["One?"]),
        }
        for place in range(100)
    ]
    answers = [
        answer
        for start in range(0, 100, 10)
        for answer in await asyncio.gather(
            *(station.call("POST", "/jobs", json=body) for body in bodies[start : start + 10])
        )
    ]
    assert {answer.status_code for answer in answers} == {202}
    assert await station.publish() >= 100  # all are there before the first is leased
    await station.tick()

    jobs = [await station.ended(answer.json()) for answer in answers]
    assert {job["status"] for job in jobs} == {"completed"}
    assert all(job["jobspec_id"] and job["id"] for job in jobs)
    numbers = [job["executions"][0]["receipt_number"] for job in jobs]
    assert len(set(numbers)) == 100
    # of those leased together any may begin first
    leased = {
        str(row["id"]): row["at"]
        for row in station.project.rows("select id, started_at as at from public.jobs")
    }
    urgent = [leased[job["queue_job_id"]] for job in jobs if job["priority"] == 50]
    rest = [leased[job["queue_job_id"]] for job in jobs if job["priority"] == 200]
    assert max(urgent) <= min(rest)
