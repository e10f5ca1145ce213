"""Regions and providers: failover by health, faults, min_regions, stragglers, models, timeouts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.beacon.conftest import Providers, Station
from tests.support.killable import until
from tests.support.misbehaving import MisbehavingServer, Request
from tests.support.project import ACME


class Dripping(MisbehavingServer):
    """Answers with a blank each tenth of a second, for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Request] = []

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Begin an answer and never end it."""
        if not request.target.endswith("/cancel"):
            self.seen.append(request)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not (writer.is_closing() or self._stop.is_set()):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.1)


def by_region(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["region"]: each for each in state["executions"]}


@pytest.mark.parametrize("faults", [{"down": True}, {"answers": "missing"}], ids=str)
async def test_another_provider_of_the_region_does_what_the_first_did_not(
    station: Station, providers: Providers, faults: dict[str, Any]
) -> None:
    """Whatever is wrong with the first: the region succeeds, and the receipt names the second."""
    providers.faults("alpha", **faults)
    job = await station.submit(constraints={"regions": ["us-east"]})
    state = await station.ended(job)

    [execution] = state["executions"]
    assert (state["status"], execution["provider"]) == ("completed", "gamma")
    assert (await station.receipt(execution))["provider"] == "gamma"
    [row] = station.project.rows(
        "select failures, error from beacon.provider_health where provider = 'alpha'"
    )
    assert row["failures"] == 1
    assert row["error"].startswith("alpha")


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"down": True}, "answered with status 503"),
        ({"error_rate": 1}, "answered with status 500"),
        ({"wrong_format": True}, "data.responses must be a list"),
        ({"wrong_region": True}, "ran in region 'nowhere-1', not 'us-east'"),
        ({"duplicate": True}, "question 'q1' is answered twice"),
        ({"answers": "missing"}, "no answer to question 'q1'"),
        ({"answers": "extra"}, "not asked"),
        ({"answers": "empty"}, "the answer to question 'q1' is empty"),
    ],
    ids=str,
)
async def test_a_region_whose_providers_all_fail_says_why(
    station: Station, providers: Providers, faults: dict[str, Any], reason: str
) -> None:
    """Fewer than min_regions: the job failed with what was reached, and the reason."""
    providers.faults(None, "us-east", **faults)
    job = await station.submit(constraints={"min_regions": 2})
    state = await station.ended(job)

    found = by_region(state)
    assert state["status"] == "failed"
    assert state["reached"] == ["eu-west"]
    assert "reached 1 of 2 regions, min_regions is 2: us-east: " in state["error"]
    assert reason in state["error"]
    assert (found["us-east"]["status"], found["us-east"]["receipt_id"]) == ("failed", None)
    assert reason in found["us-east"]["error"]
    assert found["eu-west"]["receipt_id"] is not None


async def test_nested_answers_are_stored_direct(station: Station, providers: Providers) -> None:
    """Both shapes come in; one goes out, into receipts too."""
    providers.faults("alpha", nested=True)
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))

    [execution] = state["executions"]
    assert execution["provider"] == "alpha"
    assert list(execution["output"]["data"]) == ["responses"]
    receipt = await station.receipt(execution)
    assert [each["question_id"] for each in receipt["output"]["data"]["responses"]] == ["q1", "m1"]


async def test_a_provider_that_kept_failing_is_asked_last(
    station: Station, providers: Providers
) -> None:
    """After three failures in a row others come first, until it has had time to recover."""
    providers.faults("alpha", down=True)
    for _ in range(3):
        await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    # two seconds, which may be over before the next job begins
    station.project.run_sql(
        "update beacon.provider_health set open_until = open_until + interval '1 hour'"
    )
    providers.by_name["alpha"].faults.clear()
    before = providers.by_name["alpha"].submissions
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    station.project.run_sql("update beacon.provider_health set open_until = queue.clock()")
    later = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))

    assert state["executions"][0]["provider"] == "gamma"
    assert providers.by_name["alpha"].submissions == before + 1
    assert later["executions"][0]["provider"] == "alpha"
    [row] = station.project.rows(
        "select failures, open_until from beacon.provider_health where provider = 'alpha'"
    )
    assert (row["failures"], row["open_until"]) == (0, None)


async def test_stragglers_are_cancelled_where_the_spec_says_so(
    station: Station, providers: Providers
) -> None:
    """The job ends as soon as enough regions have answered; the slow provider is told to stop."""
    providers.faults(None, "eu-west", delay_seconds=600)
    state = await station.ended(await station.submit(constraints={"stragglers": "cancel"}))
    await station.tick()
    await station.outbox.cancel_abandoned()

    assert (state["status"], state["reached"]) == ("completed", ["us-east"])
    assert by_region(state)["eu-west"]["status"] == "cancelled"
    slow = [task for each in providers.by_name.values() for task in each.tasks
            if task.submitted.region == "eu-west"]  # fmt: skip
    assert {task.status for task in slow} == {"cancelled"}


async def test_stragglers_are_waited_for_otherwise(station: Station, providers: Providers) -> None:
    """A slow provider holds no worker: its job waits, and is asked about now and then."""
    providers.faults(None, "eu-west", delay_seconds=600)
    job = await station.submit()
    await station.tick()
    assert (await station.look(job))["status"] == "processing"
    for each in providers.by_name.values():
        for task in each.tasks:
            task.ready_at = 0
    state = await station.ended(job)

    assert (state["status"], state["reached"]) == ("completed", ["us-east", "eu-west"])
    assert sum(each.submissions for each in providers.by_name.values()) == 2


async def test_each_model_runs_in_each_region(station: Station, providers: Providers) -> None:
    """A region succeeds when every model's execution does."""
    state = await station.ended(
        await station.submit(models=["small-1", {"id": "large/2", "temperature": 0}])
    )

    pairs = [(each["region"], each["model"]) for each in state["executions"]]
    assert pairs == [(r, m) for r in ("us-east", "eu-west") for m in ("small-1", "large/2")]
    sent = [t.submitted for each in providers.by_name.values() for t in each.tasks]
    assert [s.model_options for s in sent if s.model == "large/2"] == [{"temperature": 0}] * 2
    assert {(await station.receipt(each))["model"] for each in state["executions"]} == {
        "small-1",
        "large/2",
    }


