"""The real client in a real job: each way Apollo fails has the ending it deserves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.integration.enrichment.conftest import INITECH, NOBODY_LTD, Office
from tests.support.misbehaving import Fault
from tests.support.project import ACME
from tests.unit.enrichment.apollo_server import KEY, MASTER_KEY, ApolloServer


def wait_of(job: dict[str, Any]) -> timedelta:
    """How long a job waits from its settle on, by the database's clock alone."""
    wait: timedelta = job["next_retry_at"] - job["updated_at"]
    return wait


async def test_the_real_client_fills_the_account(online: Office, apollo: ApolloServer) -> None:
    """Chosen by configuration only; not a line of code differs."""
    job = await online.run("enrich_account", {"account_id": INITECH})

    account = online.account()
    assert job["result"]["source"] == "apollo"
    assert account["industry"] == "information technology & services"
    assert account["employee_count"] == 1600
    assert account["annual_revenue"] == 100_000_000
    assert account["metadata"]["apollo_source"] == "apollo"
    assert [seen.key for seen in apollo.seen] == [KEY]


async def test_a_workspace_may_choose_the_other_client(
    online: Office, apollo: ApolloServer
) -> None:
    """One workspace tries things out offline while the others are live."""
    online.set_settings(apollo_client="offline", apollo_api_key_encrypted="test-key-1")

    job = await online.run("enrich_account", {"account_id": INITECH})

    assert job["result"]["source"] == "offline"
    assert apollo.seen == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(401, {"error": "Invalid access credentials."}), "Apollo rejected the API key"),
        (Fault(402, {"error": "Payment required"}), "Apollo has no credits left for this key"),
        (
            Fault(422, {"error": "Value does not pass validation"}),
            "Apollo refused /organizations/enrich with 422: Value does not pass validation",
        ),
    ],
)
async def test_what_a_person_must_mend_fails_at_once(
    online: Office, apollo: ApolloServer, fault: Fault, message: str
) -> None:
    """Each in its own words: an empty balance must not look like a wrong key."""
    apollo.faults = [fault]

    job = await online.run("enrich_account", {"account_id": INITECH})

    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert job["error_message"] == message


async def test_a_rate_limit_waits_as_long_as_apollo_says(
    online: Office, apollo: ApolloServer
) -> None:
    """Sooner would be refused again, later is wasted; and the attempt is not spent."""
    apollo.faults = [Fault(429, {}, {"retry-after": "700"})]
    job_id = await online.enqueue("enrich_account", {"account_id": INITECH})

    await online.tick()
    waiting = online.project.row(job_id)
    online.set_settings(apollo_paused_until=None)
    online.make_due(job_id)
    await online.tick()
    done = online.project.row(job_id)

    assert (waiting["status"], waiting["attempts"]) == ("pending", 0)
    assert wait_of(waiting) == timedelta(seconds=700)
    assert (done["status"], done["attempts"]) == ("completed", 1)
    assert online.credits() == 1


async def test_the_keys_other_jobs_wait_without_asking(
    online: Office, apollo: ApolloServer
) -> None:
    """A thousand jobs must not run into the same limit one by one."""
    apollo.faults = [Fault(429, {}, {"retry-after": "700"})]
    first = await online.run("enrich_account", {"account_id": INITECH})

    other = await online.run("enrich_account", {"account_id": NOBODY_LTD})

    told = (await online.call("GET", f"/api/workspaces/{ACME}/settings")).json()
    assert len(apollo.seen) == 1
    assert (other["status"], other["attempts"]) == ("pending", 0)
    paused_until = datetime.fromisoformat(told["apollo_paused_until"])
    assert first["next_retry_at"] - wait_of(first) < paused_until <= first["next_retry_at"]
    assert paused_until <= other["next_retry_at"]
    assert wait_of(other) < wait_of(first) == timedelta(seconds=700)


async def test_a_new_key_does_not_wait_for_the_old_one(
    online: Office, apollo: ApolloServer
) -> None:
    """Nobody asked this one to."""
    apollo.faults = [Fault(429, {}, {"retry-after": "700"})]
    await online.run("enrich_account", {"account_id": INITECH})

    await online.call(
        "PUT", f"/api/workspaces/{ACME}/settings", json={"apollo_api_key": MASTER_KEY}
    )
    other = await online.run("enrich_account", {"account_id": INITECH})

    assert other["status"] == "completed"


@pytest.mark.parametrize(
    "fault", [Fault(503, b"<html>"), Fault(cut=True), Fault(200, b"{"), Fault(429, {})]
)
async def test_a_passing_fault_backs_off_and_tries_again(
    online: Office, apollo: ApolloServer, fault: Fault
) -> None:
    """About a minute after the first one, as every job."""
    apollo.faults = [fault]
    job_id = await online.enqueue("enrich_account", {"account_id": INITECH})

    await online.tick()
    waiting = online.project.row(job_id)
    online.make_due(job_id)
    await online.tick()
    done = online.project.row(job_id)

    assert (waiting["status"], waiting["attempts"]) == ("pending", 1)
    assert timedelta(seconds=25) <= wait_of(waiting) <= timedelta(seconds=95)
    assert (done["status"], done["attempts"]) == ("completed", 2)


async def test_nothing_of_the_key_is_kept_in_the_job(online: Office, apollo: ApolloServer) -> None:
    """Jobs, logs, events and steps are read by every member."""
    apollo.faults = [Fault(500, {"error": f"echo {KEY}"})]
    job_id = await online.enqueue("enrich_account", {"account_id": INITECH})
    await online.tick()
    online.make_due(job_id)
    await online.tick()

    tables = ["public.jobs", "public.job_logs", "public.job_events", "public.accounts"]
    texts = [
        str(online.project.rows(f"select to_jsonb(t) as row from {table} as t"))
        for table in [*tables, "enrichment.calls", "public.workspace_settings"]
    ]

    assert all(KEY not in text for text in texts)
