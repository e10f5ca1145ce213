"""What a person edits while a job runs is never overwritten; the rest is filled in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from minutehand_apps.enrichment.apollo_offline import OfflineApollo
from tests.integration.enrichment.conftest import BOB, INITECH, PETER, Office
from tests.support.functions import until_waiting
from tests.support.project import ADA


class Pause:
    """Holds the job in its Apollo call until told to go on."""

    def __init__(self, office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

        async def wait(_: float) -> None:
            self.reached.set()
            await self.go_on.wait()

        def client(api_key: str, **_: Any) -> OfflineApollo:
            return OfflineApollo(api_key, sleep=wait)

        monkeypatch.setattr(office.enrichment, "apollo", client)

    @asynccontextmanager
    async def in_the_call(
        self, office: Office, job_type: str = "enrich_account", **payload: str
    ) -> AsyncIterator[str]:
        """What happens while a job is in its call; its id."""
        job_id = await office.enqueue(job_type, payload or {"account_id": INITECH})
        tick = asyncio.create_task(office.tick())
        await self.reached.wait()
        yield job_id
        self.go_on.set()
        await tick


@pytest.fixture
def pause(office: Office, monkeypatch: pytest.MonkeyPatch) -> Pause:
    """Something to edit in."""
    return Pause(office, monkeypatch)


async def edit(office: Office, table: str, record_id: str, **fields: object) -> None:
    """Edit as Bob does in the browser: through the Data API, under row level security."""
    answer = await office.rest(
        "PATCH", f"/{table}", user=BOB, params={"id": f"eq.{record_id}"}, json=fields
    )
    assert answer.status_code in (200, 204), answer.text


async def test_an_edit_made_during_the_call_stays(office: Office, pause: Pause) -> None:
    """The person knows better than Apollo, and looked at the page just now."""
    async with pause.in_the_call(office) as job_id:
        await edit(office, "accounts", INITECH, industry="Staplers", city="Austin")

    account = office.account()
    result = office.project.row(job_id)["result"]
    assert (account["industry"], account["city"]) == ("Staplers", "Austin")
    assert (account["employee_count"], account["country"]) == (50, "USA")
    assert result["kept"] == ["city", "industry"]
    assert "country" in result["updated"]


async def test_an_edit_back_to_the_same_value_stays_too(office: Office, pause: Pause) -> None:
    """Comparing values alone would miss it: cleared on purpose is an edit as well."""
    async with pause.in_the_call(office):
        await edit(office, "accounts", INITECH, industry="Oops")
        await edit(office, "accounts", INITECH, industry=None)

    assert office.account()["industry"] is None


async def test_an_edit_between_two_attempts_stays(office: Office, pause: Pause) -> None:
    """The second attempt reads the edited row; it must not take the edit for old data."""
    pause.go_on.set()
    job_id = await office.enqueue("enrich_account", {"account_id": INITECH})
    with office.accounts_refusing():
        await office.tick()

    await edit(office, "accounts", INITECH, city="Austin")
    office.make_due(job_id)
    await office.tick()

    assert office.project.row(job_id)["status"] == "completed"
    assert (office.account()["city"], office.account()["state"]) == ("Austin", "CA")


async def test_an_edit_not_yet_committed_is_waited_for(office: Office, pause: Pause) -> None:
    """The job reads the old row while a transaction with the edit is still open."""
    committed = threading.Event()

    def edit_slowly() -> None:
        with office.project.database.connect(autocommit=False) as connection:
            connection.execute(
                "update public.accounts set city = 'Austin' where id = %s", (INITECH,)
            )
            started.set()
            committed.wait(120)
            connection.commit()

    started = threading.Event()
    editing = asyncio.create_task(asyncio.to_thread(edit_slowly))
    await asyncio.to_thread(started.wait, 120)
    job_id = await office.enqueue("enrich_account", {"account_id": INITECH})
    tick = asyncio.create_task(office.tick())
    await pause.reached.wait()

    pause.go_on.set()
    await asyncio.to_thread(until_waiting, office.project.database)
    committed.set()
    await editing
    await tick

    assert office.account()["city"] == "Austin"
    assert office.project.row(job_id)["result"]["kept"] == ["city"]


async def test_an_edit_from_before_the_job_may_be_overwritten(office: Office, pause: Pause) -> None:
    """Who presses the button afterwards wants Apollo's word."""
    pause.go_on.set()
    await edit(office, "accounts", INITECH, industry="Staplers")

    await office.run("enrich_account", {"account_id": INITECH})

    assert office.account()["industry"] == "Technology"


async def test_a_contacts_edit_stays_as_well(office: Office, pause: Pause) -> None:
    """Same rule, other table."""
    async with pause.in_the_call(office, "enrich_contact", contact_id=PETER):
        await edit(office, "contacts", PETER, title="Manager")

    assert office.contact()["title"] == "Manager"
    assert office.contact()["linkedin_url"] is not None


async def test_enrichment_itself_is_no_edit(office: Office, pause: Pause) -> None:
    """Else the first enrichment would shut out the second one in the same moment."""
    pause.go_on.set()
    await office.run("enrich_account", {"account_id": INITECH})

    assert office.account()["edited_at"] == {}


async def test_an_account_deleted_during_the_call_is_not_found(
    office: Office, pause: Pause
) -> None:
    """Nothing is made up again from Apollo's data."""
    async with pause.in_the_call(office) as job_id:
        answer = await office.rest("DELETE", "/accounts", user=ADA, params={"id": f"eq.{INITECH}"})

    assert answer.status_code in (200, 204)
    assert "Account not found" in office.project.row(job_id)["error_message"]
