"""Rules of the enrichment app that its guide does not test: credits, edits, failures and keys."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from minutehand_apps.enrichment.models import find_domain, find_email
from tests.integration.enrichment.apollo_server import KEY, ApolloServer
from tests.integration.enrichment.conftest import (
    INITECH,
    PETER,
    SETTINGS,
    SOYLENT,
    UNKNOWN_LTD,
    Office,
)
from tests.support.engine import ACME, BOB, EVE
from tests.support.killable import survive
from tests.support.misbehaving import Fault


@pytest.mark.timeout(600)
async def test_workers_killed_in_each_stage_pay_and_fill_once(office: Office) -> None:
    """Workers are killed after each write.

    The account is still filled and one credit is charged.
    """
    job_id = await office.enqueue()

    async def ended() -> object:
        return office.project.row(job_id)["status"] in ("completed", "failed")

    deaths = await survive(
        office.project,
        "enrichment",
        ended,
        USE_MOCK_APOLLO="true",
        SEALING_KEY_FILE=office.settings.sealing_key_file,
    )

    [calls] = office.project.sql("select count(answered_at) as paid from enrichment.calls")
    assert office.project.row(job_id)["status"] == "completed"
    assert (office.credits(), calls["paid"]) == (1, 1)
    assert len(deaths) >= 3, deaths


async def test_the_real_client_fills_accounts_and_contacts(
    online: Office, apollo: ApolloServer
) -> None:
    """With the real client, a job fills an account or a contact with Apollo's data."""
    job = await online.run()
    contact = await online.run(PETER, "contact")

    assert job["result"]["source"] == "apollo"
    assert contact["result"]["looked_up"] == "peter@initech.example"
    account = online.record("accounts", INITECH)
    assert (account["employee_count"], account["annual_revenue"]) == (1600, 100_000_000)
    assert (account["city"], account["state"]) == ("San Francisco", None)
    assert online.record("contacts", PETER)["title"] == "Founder & CEO"
    assert {key for key, _ in apollo.seen} == {KEY}
    assert online.credits() == 2


UNUSABLE = "Apollo's answer could not be used."


@pytest.mark.parametrize(
    ("fault", "status", "attempts", "message"),
    [
        (Fault(401, {"error": "no"}), "failed", 1, "Apollo rejected the API key"),
        (Fault(402, {"error": "no"}), "failed", 1, "Apollo has no credits left for this key"),
        (Fault(422, {"error": "no"}), "failed", 1, "Apollo rejected the request"),
        (Fault(200, {"error": "busy"}), "failed", 1, UNUSABLE),
        (Fault(200, {"organisation": {}}), "failed", 1, UNUSABLE),
        (Fault(200, {"organization": [1]}), "failed", 1, UNUSABLE),
        (Fault(503, b"<html>"), "pending", 0, "asked again"),
        (Fault(429, {}), "pending", 0, "asked again"),
        (Fault(cut=True), "pending", 0, "asked again"),
        (Fault(200, b"{"), "pending", 1, "could not be used; it is asked again"),
    ],
)
async def test_what_apollo_answers_decides_how_a_job_continues(
    online: Office, apollo: ApolloServer, fault: Fault, status: str, attempts: int, message: str
) -> None:
    """If Apollo returns an error that a person must correct, the job fails immediately.

    After a temporary error, the job waits and then completes with one credit.
    """
    apollo.faults = [fault]
    job_id = await online.enqueue()
    job = await online.tick(job_id)

    assert (job["status"], job["attempts"], len(apollo.seen)) == (status, attempts, 1)
    [calls] = online.project.sql("select count(*) from enrichment.calls")
    assert calls["count"] == (fault.status == 200), "a call that may be charged is kept"
    is_over = status == "failed"
    assert message in (job["error_message"] if is_over else job["progress"]["message"])
    if not is_over:
        online.project.make_due(job_id)
        done = await online.tick(job_id)
        assert (done["status"], done["attempts"]) == ("completed", attempts + 1)
    assert online.credits() == (not is_over)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("delete from workspace_settings", "key not configured for this workspace"),
        # This key is encrypted for another deployment, as after a restore.
        (
            "update workspace_settings set apollo_api_key_encrypted = 'mh1.bG9jYWw=.AAAA.AAAA'",
            "Enter it again",
        ),
        ("update accounts set domain = null", "The account has no usable domain"),
    ],
)
async def test_what_is_not_set_fails_at_once(office: Office, change: str, message: str) -> None:
    """A job without a usable key or domain fails immediately, because a wait would not help."""
    office.project.sql(change)
    job = await office.run()

    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert message in job["error_message"]


async def test_a_rate_limit_waits_as_long_as_apollo_says_and_holds_the_whole_key(
    online: Office, apollo: ApolloServer
) -> None:
    """After Apollo's rate limit, all jobs with the key wait as long as Apollo says.

    No attempt counts.
    """
    apollo.faults = [Fault(429, {}, {"retry-after": "700"})]
    first = await online.run()
    other = await online.run(UNKNOWN_LTD)
    asked = len(apollo.seen)
    await online.call("PUT", SETTINGS, json={"apollo_api_key": KEY})  # a changed key ends the wait
    online.project.make_due()
    done = await online.tick(str(first["id"]))

    assert first["next_retry_at"] - first["updated_at"] == timedelta(seconds=700)
    for job in (first, other):
        assert (job["status"], job["attempts"], asked) == ("pending", 0, 1)
    assert (done["status"], done["attempts"]) == ("completed", 1)


