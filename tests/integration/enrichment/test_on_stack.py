"""Enrichment on the whole running stack, with its own worker loop, through its own addresses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.apps.enrichment import demo
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.usefixtures("acme_key")

ENDED = {"completed", "failed", "cancelled"}


class Guest:
    """A signed-in user of the stack, with both clients a browser has."""

    def __init__(self, stack: RunningStack, email: str) -> None:
        bearer = {"Authorization": f"Bearer {stack.sign_in(email)}"}
        self.api = httpx.AsyncClient(base_url=stack.api_url, headers=bearer)
        self.data = httpx.AsyncClient(
            base_url=stack.supabase_url,
            headers={**bearer, "apikey": stack.supabase_publishable_key},
        )

    async def account(self, workspace_id: str, domain: str) -> str:
        """Add an account of one's own, so that tests do not meet on the seeded ones."""
        answer = await self.data.post(
            "/rest/v1/accounts",
            headers={"Prefer": "return=representation"},
            params={"select": "id"},
            json={"workspace_id": workspace_id, "name": domain, "domain": domain},
        )
        assert answer.status_code == 201, answer.text
        account_id: str = answer.json()[0]["id"]
        return account_id

    async def ended(self, ids: list[str], *, seconds: float = 90.0) -> list[dict[str, Any]]:
        """Wait until all jobs have ended."""
        give_up = time.monotonic() + seconds
        while True:
            answer = await self.data.get(
                "/rest/v1/jobs",
                params={
                    "id": f"in.({','.join(ids)})",
                    "select": "id,job_type,status,attempts,result,progress,error_message,"
                    "started_at,completed_at",
                },
            )
            jobs: list[dict[str, Any]] = answer.json()
            if all(job["status"] in ENDED for job in jobs) and len(jobs) == len(ids):
                return jobs
            assert time.monotonic() < give_up, jobs
            await asyncio.sleep(0.1)

    async def aclose(self) -> None:
        """Close both."""
        await self.api.aclose()
        await self.data.aclose()


@pytest.fixture
async def ada(stack: RunningStack) -> AsyncIterator[Guest]:
    """Ada, who manages Acme."""
    guest = Guest(stack, stack.demo_email)
    yield guest
    await guest.aclose()


@pytest.fixture
async def eve(stack: RunningStack) -> AsyncIterator[Guest]:
    """Eve, who manages another workspace."""
    guest = Guest(stack, stack.demo_other_email)
    yield guest
    await guest.aclose()


async def test_the_demo_does_what_it_shows(stack: RunningStack, ada: Guest) -> None:
    """`make run` rests on it, and stores its key where there is none."""
    settings = f"/api/workspaces/{stack.demo_workspace_id}/settings"
    (await ada.api.delete(settings)).raise_for_status()
    ids = await demo.enqueue(ada.api, ada.data, stack.demo_workspace_id)

    jobs = await ada.ended(ids)

    assert {job["job_type"] for job in jobs} == {
        "enrich_account",
        "enrich_contact",
        "import_accounts",
    }
    assert {(job["status"], job["error_message"]) for job in jobs} == {("completed", None)}


async def test_the_demo_spends_nothing_on_a_persons_own_key(
    stack: RunningStack, ada: Guest
) -> None:
    """Starting the stack again must not replace a key, nor enrich on its account."""
    settings = f"/api/workspaces/{stack.demo_workspace_id}/settings"
    (await ada.api.put(settings, json={"apollo_api_key": "test-key-own-7777"})).raise_for_status()

    jobs = await ada.ended(await demo.enqueue(ada.api, ada.data, stack.demo_workspace_id))

    assert [job["job_type"] for job in jobs] == ["import_accounts"]
    assert (await ada.api.get(settings)).json()["apollo_api_key"]["last4"] == "7777"