async def test_a_timeout_ends_what_takes_too_long(station: Station, providers: Providers) -> None:
    """Counted from the job's start, over all attempts."""
    providers.faults(None, delay_seconds=600)
    job = await station.submit(constraints={"regions": ["us-east"], "timeout": 60})
    await station.tick()
    station.project.run_sql(
        "update public.beacon_jobs set started_at = started_at - interval '2 minutes'"
        " where id = %s",
        job["id"],
    )
    state = await station.ended(job)

    assert state["status"] == "failed"
    assert "no answer within 60 s of the job's start" in state["error"]


async def test_a_provider_that_drips_is_failed_over_and_counted(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then keeps a connection, and must not keep the execution.

    The second provider may need longer than that, too: then both are asked again.
    """
    monkeypatch.setattr("minutehand_apps.beacon.processors.CALL_SECONDS", 0.5)
    await station.outbox.cancel_abandoned()  # else the one that drips would be asked for it
    async with Dripping() as server, Providers().open() as providers:
        providers.urls["alpha"] = server.origin
        async with Station(station.project, providers).open() as dripped:
            state = await dripped.ended(
                await dripped.submit(constraints={"regions": ["us-east"], "timeout": 600})
            )

    [execution] = state["executions"]
    assert (state["status"], execution["provider"]) == ("completed", "gamma")
    [row] = station.project.rows(
        "select failures, error from beacon.provider_health where provider = 'alpha'"
    )
    assert row["failures"] >= 1
    assert "alpha took longer than 0.5 s to answer" in row["error"]


async def test_a_timeout_is_kept_within_a_second(station: Station) -> None:
    """Also while a provider is at work: the execution ends when its time does."""
    async with Dripping() as server, Providers().open() as providers:
        providers.urls = dict.fromkeys(providers.urls, server.origin)
        async with Station(station.project, providers).open() as dripped:
            job = await dripped.submit(constraints={"regions": ["us-east"], "timeout": 2})
            state = await dripped.ended(job)

    [row] = station.project.rows(
        "select extract(epoch from e.completed_at - j.started_at)::float8 as seconds"
        " from public.beacon_executions e join public.beacon_jobs j on j.id = e.job_id"
        " where j.id = %s",
        job["id"],
    )
    assert "no answer within 2 s of the job's start" in state["error"]
    assert row["seconds"] >= 2
    assert len(server.seen) <= 1  # no other was begun when time was over


async def test_a_region_that_no_provider_serves_fails_at_once(station: Station) -> None:
    """Waiting would not help; the reason names the region."""
    job = await station.submit(constraints={"regions": ["moon-1", "us-east"], "min_regions": 2})
    await station.tick()
    state = await station.look(job)

    assert state["status"] == "failed"
    assert "no provider serves the region moon-1" in state["error"]


async def test_a_worker_that_dies_between_submission_and_answer_asks_for_the_same_task(
    station: Station, providers: Providers
) -> None:
    """The execution's id is the key: a provider is not asked to work twice."""
    providers.faults("alpha", delay_seconds=600)
    job = await station.submit(constraints={"regions": ["us-east"]})
    running = asyncio.create_task(station.worker.tick(budget_seconds=60))
    await until(lambda: providers.by_name["alpha"].tasks)
    [task] = providers.by_name["alpha"].tasks
    task.ready_at = 0  # done, while the worker is on its way to ask
    await running
    state = await station.ended(job)

    assert state["status"] == "completed"
    assert providers.by_name["alpha"].submissions == 1


async def test_an_execution_runs_once_though_the_queue_offers_it_twice(
    station: Station,
) -> None:
    """A repeated child finds the receipt of the first run and signs no other."""
    state = await station.ended(await station.submit(constraints={"regions": ["us-east"]}))
    [execution] = state["executions"]
    before = len(station.chain())
    [child] = station.project.rows(
        "select id from public.jobs where payload ->> 'execution_id' = %s", execution["id"]
    )
    retried = await station.rest("POST", "/rpc/retry_job", json={"p_job_id": str(child["id"])})
    await station.tick()

    assert retried.status_code in {200, 409}
    assert len(station.chain()) == before
    assert state["workspace_id"] == ACME
