"""The way from the outbox into the queue: nothing lost, nothing twice, dead letters, repairs."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.integration.beacon.conftest import EVE, Providers, Station
from tests.support.project import ACME, Project


def row_of(project: Project, job: dict[str, Any]) -> dict[str, Any]:
    [row] = project.rows("select * from public.beacon_outbox where job_id = %s", job["id"])
    return row


def rewrite(project: Project, job: dict[str, Any], version: int) -> None:
    """Have the job's message be of another version."""
    change = Jsonb({"version": version})
    statement = "update public.beacon_outbox set message = message || %s where job_id = %s"
    project.run_sql(statement, change, job["id"])


def jobs_of(project: Project, job: dict[str, Any]) -> list[dict[str, Any]]:
    return project.rows(
        "select * from public.jobs where job_type = 'beacon_job' and payload ->> 'job_id' = %s",
        job["id"],
    )


def test_a_job_without_an_outbox_row_cannot_be_committed(station: Station) -> None:
    """Whoever writes it, and by whatever statement."""
    spec = station.spec()
    with (
        pytest.raises(psycopg.errors.ForeignKeyViolation, match="have_an_outbox_row"),
        station.project.database.connect() as connection,
    ):
        connection.execute(
            "insert into public.beacon_jobs (workspace_id, jobspec_id, version, spec, outbox_id)"
            " values (%s, %s, '1', %s, %s)",
            (ACME, spec["jobspec_id"], Jsonb(spec), uuid.uuid4()),
        )


async def test_an_outbox_row_of_a_job_cannot_be_deleted_alone(station: Station) -> None:
    """Nor after it was published: the way a job took stays known."""
    job = await station.submit()
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        station.project.run_sql("delete from public.beacon_outbox where job_id = %s", job["id"])


async def test_publishers_side_by_side_publish_each_message_once(
    station: Station, providers: Providers
) -> None:
    """Two workers drain the same outbox at once."""
    jobs = [await station.submit() for _ in range(12)]
    async with Station(station.project, providers).open() as other:
        await asyncio.gather(*(each.publish() for each in (station, other) for _ in range(3)))

    assert [len(jobs_of(station.project, job)) for job in jobs] == [1] * 12
    assert {row_of(station.project, job)["status"] for job in jobs} == {"published"}


async def test_a_publisher_that_died_with_a_message_delays_it_only(station: Station) -> None:
    """What was claimed and never reported is offered again when its backoff is over."""
    job = await station.submit()
    [claimed] = await station.beacon.store.claim_outbox(limit=50)
    # two seconds, which may be over before the next line
    station.project.run_sql(
        "update public.beacon_outbox set next_attempt_at = next_attempt_at + interval '1 hour'"
        " where id = %s and next_attempt_at > created_at + interval '1 second'",
        claimed.id,
    )
    at_once = await station.publish()
    station.project.run_sql(
        "update public.beacon_outbox set next_attempt_at = queue.clock() where id = %s", claimed.id
    )
    later = await station.publish()

    assert (at_once, later) == (0, 1)
    assert len(jobs_of(station.project, job)) == 1


async def test_an_unknown_version_is_a_dead_letter_with_its_reason(station: Station) -> None:
    """A newer API's message neither stops the publisher nor vanishes."""
    strange, good = await station.submit(), await station.submit()
    rewrite(station.project, strange, 9)
    await station.publish()

    row = row_of(station.project, strange)
    assert (row["status"], "unknown message version 9" in row["error"]) == ("dead", True)
    state = await station.look(strange)
    assert state["status"] == "failed"
    assert "unknown message version 9" in state["error"]
    assert (await station.ended(good))["status"] == "completed"
    listed = (await station.call("GET", "/outbox", params={"status": "dead"})).json()["messages"]
    assert str(row["id"]) in {each["id"] for each in listed}


async def test_what_the_queue_refuses_for_its_content_is_a_dead_letter(station: Station) -> None:
    """The other end checks by the same model, as the job type's published schema."""
    job = await station.submit()
    [row] = await station.beacon.store.claim_outbox(limit=50)
    rewrite(station.project, job, 9)
    await station.beacon.store.publish([row.id], [])

    assert row_of(station.project, job)["status"] == "dead"
    assert "version must be 1" in row_of(station.project, job)["error"]


async def test_a_queue_that_refuses_is_asked_again_until_the_tries_are_used_up(
    station: Station,
) -> None:
    """A missing job type may yet be published by a worker; ten tries are enough to know."""
    station.project.run_sql(
        "update queue.job_types set job_type = 'beacon_hidden' where job_type = 'beacon_job'"
    )
    job = await station.submit()
    statuses = []
    for _ in range(10):
        station.project.run_sql(
            "update public.beacon_outbox set next_attempt_at = queue.clock() where job_id = %s",
            job["id"],
        )
        await station.publish()
        statuses.append(row_of(station.project, job)["status"])
    station.project.run_sql("delete from queue.job_types where job_type = 'beacon_hidden'")
    await station.worker.register(force=True)

    assert statuses == ["pending"] * 9 + ["dead"]
    assert "no worker has registered" in row_of(station.project, job)["error"]


async def test_redrive_publishes_dead_letters_again(station: Station) -> None:
    """Their jobs are created once more and run to their end; others' stay dead."""
    job = await station.submit()
    rewrite(station.project, job, 9)
    await station.publish()
    rewrite(station.project, job, 1)
    of_eve = await station.call("POST", "/outbox/redrive", json={"ids": [job["id"]]}, user=EVE)
    answer = await station.call(
        "POST", "/outbox/redrive", json={"workspace_id": ACME, "ids": [job["id"]]}
    )

    assert (of_eve.status_code, of_eve.json()["count"]) == (200, 0)
    assert (answer.status_code, answer.json()["count"]) == (200, 1)
    assert (await station.look(job))["status"] == "created"
    assert (await station.ended(job))["status"] == "completed"


async def test_the_reconciler_repairs_what_should_not_be(station: Station) -> None:
    """Each kind is found, repaired and counted; the second time nothing is left to find."""
    late, lost, ended = [await station.submit() for _ in range(3)]
    await station.publish()
    project = station.project
    project.run_sql("delete from public.jobs where id = %s", jobs_of(project, lost)[0]["id"])
    [gone] = jobs_of(project, ended)
    cancelled = await station.rest("POST", "/rpc/cancel_job", json={"p_job_id": str(gone["id"])})
    assert cancelled.status_code == 200
    project.run_sql(
        "update public.beacon_outbox set status = 'pending', published_at = null,"
        " queue_job_id = null, next_attempt_at = queue.clock() + interval '1 hour',"
        " created_at = created_at - interval '1 minute' where job_id = %s",
        late["id"],
    )
    project.run_sql("delete from public.jobs where id = %s", jobs_of(project, late)[0]["id"])
    project.run_sql(
        "update public.beacon_jobs set status = 'created', queue_job_id = null,"
        " created_at = created_at - interval '1 minute' where id = %s",
        late["id"],
    )

    found = await station.reconcile()

    assert found == {"created_too_long": 1, "published_without_job": 1, "ended_in_queue": 1}
    assert (await station.look(ended))["status"] == "cancelled"
    for job in (late, lost):
        assert (await station.ended(job))["status"] == "completed"
    assert sum((await station.reconcile()).values()) == 0