async def test_an_account_of_another_workspace_is_missing(office: Office) -> None:
    """A job for another workspace's account does not find the account.

    It is retried, because the account's transaction may commit later.
    """
    job = await office.run(SOYLENT)

    assert (job["status"], job["error_message"]) == ("pending", f"Account not found: {SOYLENT}")


async def test_what_a_person_wrote_is_never_overwritten(office: Office) -> None:
    """An enrichment keeps a person's edits from before and during the job.

    It fills fields that were empty before.
    """
    body = {"workspace_id": ACME, "name": "Umbrella GmbH", "domain": "u.example", "country": "DE"}
    account_id = str(uuid4())
    made = await office.rest("POST", "/accounts", json={"id": account_id, **body})
    assert made.status_code == 201

    async def edit(**changes: Any) -> None:
        params = {"id": f"eq.{account_id}"}
        edited = await office.rest("PATCH", "/accounts", params=params, json=changes)
        assert edited.status_code < 300, edited.text

    await edit(employee_count=12, country=None)
    job_id = await office.enqueue(account_id)
    await edit(industry="Banking")
    job = await office.tick(job_id)

    account = office.record("accounts", account_id)
    kept = {"employee_count": 12, "industry": "Banking", "name": "Umbrella GmbH"}
    assert {name: account[name] for name in kept} == kept
    assert account["country"] not in {None, "DE"}
    assert account["city"] is not None
    assert job["result"]["kept"] == sorted(kept)
    assert account["metadata"]["apollo_fields"]["employee_count"] == 50


async def test_a_company_apollo_does_not_know_is_no_failure(office: Office) -> None:
    """If Apollo does not know the company, the job completes without a change or a charge."""
    before = office.record("accounts", UNKNOWN_LTD)
    job = await office.run(UNKNOWN_LTD)

    assert (job["status"], job["result"]["outcome"]) == ("completed", "no match")
    assert (office.record("accounts", UNKNOWN_LTD), office.credits()) == (before, 0)


async def test_a_button_pressed_twice_makes_one_job_and_a_new_account_its_own(
    office: Office,
) -> None:
    """A second request for an account returns the first job.

    A new account is enriched automatically if the workspace wants it, and an account of others
    returns 404.
    """
    first = await office.call("POST", f"/api/accounts/{INITECH}/enrich")
    again = await office.call("POST", f"/api/accounts/{INITECH}/enrich")
    foreign = await office.call("POST", f"/api/accounts/{SOYLENT}/enrich")
    await office.call("PUT", SETTINGS, json={"apollo_auto_enrich": True})
    body = {"workspace_id": ACME, "name": "New", "domain": "new.example"}
    added = await office.rest("POST", "/accounts", json=body)

    assert (first.status_code, again.status_code, foreign.status_code) == (201, 200, 404)
    assert first.json()["id"] == again.json()["id"]
    assert added.status_code == 201, added.text
    rows = office.project.sql("select payload ->> 'domain' as domain from jobs order by id")
    assert [row["domain"] for row in rows] == ["initech.example", "new.example"]


async def test_the_key_goes_in_and_never_comes_out(online: Office, apollo: ApolloServer) -> None:
    """Members see four characters of the Apollo key, and others see nothing.

    Jobs and logs never contain the key.
    """
    apollo.faults = [Fault(500, {"error": f"echo {KEY}"})]
    job_id = await online.enqueue()
    await online.tick(job_id)
    seen = await online.call("GET", SETTINGS, user=BOB)
    change = await online.call("PUT", SETTINGS, user=BOB, json={"apollo_auto_enrich": True})
    sealed = await online.rest(
        "GET", "/workspace_settings", params={"select": "apollo_api_key_encrypted"}
    )
    tested = await online.call("POST", f"{SETTINGS}/test-connection")
    wrong = await online.call(
        "POST", f"{SETTINGS}/test-connection", json={"apollo_api_key": "another-key"}
    )

    assert seen.json()["apollo_api_key"] == {"configured": True, "last4": KEY[-4:]}
    assert (change.status_code, sealed.status_code) == (403, 403)
    assert (await online.call("GET", SETTINGS, user=EVE)).status_code == 404
    assert (tested.json()["ok"], tested.json()["credits_remaining"]) == (True, None)
    assert (wrong.json()["ok"], wrong.json()["reason"]) == (False, "wrong_key")
    for table in ("public.jobs", "public.job_logs", "public.workspace_settings"):
        assert KEY not in str(online.project.sql(f"select to_jsonb(t) as row from {table} as t"))


def test_a_domain_is_read_out_of_what_people_type() -> None:
    """A domain is found in URLs, upper case, mail addresses and names in other scripts."""
    texts = ["https://www.Acme.example/about?x", "ann@acme.example", "ACME.example.", "bücher.de"]
    assert [find_domain(text) for text in texts] == [*["acme.example"] * 3, "xn--bcher-kva.de"]
    assert [find_domain(text) for text in ("acme", "a b.example", "", None)] == [None] * 4
    assert (find_email(" ann@Acme.Example "), find_email("ann")) == ("ann@acme.example", None)
