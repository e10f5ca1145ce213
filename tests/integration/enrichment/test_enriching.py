"""Enrichment of accounts and contacts, from the job to the filled row, with Apollo offline."""

from __future__ import annotations

import uuid
from datetime import datetime

import pytest

from tests.integration.enrichment.conftest import (
    EVE,
    GLOBEX,
    INITECH,
    NOBODY_LTD,
    PETER,
    ROBERT,
    SOYLENT,
    Office,
)
from tests.support.project import ACME


def story(kind: str, hint: str) -> list[str]:
    """What a job logs."""
    return [
        f"Starting enrichment for {kind}…",
        "Fetching workspace settings…",
        "Initializing Apollo client…",
        f"Enriching with {hint}…",
        "Processing enrichment data…",
        f"Updating {kind} record…",
        f"{kind.capitalize()} enrichment completed successfully",
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
    assert office.logs(str(job["id"])) == story("account", "domain")
    told = office.project.rows(
        "select (data -> 'progress' ->> 'percentage')::float as at from public.job_events"
        " where job_id = %s and type = 'job.progress' order by seq",
        job["id"],
    )
    assert [step["at"] for step in told] == sorted(step["at"] for step in told)
    assert job["progress"]["percentage"] == 100


async def test_a_contact_is_filled_with_what_apollo_knows(office: Office) -> None:
    """Title and profile come from Apollo; the name was there and stays."""
    job = await office.run("enrich_contact", {"contact_id": PETER})

    contact = office.contact()
    assert (job["status"], job["attempts"]) == ("completed", 1)
    assert contact["title"] == "Software Engineer"
    assert contact["name"] == "Peter Gibbons"
    assert contact["linkedin_url"] == "https://www.linkedin.com/in/mock-peter"
    assert contact["enriched_at"] is not None
    assert contact["metadata"]["apollo_enriched_at"]
    assert office.credits() == 1
    assert office.logs(str(job["id"])) == story("contact", "email")


async def test_the_records_own_term_is_used_when_none_is_given(office: Office) -> None:
    """A person may know a better address than the one on file."""
    own = await office.run("enrich_account", {"account_id": INITECH})
    given = await office.run("enrich_contact", {"contact_id": PETER, "email": "p@other.example"})

    assert own["result"]["looked_up"] == "initech.example"
    assert given["result"]["looked_up"] == "p@other.example"
    assert office.contact()["email"] == "peter@initech.example"


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


@pytest.mark.parametrize(("kind", "foreign"), [("account", SOYLENT), ("contact", ROBERT)])
async def test_another_workspaces_record_is_as_good_as_missing(
    office: Office, kind: str, foreign: str
) -> None:
    """A payload may name any id; the job's workspace decides what it can reach."""
    for record in (foreign, str(uuid.uuid4())):
        job = await office.run(f"enrich_{kind}", {f"{kind}_id": record})
        assert (job["status"], job["attempts"]) == ("pending", 1)
        assert f"{kind.capitalize()} not found" in job["error_message"]
    assert office.account(SOYLENT)["enriched_at"] is None
    assert office.contact(ROBERT)["enriched_at"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("update public.workspace_settings set apollo_api_key_encrypted = null", "not configured"),
        ("delete from public.workspace_settings", "Apollo API key not configured for this"),
        # a restored backup may hold keys of another deployment
        ("update public.workspace_settings"
         " set apollo_api_key_encrypted = 'mh1.bG9jYWw=.AAAA.AAAA'", "enter it again"),
        ("update public.accounts set domain = null", "The account has no usable domain"),
    ],
    ids=["no key", "no settings", "another's key", "no domain"],
)  # fmt: skip
async def test_what_a_person_must_mend_fails_at_once(
    office: Office, change: str, message: str
) -> None:
    """Waiting would not make it appear."""
    office.project.run_sql(change)

    job = await office.run("enrich_account", {"account_id": INITECH})

    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert message in job["error_message"]


async def test_a_contact_without_an_address_fails_with_that_reason(office: Office) -> None:
    """Nothing to look up is a person's to mend."""
    office.project.run_sql("update public.contacts set email = 'none' where id = %s", PETER)

    job = await office.run("enrich_contact", {"contact_id": PETER})

    assert job["status"] == "failed"
    assert job["error_message"] == "The contact has no usable email to look up"


async def test_deleting_an_account_leaves_its_contacts(office: Office) -> None:
    """A contact outlives the account; the database keeps both in one workspace."""
    office.project.run_sql("delete from public.accounts where workspace_id = %s", ACME)

    assert office.contact()["account_id"] is None


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


async def test_a_company_apollo_does_not_know_is_no_failure(office: Office) -> None:
    """The job completes with no match, the account stays as it was, nothing is charged."""
    before = office.account(NOBODY_LTD)

    job = await office.run("enrich_account", {"account_id": NOBODY_LTD})

    assert job["status"] == "completed"
    assert job["result"]["outcome"] == "no match"
    assert office.account(NOBODY_LTD) == before
    assert office.credits() == 0


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
