"""Rules of the beacon app that its guide does not test: failover, outbox, cancel, receipts."""

import asyncio
from html import escape

import pytest
from psycopg.types.json import Jsonb

from minutehand.worker.testing import drain
from minutehand_apps.beacon.receipts import read_keys, verify
from tests.integration.beacon.conftest import ENDED, Providers, Station
from tests.support.engine import EVE, GLOBEX, Json
from tests.support.harness import until
from tests.support.killable import survive


async def verdict(station: Station, bundle: Json) -> str:
    return verify(bundle, read_keys(await station.ok("GET", "/keys", user=None))).verdict


@pytest.mark.timeout(600)
async def test_workers_killed_in_each_stage_make_one_receipt_of_each_execution(
    station: Station, providers: Providers
) -> None:
    """Workers are killed after each write.

    The beacon job still completes with one receipt per execution.
    """
    job = await station.submit(constraints={"min_regions": 2})

    async def ended() -> object:
        await station.outbox.run()
        return (await station.look(job))["status"] in ENDED

    deaths = await survive(
        station.project,
        "beacon",
        ended,
        BEACON_PROVIDERS=providers.variable,
        SEALING_KEY_FILE=station.settings.sealing_key_file,
    )

    state = await station.look(job)
    assert (state["status"], state["reached"]) == ("completed", ["us-east", "eu-west"])
    bundle = await station.ok("GET", f"/jobs/{job['id']}/bundle")
    assert (len(bundle["receipts"]), await verdict(station, bundle)) == (2, "passed")
    assert len(deaths) >= 3, deaths


BLANK = {"question_id": "q1", "response": " \u200b", "duration_ms": 1}


@pytest.mark.parametrize(
    "reasons",
    [
        {
            "alpha could not be reached; ": {"down": True},
            "gamma's answer could not be used": {"result": {"data": "the answers"}},
        },
        {
            "alpha ran in region 'nowhere-1', not 'us-east'": {"result": {"region": "nowhere-1"}},
            "no answer to question 'q1'": {"answers": lambda given: given[1:]},
        },
        {
            "question 'q1' is answered twice": {"answers": lambda given: [*given, given[0]]},
            "the answer to question 'q1' is empty": {"answers": lambda _: [BLANK]},
        },
        {
            "alpha returned the result of another execution": {"result": {"task_id": "other"}},
            "gamma returned the result of another execution": {"result": {"execution_id": "other"}},
        },
    ],
    ids=["away", "elsewhere", "wrong answers", "of another"],
)
async def test_a_region_fails_over_and_says_why_when_all_its_providers_fail(
    station: Station, providers: Providers, reasons: dict[str, Json]
) -> None:
    """When a region's first provider fails, the second one is tried.

    A job that reaches too few regions fails with each provider's error.
    """
    first, second = reasons.values()
    providers.faults("alpha", **first)
    providers.faults("gamma", "us-east", **second)
    failed = await station.ended(await station.submit(constraints={"min_regions": 2}))

    served = {each["region"]: each["provider"] for each in failed["executions"]}
    assert served["eu-west"] == "beta"
    assert (failed["status"], failed["reached"]) == ("failed", ["eu-west"])
    assert "reached 1 of 2 regions, and needs 2: us-east: " in failed["error"]
    assert [reason for reason in reasons if reason not in failed["error"]] == []
    bundle = await station.ok("GET", f"/jobs/{failed['id']}/bundle")
    assert (bundle["closing"]["status"], await verdict(station, bundle)) == ("failed", "passed")


async def test_the_answers_have_a_public_link(station: Station) -> None:
    """A member creates a public link to the job's answers, which contains no ids.

    Other tenants cannot create a link, and an ended link returns 404.
    """
    job = await station.ended(await station.submit(questions=["1 < <b>2</b>?"]))
    place = f"/jobs/{job['id']}/share"
    other = await station.call("PUT", place, json={"shared": True}, user=EVE)
    link = (await station.ok("PUT", place, json={"shared": True}))["url"].removeprefix("/api/v1")
    page = await station.call("GET", link, user=None)
    again = await station.ok("PUT", place, json={"shared": True})
    await station.ok("PUT", place, json={"shared": False})
    ended = await station.call("GET", link, user=None)

    assert (other.status_code, page.status_code, ended.status_code) == (404, 200, 404)
    assert again["url"].endswith(link)
    answers = [each["output"]["data"]["responses"][0]["response"] for each in job["executions"]]
    assert [page.text.count(f">{escape(answer)}</td>") for answer in answers] == [1, 1]
    assert "<th>1 &lt; &lt;b&gt;2&lt;/b&gt;?</th>" in page.text
    ids = [job["id"], job["workspace_id"], job["created_by"], job["queue_job_id"]]
    assert [each for each in ids if each in page.text] == []


