"""Buttons, selections and the switch that lets new accounts enrich themselves."""

from __future__ import annotations

import asyncio
import uuid

import psycopg
import pytest

from tests.integration.enrichment.conftest import BOB, EVE, INITECH, PETER, ROBERT, SOYLENT, Office
from tests.support.project import ACME


def jobs(office: Office, job_type: str = "enrich_account") -> list[dict[str, object]]:
    """All jobs of a type, oldest first."""
    return office.project.rows(
        "select * from public.jobs where job_type = %s order by created_at, id", job_type
    )


@pytest.mark.parametrize(
    ("kind", "record", "payload"),
    [
        ("account", INITECH, {"account_id": INITECH, "domain": "initech.example"}),
        ("contact", PETER, {"contact_id": PETER, "email": "peter@initech.example"}),
    ],
)
async def test_the_button_makes_a_job_and_says_where_it_is(
    office: Office, kind: str, record: str, payload: dict[str, str]
) -> None:
    """One click, one job; the page follows it by its address."""
    answer = await office.call("POST", f"/api/{kind}s/{record}/enrich", user=BOB)
    await office.tick()

    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/jobs/{job['id']}"
    assert (job["job_type"], job["payload"]) == (f"enrich_{kind}", payload)
    assert office.project.row(job["id"])["result"]["outcome"] == "enriched"


async def test_pressing_twice_pays_once(office: Office) -> None:
    """Impatient fingers must not cost credits."""
    first = await office.call("POST", f"/api/accounts/{INITECH}/enrich")
    second = await office.call("POST", f"/api/accounts/{INITECH}/enrich")
    await office.tick()
    third = await office.call("POST", f"/api/accounts/{INITECH}/enrich")

    assert (first.status_code, second.status_code, third.status_code) == (201, 200, 201)
    assert first.json()["id"] == second.json()["id"] != third.json()["id"]
    assert office.credits() == 1


async def test_ten_fingers_at_once_make_one_job(office: Office) -> None:
    """The database decides, not the order in which requests were read."""
    answers = await asyncio.gather(
        *(office.call("POST", f"/api/accounts/{INITECH}/enrich") for _ in range(10))
    )

    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]


@pytest.mark.parametrize(("kind", "foreign"), [("account", SOYLENT), ("contact", ROBERT)])
async def test_what_is_not_ones_own_is_not_there(office: Office, kind: str, foreign: str) -> None:
    """Missing and foreign are told in the same words."""
    other = await office.call("POST", f"/api/{kind}s/{foreign}/enrich")
    missing = await office.call("POST", f"/api/{kind}s/{uuid.uuid4()}/enrich")
    malformed = await office.call("POST", f"/api/{kind}s/7/enrich")
    guest = await office.call("POST", f"/api/{kind}s/{foreign}/enrich", user=None)

    assert (other.status_code, other.json()["code"]) == (404, f"{kind}_not_found")
    assert other.json()["error"] == missing.json()["error"]
    assert missing.status_code == 404
    assert malformed.status_code == 422
    assert guest.status_code == 401
    assert jobs(office, f"enrich_{kind}") == []


async def test_a_selection_makes_one_job_per_account(office: Office) -> None:
    """Ids that are foreign or missing are simply not there."""
    ids = [INITECH, f"ac000000-0000-4000-8000-00000000000{2}", SOYLENT, str(uuid.uuid4())]

    answer = await office.call(
        "POST", "/api/accounts/enrich", json={"workspace_id": ACME, "account_ids": ids}
    )

    told = answer.json()
    assert answer.status_code == 201
    assert (told["count"], told["created"], told["deduplicated"]) == (2, 2, 0)
    assert {made["job"]["payload"]["account_id"] for made in told["jobs"]} == set(ids[:2])


async def test_a_filter_takes_all_that_match_and_dedupes_what_is_under_way(
    office: Office,
) -> None:
    """Select all, press, press again."""
    office.project.run_sql(
        "update public.accounts set enriched_at = now() where domain = 'hooli.example'"
    )
    body = {"workspace_id": ACME, "filter": {"enriched": False}}

    first = await office.call("POST", "/api/accounts/enrich", json=body)
    second = await office.call("POST", "/api/accounts/enrich", json=body)

    assert (first.json()["created"], first.json()["next"]) == (7, None)
    assert (second.json()["created"], second.json()["deduplicated"]) == (0, 7)
    assert len(jobs(office)) == 7


