"""An account's enrichment from the button to the filled row, with Apollo offline."""

from __future__ import annotations

import uuid
from datetime import datetime

import pytest

from tests.integration.enrichment.conftest import EVE, GLOBEX, INITECH, NOBODY_LTD, SOYLENT, Office
from tests.support.project import ACME

LOGS = [
    "Starting enrichment for account…",
    "Fetching workspace settings…",
    "Initializing Apollo client…",
    "Enriching with domain…",
    "Processing enrichment data…",
    "Updating account record…",
    "Account enrichment completed successfully",
]


async def test_an_account_is_filled_with_what_apollo_knows(office: Office) -> None:
    """The whole reason for the app."""
    job = await office.run("enrich_account", {"account_id": INITECH, "domain": "example.com"})

    account = office.account()
    assert (job["status"], job["attempts"]) == ("completed", 1)
    assert account["name"] == "Mock Company for example.com"
    assert account["industry"] == "Technology"
    assert account["employee_count"] == 50
    assert (account["city"], account["state"], account["country"]) == ("San Francisco", "CA", "USA")
    assert account["annual_revenue"] is None
    assert account["enriched_at"] is not None
    assert datetime.fromisoformat(account["metadata"]["apollo_enriched_at"]).tzinfo is not None
    assert account["metadata"]["apollo_source"] == "offline"
    assert office.credits() == 1
    assert job["result"]["outcome"] == "enriched"
    assert job["result"]["source"] == "offline"


async def test_the_logs_tell_the_story_in_order(office: Office) -> None:
    """The page shows these seven lines."""
    job = await office.run("enrich_account", {"account_id": INITECH})

    assert office.logs(str(job["id"])) == LOGS


async def test_progress_only_rises_and_ends_at_a_hundred(office: Office) -> None:
    """A bar that jumps back looks broken."""
    job = await office.run("enrich_account", {"account_id": INITECH})

    [row] = office.project.rows(
        "select progress ->> 'percentage' as at from public.jobs where id = %s", job["id"]
    )
    told = office.project.rows(
        "select (data -> 'progress' ->> 'percentage')::float as at from public.job_events"
        " where job_id = %s and type = 'job.progress' order by seq",
        job["id"],
    )
    assert row["at"] == "100"
    assert [step["at"] for step in told] == sorted(step["at"] for step in told)


async def test_the_accounts_own_domain_is_used_when_none_is_given(office: Office) -> None:
    """The button sends no domain."""
    job = await office.run("enrich_account", {"account_id": INITECH})

    assert job["result"]["looked_up"] == "initech.example"


async def test_a_missing_account_is_tried_again_and_given_up_after_five(office: Office) -> None:
    """The account may be in a transaction that commits a moment later; but not for ever."""
    missing = str(uuid.uuid4())
    job_id = await office.enqueue("enrich_account", {"account_id": missing})

    await office.tick()
    first = office.project.row(job_id)
    for _ in range(4):
        office.make_due(job_id)
        await office.tick()
    last = office.project.row(job_id)

    wait = (first["next_retry_at"] - first["updated_at"]).total_seconds()
    assert (first["status"], first["attempts"]) == ("pending", 1)
    assert 25 <= wait <= 95
    assert (last["status"], last["attempts"]) == ("failed", 5)
    assert f"Account not found: {missing}" in last["error_message"]
    assert office.credits() == 0


async def test_another_workspaces_account_is_as_good_as_missing(office: Office) -> None:
    """A payload may name any id; the job's workspace decides what it can reach."""
    job = await office.run("enrich_account", {"account_id": SOYLENT})

    assert (job["status"], job["attempts"]) == ("pending", 1)
    assert "Account not found" in job["error_message"]
    assert office.account(SOYLENT)["enriched_at"] is None


async def test_a_workspace_without_a_key_fails_at_once(office: Office) -> None:
    """Waiting would not make a key appear."""
    office.set_settings(apollo_api_key_encrypted=None)

    job = await office.run("enrich_account", {"account_id": INITECH})

    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert job["error_message"] == "Apollo API key not configured for this workspace"


async def test_a_workspace_without_settings_fails_the_same_way(office: Office) -> None:
    """A fresh workspace has no row at all."""
    office.project.run_sql("delete from public.workspace_settings where workspace_id = %s", ACME)

    job = await office.run("enrich_account", {"account_id": INITECH})

    assert job["error_message"] == "Apollo API key not configured for this workspace"


async def test_a_wrong_key_fails_at_once(office: Office) -> None:
    """A second attempt would be rejected, too."""
    await office.call(
        "PUT", f"/api/workspaces/{ACME}/settings", json={"apollo_api_key": "some-other-key"}
    )

    job = await office.run("enrich_account", {"account_id": INITECH})

    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert "Apollo rejected the API key" in job["error_message"]
    assert job["error_data"]["data"]["code"] == "wrong_key"
    assert office.credits() == 0


async def test_a_key_that_does_not_open_asks_for_a_new_one(office: Office) -> None:
    """A restored backup may hold keys of another deployment; nothing of it may leak."""
    office.set_settings(apollo_api_key_encrypted="mh1.bG9jYWw=.AAAA.AAAA")

    job = await office.run("enrich_account", {"account_id": INITECH})

    assert job["status"] == "failed"
    assert "enter it again" in job["error_message"]


async def test_a_company_apollo_does_not_know_is_no_failure(office: Office) -> None:
    """The job completes with no match, the account stays as it was, nothing is charged."""
    before = office.account(NOBODY_LTD)

    job = await office.run("enrich_account", {"account_id": NOBODY_LTD})

    assert job["status"] == "completed"
    assert job["result"]["outcome"] == "no match"
    assert office.account(NOBODY_LTD) == before
    assert office.credits() == 0


async def test_an_account_without_a_domain_fails_with_that_reason(office: Office) -> None:
    """Nothing to look up is a person's to mend."""
    office.project.run_sql("update public.accounts set domain = null where id = %s", INITECH)

    job = await office.run("enrich_account", {"account_id": INITECH})

    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert job["error_message"] == "The account has no usable domain to look up"


@pytest.mark.parametrize(
    "payload",
    [{}, {"account_id": "no-uuid"}, {"account_id": INITECH, "domain": 7}, {"account_id": None}],
)
async def test_a_payload_that_does_not_fit_is_refused_at_once(
    office: Office, payload: dict[str, object]
) -> None:
    """No job is stored that could never run."""
    answer = await office.call(
        "POST",
        "/api/jobs",
        json={"workspace_id": ACME, "job_type": "enrich_account", "payload": payload},
    )

    assert answer.status_code == 422
    assert answer.json()["code"] == "payload_invalid"


async def test_each_workspace_pays_for_itself(office: Office) -> None:
    """Credits of one workspace must not appear at another."""
    await office.run("enrich_account", {"account_id": SOYLENT}, workspace=GLOBEX, user=EVE)

    assert (office.credits(ACME), office.credits(GLOBEX)) == (0, 1)