async def test_a_job_is_repeated_and_names_the_one_before(station: Station) -> None:
    """A `beacon_repeat` job submits the spec with a new version once, in its own workspace only."""
    first = await station.ended(await station.submit())
    assert first["previous_id"] is None
    repeat = ("beacon_repeat", {"job_id": first["id"]})
    own = station.project.insert(*repeat)
    foreign = station.project.insert(*repeat, workspace_id=GLOBEX)
    await drain(station.worker)
    again = await station.ended({"id": station.project.row(own)["result"]["job_id"]})

    assert again["previous_id"] == first["id"]
    assert again["version"].startswith("1@20")
    assert {**again["spec"], "version": "1"} == first["spec"]
    assert station.project.row(foreign)["error_message"].startswith("Job not found")


async def test_an_unknown_message_is_a_dead_letter_and_redrive_publishes_it_again(
    station: Station,
) -> None:
    """An outbox message that cannot be read fails its job and blocks no other message.

    After a repair, `redrive` publishes the message again.
    """
    strange, good = await station.submit(), await station.submit()
    rewrite = "update beacon_outbox set message = message || %s where job_id = %s"
    station.project.sql(rewrite, Jsonb({"version": 9}), strange["id"])
    assert (await station.ended(good))["status"] == "completed"

    state = await station.look(strange)
    assert (state["status"], state["outbox_status"]) == ("failed", "dead")
    assert "version" in state["error"]
    station.project.sql(rewrite, Jsonb({"version": 1}), strange["id"])
    assert (await station.call("POST", "/outbox/redrive", json={}, user=EVE)).json()["count"] == 0
    assert (await station.ok("POST", "/outbox/redrive", json={}))["count"] == 1
    assert (await station.ended(strange))["status"] == "completed"


async def test_publishers_side_by_side_publish_each_message_once(
    station: Station, providers: Providers
) -> None:
    """Two workers that publish one outbox at the same time publish each message once."""
    jobs = [await station.submit() for _ in range(12)]
    async with Station(station.project, providers).open() as other:
        await asyncio.gather(*(each.outbox.run() for each in (station, other) for _ in range(3)))

    rows = station.project.sql(
        "select payload ->> 'job_id' as id from jobs where job_type = 'beacon_job'"
        " and payload ->> 'job_id' = any (%s)",
        [job["id"] for job in jobs],
    )
    assert sorted(row["id"] for row in rows) == sorted(job["id"] for job in jobs)


async def test_a_cancelled_job_runs_nowhere(station: Station, providers: Providers) -> None:
    """A beacon job can be cancelled in the outbox and while a provider runs it.

    A completed job cannot be cancelled.
    """
    waiting = await station.submit()
    await station.ok("POST", f"/jobs/{waiting['id']}/cancel")
    done = await station.ended(await station.submit())
    providers.faults(None, hang=True)
    job = await station.submit(constraints={"regions": ["us-east"]})

    def count_tasks() -> int:  # the region's second provider runs the job if the first one fails
        return sum(len(provider.tasks) for provider in providers.by_name.values())

    before = count_tasks()

    async def work() -> None:
        while count_tasks() == before:  # the first runs may not reach a provider
            await station.worker.tick(budget_seconds=30)

    running = asyncio.create_task(work())
    await until(lambda: count_tasks() > before)
    await station.ok("POST", f"/jobs/{job['jobspec_id']}/cancel")
    await running

    for each in (waiting, job):
        state = await station.look(each)
        assert (state["status"], state["executions"][0]["status"]) == ("cancelled", "cancelled")
    again = await station.call("POST", f"/jobs/{done['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "invalid_state")
    assert (await station.ok("POST", f"/jobs/{job['id']}/cancel"))["status"] == "cancelled"


async def test_a_stored_receipt_that_the_key_did_not_sign_is_not_given_out(
    station: Station,
) -> None:
    """A receipt that was changed in the database has an invalid signature.

    The API does not return it.
    """
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    [execution] = state["executions"]
    station.project.sql(
        'update beacon_executions set receipt = receipt || \'{"provider": "other"}\' where id = %s',
        execution["id"],
    )

    for path in (f"/executions/{execution['id']}/receipt", f"/jobs/{state['id']}/bundle"):
        answer = await station.call("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (409, "receipt_invalid")