@pytest.mark.parametrize(
    ("criteria", "count"),
    [
        ({}, 8),
        ({"enriched": True}, 0),
        ({"industry": "Internet"}, 1),
        ({"country": "USA"}, 0),
        ({"created_after": "2020-01-01T00:00:00Z"}, 8),
        ({"created_after": "2120-01-01T00:00:00Z"}, 0),
    ],
)
async def test_each_criterion_narrows(
    office: Office, criteria: dict[str, object], count: int
) -> None:
    """Joined by and."""
    answer = await office.call(
        "POST", "/api/accounts/enrich", json={"workspace_id": ACME, "filter": criteria}
    )

    assert (answer.status_code, answer.json()["count"]) == (201, count)


async def test_a_long_selection_continues_where_it_stopped(office: Office) -> None:
    """Every call is bounded; `next` carries on, and nothing is left out or done twice."""
    seen: list[str] = []
    body: dict[str, object] = {"workspace_id": ACME, "filter": {}, "limit": 3}

    while True:
        told = (await office.call("POST", "/api/accounts/enrich", json=body)).json()
        seen += [made["job"]["payload"]["account_id"] for made in told["jobs"]]
        if told["next"] is None:
            break
        body["after"] = told["next"]

    assert len(seen) == len(set(seen)) == 8


@pytest.mark.parametrize(
    "body",
    [
        {"workspace_id": ACME},
        {"workspace_id": ACME, "filter": {}, "account_ids": [INITECH]},
        {"workspace_id": ACME, "account_ids": []},
        {"workspace_id": ACME, "account_ids": ["x"]},
        {"workspace_id": ACME, "filter": {"colour": "red"}},
        {"workspace_id": ACME, "filter": {}, "limit": 1001},
        {"filter": {}},
    ],
)
async def test_an_unclear_selection_is_refused(office: Office, body: dict[str, object]) -> None:
    """Guessing here would spend somebody's credits."""
    answer = await office.call("POST", "/api/accounts/enrich", json=body)

    assert answer.status_code == 422
    assert jobs(office) == []


async def test_a_stranger_cannot_enrich_by_selection(office: Office) -> None:
    """Neither by ids nor by a filter, nor over the Data API."""
    by_filter = await office.call(
        "POST", "/api/accounts/enrich", user=EVE, json={"workspace_id": ACME, "filter": {}}
    )
    direct = await office.rest(
        "POST",
        "/rpc/enrich_accounts",
        user=EVE,
        json={"p_workspace_id": ACME, "p_selection": {"account_ids": [INITECH]}},
    )

    assert (by_filter.status_code, direct.status_code) == (404, 404)
    assert jobs(office) == []


async def add_account(office: Office, *, user: str = BOB, **fields: object) -> int:
    """Add an account as the browser does."""
    answer = await office.rest(
        "POST", "/accounts", user=user, json={"workspace_id": ACME, "name": "New", **fields}
    )
    return answer.status_code


async def test_a_new_account_enqueues_itself_where_the_workspace_says_so(office: Office) -> None:
    """By trigger, so that every function is covered: page, API, SQL."""
    office.set_settings(apollo_auto_enrich=True)

    status = await add_account(office, domain="new.example")
    office.project.run_sql(
        "insert into public.accounts (workspace_id, name, domain)"
        " values (%s, 'Sql', 'sql.example')",
        ACME,
    )
    await add_account(office)

    made = jobs(office)
    assert status == 201
    assert [job["payload"]["domain"] for job in made] == ["new.example", "sql.example"]  # type: ignore[index]
    assert [str(job["user_id"]) for job in made] == [BOB, "None"]
    assert (await office.tick()).completed == 2


async def test_without_the_switch_a_new_account_just_is(office: Office) -> None:
    """Credits are spent on request only."""
    await add_account(office, domain="new.example")

    assert jobs(office) == []


async def test_an_account_that_is_rolled_back_leaves_no_job(office: Office) -> None:
    """The job exists if and only if the transaction commits."""
    office.set_settings(apollo_auto_enrich=True)
    insert = (
        "insert into public.accounts (workspace_id, name, domain) values (%s, 'A', 'a.example')"
    )

    with office.project.database.connect(autocommit=False) as connection:
        connection.execute(insert, (ACME,))
        inside = connection.execute("select count(*) from public.jobs").fetchone()
        connection.rollback()

    assert inside == (1,)
    assert jobs(office) == []


async def test_many_accounts_in_one_statement_make_as_many_jobs(office: Office) -> None:
    """More than one enqueue takes at once, in one statement."""
    office.set_settings(apollo_auto_enrich=True)

    office.project.run_sql(
        "insert into public.accounts (workspace_id, name, domain)"
        " select %s, 'n' || n, 'n' || n || '.example' from generate_series(1, 1005) as n",
        ACME,
    )

    assert len(jobs(office)) == 1005


async def test_a_contact_cannot_point_into_another_workspace(office: Office) -> None:
    """The database holds tenants apart even for plain SQL."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        office.project.run_sql(
            "update public.contacts set account_id = %s where id = %s", SOYLENT, PETER
        )