async def test_a_job_goes_from_the_request_to_the_filled_row_by_itself(
    stack: RunningStack, ada: Guest
) -> None:
    """Nobody calls the worker; the page reads the row, the logs and the events."""
    account_id = await ada.account(stack.demo_workspace_id, "by-itself.example")

    created = await ada.api.post(
        "/api/jobs",
        json={
            "workspace_id": stack.demo_workspace_id,
            "job_type": "enrich_account",
            "payload": {"account_id": account_id, "domain": "example.com"},
        },
    )
    [job] = await ada.ended([created.json()["id"]])

    account = await ada.data.get("/rest/v1/accounts", params={"id": f"eq.{account_id}"})
    logs = await ada.data.get(
        "/rest/v1/job_logs",
        params={"job_id": f"eq.{job['id']}", "order": "id", "select": "message"},
    )
    events = await ada.data.get(
        "/rest/v1/job_events",
        params={"job_id": f"eq.{job['id']}", "order": "seq", "select": "seq,type"},
    )
    assert created.status_code == 201
    assert job["progress"]["percentage"] == 100
    assert account.json()[0]["name"] == "Mock Company for example.com"
    assert account.json()[0]["metadata"]["apollo_enriched_at"]
    assert logs.json()[0]["message"] == "Starting enrichment for account…"
    assert logs.json()[-1]["message"] == "Account enrichment completed successfully"
    seqs = [event["seq"] for event in events.json()]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_ten_requests_and_a_triggered_tick_complete(stack: RunningStack, ada: Guest) -> None:
    """Loop and triggered tick share the work without a deadlock and without doing any twice."""
    account_id = await ada.account(stack.demo_workspace_id, "ten.example")
    before = await ada.api.get(f"/api/workspaces/{stack.demo_workspace_id}/settings")

    async def create() -> str:
        answer = await ada.api.post(
            "/api/jobs",
            json={
                "workspace_id": stack.demo_workspace_id,
                "job_type": "enrich_account",
                "payload": {"account_id": account_id},
            },
        )
        job_id: str = answer.json()["id"]
        return job_id

    ids = await asyncio.gather(*(create() for _ in range(10)))
    tick = await ada.api.post(
        "/api/jobs/worker", headers={"Authorization": f"Bearer {stack.worker_secret_token}"}
    )
    jobs = await ada.ended(list(ids))

    after = await ada.api.get(f"/api/workspaces/{stack.demo_workspace_id}/settings")
    spent = after.json()["enrichment_credits_used"] - before.json()["enrichment_credits_used"]
    assert tick.status_code == 200
    assert tick.json()["success"] is True
    assert {(job["status"], job["attempts"]) for job in jobs} == {("completed", 1)}
    assert spent == 10


async def test_an_account_added_by_sql_enriches_itself(stack: RunningStack, ada: Guest) -> None:
    """Every function is covered by the trigger, and the next tick finds the job."""
    path = f"/api/workspaces/{stack.demo_workspace_id}/settings"
    await ada.api.put(path, json={"apollo_auto_enrich": True})
    try:
        with stack.connect() as connection:
            row = connection.execute(
                "insert into public.accounts (workspace_id, name, domain)"
                " values (%s, 'By SQL', 'by-sql.example') returning id",
                (stack.demo_workspace_id,),
            ).fetchone()
            assert row is not None
            job = connection.execute(
                "select id from public.jobs where payload ->> 'account_id' = %s", (str(row[0]),)
            ).fetchone()
    finally:
        await ada.api.put(path, json={"apollo_auto_enrich": False})
    assert job is not None

    [ended] = await ada.ended([str(job[0])])

    assert ended["status"] == "completed"


async def test_another_manager_neither_reads_nor_enriches_nor_sees_credits(
    stack: RunningStack, ada: Guest, eve: Guest
) -> None:
    """The same addresses, the other token: nothing there."""
    account_id = await ada.account(stack.demo_workspace_id, "mine.example")

    answers = [
        await eve.api.get(f"/api/workspaces/{stack.demo_workspace_id}/settings"),
        await eve.api.post(f"/api/accounts/{account_id}/enrich"),
        await eve.api.post(
            "/api/accounts/enrich",
            json={"workspace_id": stack.demo_workspace_id, "account_ids": [account_id]},
        ),
    ]
    rows = [
        await eve.data.get(f"/rest/v1/{table}", params={"select": column, "workspace_id": mine})
        for mine in [f"eq.{stack.demo_workspace_id}"]
        for table, column in [
            ("accounts", "id"),
            ("contacts", "id"),
            ("workspace_settings", "enrichment_credits_used"),
            ("account_imports", "id"),
        ]
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert [answer.json() for answer in rows] == [[], [], [], []]


async def test_the_openapi_document_names_every_route(ada: Guest) -> None:
    """Published for clients, and so part of the contract."""
    document = (await ada.api.get("/api/openapi.json")).json()

    assert {
        "/api/workspaces/{workspace_id}/settings",
        "/api/workspaces/{workspace_id}/settings/test-connection",
        "/api/accounts/{account_id}/enrich",
        "/api/contacts/{contact_id}/enrich",
        "/api/accounts/enrich",
        "/api/accounts/import",
        "/api/accounts/imports/{import_id}/errors.csv",
    } <= set(document["paths"])
