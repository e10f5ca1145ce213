"""A contact's enrichment: the same road as an account's, by mail address."""

from __future__ import annotations

import uuid

from tests.integration.enrichment.conftest import PETER, ROBERT, Office
from tests.support.project import ACME


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
    assert office.logs(str(job["id"])) == [
        "Starting enrichment for contact…",
        "Fetching workspace settings…",
        "Initializing Apollo client…",
        "Enriching with email…",
        "Processing enrichment data…",
        "Updating contact record…",
        "Contact enrichment completed successfully",
    ]


async def test_the_given_address_is_looked_up_instead_of_the_contacts_own(office: Office) -> None:
    """A person may know a better address than the one on file."""
    job = await office.run("enrich_contact", {"contact_id": PETER, "email": "p@other.example"})

    assert job["result"]["looked_up"] == "p@other.example"
    assert office.contact()["email"] == "peter@initech.example"


async def test_a_missing_or_foreign_contact_is_not_found(office: Office) -> None:
    """Another workspace's contact is as good as missing."""
    missing = await office.run("enrich_contact", {"contact_id": str(uuid.uuid4())})
    foreign = await office.run("enrich_contact", {"contact_id": ROBERT})

    for job in (missing, foreign):
        assert (job["status"], job["attempts"]) == ("pending", 1)
        assert "Contact not found" in job["error_message"]


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
