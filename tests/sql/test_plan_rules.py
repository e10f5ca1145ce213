"""The plans app's rules in SQL: who reaches what, and what a stage and a request may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from minutehand.local.postgres import Postgres
from tests.support.databases import Database
from tests.support.doors import (
    as_user,
    as_worker,
    call,
    database_of_an_app,
    lease,
    open_to,
    rights,
    unkempt,
    users_of,
)

ACME = "11111111-1111-4111-8111-111111111111"
ADA, EVE = (f"aaaaaaaa-0000-4000-8000-00000000000{n}" for n in (1, 3))
TABLES = ["plans", "plan_stages"]
CALLERS = {
    "plan_start", "plan_read", "plan_list", "plan_answer", "plan_cancel", "plan_resume",
}  # fmt: skip
WORKER = {"plan_load", "plan_store_stage", "plan_finish"}
REQUEST: dict[str, Any] = {
    "goal": "Plant a hedge",
    "constraints": [],
    "deadline": None,
    "documents": [],
    "ask": True,
    "ask_seconds": 60,
    "max_phases": 3,
    "seed": 0,
    "budget": {"seconds": 60, "tokens": 1000, "usd": None},
}


@pytest.fixture(scope="module")
def seeded(template: Postgres) -> Iterator[Database]:
    """A seeded database that knows the app's job types; tests look at plans of their own."""
    with database_of_an_app(template, "plan", "plan_phase") as database:
        yield database


def start(database: Database, **changes: Any) -> dict[str, Any]:
    """Ada starts a plan."""
    made: dict[str, Any] = as_user(
        database, ADA, "select public.plan_start(%s, %s)", ACME, Jsonb({**REQUEST, **changes})
    )
    return made


def test_grants_are_by_name(seeded: Database) -> None:
    """Visitors reach doors that ask for their key, the worker its own; nobody writes a table."""
    for role, allowed in {
        "anon": CALLERS,
        "authenticated": CALLERS,
        "job_worker": WORKER,
        "service_role": CALLERS | WORKER,
    }.items():
        assert open_to(seeded, role, "public", "plan_") == sorted(allowed), role
        reads = ["select"] if role in {"authenticated", "service_role"} else []
        for table in TABLES:
            assert rights(seeded, role, f"public.{table}") == reads, (role, table)
    inner = ["answer", "cancel", "go_on", "list", "show", "start"]
    assert open_to(seeded, "anon", "plans") == inner


def test_the_apps_own_schema_is_commented_and_closed(seeded: Database) -> None:
    """As the catalogue's test asks of public and queue."""
    assert (unkempt(seeded, "plans"), users_of(seeded, "plans")) == ([], [])


def test_rows_are_read_by_members_alone(seeded: Database) -> None:
    """Row level security on both tables; doors answer a stranger as if there were nothing."""
    made = start(seeded)
    with seeded.connect() as connection:
        connection.execute(
            "insert into public.plan_stages (plan_id, name, workspace_id, position, run, status,"
            " result) values (%s, 'risks', %s, 200, 1, 'completed', '{}')",
            (made["plan_id"], ACME),
        )
    count = "select (select count(*) from public.plans) + (select count(*) from public.plan_stages)"

    assert as_user(seeded, ADA, count) >= 2
    assert as_user(seeded, EVE, count) == 0
    for role, claims in (
        ("authenticated", {"sub": EVE, "role": "authenticated"}),
        ("anon", {"role": "anon"}),
        ("anon", {}),
    ):
        for function in ("plan_read", "plan_cancel", "plan_resume"):
            with pytest.raises(psycopg.Error, match="no such plan") as refused:
                call(seeded, role, claims, f"select public.{function}(%s)", made["plan_id"])
            assert refused.value.sqlstate == "PT404"
        with pytest.raises(psycopg.Error, match="no such workspace"):
            call(seeded, role, claims, "select public.plan_start(%s, %s)", ACME, Jsonb(REQUEST))
        with pytest.raises(psycopg.Error, match="no such workspace"):
            call(seeded, role, claims, "select public.plan_list(%s)", ACME)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"goal": " "}, "goal"),
        ({"goal": "x" * 4001}, "goal"),
        ({"goal": None}, "goal"),
        ({"constraints": [""]}, "constraints"),
        ({"constraints": "x"}, "constraints"),
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": "2027-02-30"}, "deadline"),
        ({"deadline": "0000-01-01"}, "deadline"),
        ({"documents": [{"title": "t"}]}, "documents"),
        ({"documents": [1]}, "documents"),
        ({"ask": "yes"}, "ask"),
        ({"ask_seconds": 0}, "ask_seconds"),
        ({"max_phases": 1.5}, "max_phases"),
        ({"seed": -1}, "seed"),
        ({"budget": {"seconds": 1, "tokens": 1}}, "budget"),
        ({"budget": {"seconds": 1, "tokens": 1, "usd": "1"}}, "budget.usd"),
        ({"other": 1}, "plan"),
    ],
)
def test_a_request_is_checked_here_too(
    seeded: Database, changes: dict[str, Any], field: str
) -> None:
    """Whoever comes past the API is told the same."""
    with pytest.raises(psycopg.Error) as refused:
        start(seeded, **changes)
    assert (refused.value.sqlstate, refused.value.diag.message_detail) == ("PT400", field)


def test_a_completed_stage_stays_and_a_lost_lease_stores_nothing(seeded: Database) -> None:
    """A repeat finds the first result; what an interrupted try cost is added up."""
    made = start(seeded)
    held = lease(seeded, made["job_id"], "plan")
    stage = {"name": "outline", "position": 30, "input_tokens": 5, "seconds": 1}
    cut = {**stage, "status": "interrupted", "code": "cut_short", "reason": "r", "draft": "{"}
    as_worker(seeded, "plan_store_stage", {**held, "stage": cut})
    done = {**stage, "status": "completed", "result": {"phases": [1]}}

    first = as_worker(seeded, "plan_store_stage", {**held, "stage": done})
    second = as_worker(
        seeded, "plan_store_stage", {**held, "stage": {**done, "result": {"phases": [2]}}}
    )

    assert (first["status"], first["draft"], first["input_tokens"]) == ("completed", None, 10)
    assert second == first
    lost = {**held, "fence": held["fence"] + 1}
    for function in ("plan_load", "plan_store_stage", "plan_finish"):
        with pytest.raises(psycopg.Error, match="lease") as refused:
            as_worker(seeded, function, {**lost, "stage": done, "missing": []})
        assert refused.value.sqlstate == "PT409"
    for wrong in (
        {**done, "name": "other"},
        {**done, "result": None},
        {**stage, "status": "failed"},
        {**done, "name": "risks", "result": {"x": "y" * 200_001}},
    ):
        with pytest.raises(psycopg.Error) as refused:
            as_worker(seeded, "plan_store_stage", {**held, "stage": wrong})
        assert refused.value.sqlstate == "PT422"
    ended = as_worker(seeded, "plan_finish", {**held, "missing": []})
    again = as_worker(seeded, "plan_finish", {**held, "missing": [{"stage": "x"}]})
    assert ended == again == {"outcome": "completed", "missing": []}


def test_a_plan_that_ended_is_not_cancelled_though_its_job_is_still_held(seeded: Database) -> None:
    """The worker has told the end and not settled yet: no cancel is promised any more."""
    made = start(seeded)
    held = lease(seeded, made["job_id"], "plan")
    as_worker(seeded, "plan_finish", {**held, "missing": []})

    with pytest.raises(psycopg.Error, match="has ended") as refused:
        as_user(seeded, ADA, "select public.plan_cancel(%s)", made["plan_id"])

    assert (refused.value.sqlstate, refused.value.diag.message_detail) == ("PT409", "completed")
    shown = as_user(seeded, ADA, "select public.plan_read(%s)", made["plan_id"])
    assert (shown["status"], shown["job"]["cancel_requested_at"]) == ("completed", None)


def test_a_visit_takes_no_more_of_a_day_than_the_operator_gives(seeded: Database) -> None:
    """Whatever is asked for, also by resuming; members keep to their request alone."""
    with seeded.connect() as connection:
        connection.execute(
            "update queue.settings set value = 'true' where name = 'allow_anonymous'"
        )
        connection.execute(
            'select public.set_settings(\'{"plan_visit_tokens_per_day": 4000,'
            ' "plan_visit_usd_per_day": 8}\')'
        )
        row = connection.execute("select public.open_visit(%s)", (ACME,)).fetchone()
    assert row is not None
    key = row[0]["session_id"]
    statement = "select public.plan_start(null, %s, %s, %s)"

    def begin(tokens: int, usd: float | None, name: str | None = None) -> Any:
        budget = {"seconds": 60, "tokens": tokens, "usd": usd}
        plan = Jsonb({**REQUEST, "budget": budget})
        return call(seeded, "anon", {"role": "anon"}, statement, plan, key, name)

    def given(job_id: str) -> Any:
        loaded = as_worker(seeded, "plan_load", lease(seeded, job_id, "plan"))["plan"]
        return loaded["request"]["budget"]

    first = begin(1000, None, "one")
    assert given(first["job_id"]) == {"seconds": 60, "tokens": 1000, "usd": 2}
    assert begin(1000, None, "one")["plan_id"] == first["plan_id"]
    second = begin(1_000_000, 1, "two")
    assert given(second["job_id"]) == {"seconds": 60, "tokens": 3000, "usd": 1}
    assert begin(1_000_000, 1, "two")["created"] is False
    with pytest.raises(psycopg.Error, match=r"goes on at \d{4}-\d\d-\d\dT00:00:00Z") as refused:
        begin(1, None)
    assert refused.value.sqlstate == "PT429"
    cancel, resume = "select public.plan_cancel(%s, %s)", "select public.plan_resume(%s, %s)"
    with seeded.connect() as connection:
        connection.execute(
            "update public.plans set outcome = 'partial', finished_at = queue.clock()"
            " where id = %s", (first["plan_id"],)
        )  # fmt: skip
    with pytest.raises(psycopg.Error, match="used up"):
        call(seeded, "anon", {"role": "anon"}, resume, first["plan_id"], key)
    call(seeded, "anon", {"role": "anon"}, cancel, second["plan_id"], key)
    with pytest.raises(psycopg.Error, match="used up"):
        begin(1, None)
    with seeded.connect() as connection:
        connection.execute(
            "update public.jobs set created_at = created_at - interval '25 hours'"
            " where session_id = %s", (key,)
        )  # fmt: skip
    assert begin(1, None)["created"]
    with seeded.connect() as connection:
        connection.execute(
            'select public.set_settings(\'{"plan_visit_tokens_per_day": 1000000,'
            ' "plan_visit_usd_per_day": 10}\')'
        )
    members = start(seeded, budget={"seconds": 60, "tokens": 9000, "usd": None})
    assert given(members["job_id"]) == {"seconds": 60, "tokens": 9000, "usd": None}


def test_a_visit_has_an_end_and_a_measure(seeded: Database) -> None:
    """Twenty plans a visit; none in one that is over, or of another workspace."""
    with seeded.connect() as connection:
        connection.execute(
            "update queue.settings set value = 'true' where name = 'allow_anonymous'"
        )
        row = connection.execute("select public.open_visit(%s)", (ACME,)).fetchone()
    assert row is not None
    key = row[0]["session_id"]

    def anonymous(workspace_id: str | None) -> Any:
        return call(
            seeded, "anon", {"role": "anon"}, "select public.plan_start(%s, %s, %s)",
            workspace_id, Jsonb(REQUEST), key,
        )  # fmt: skip

    for _ in range(20):
        plan = anonymous(None)
    for workspace_id, state in ((None, "PT429"), ("22222222-2222-4222-8222-222222222222", "PT404")):
        with pytest.raises(psycopg.Error) as refused:
            anonymous(workspace_id)
        assert refused.value.sqlstate == state
    read = "select public.plan_read(%s, %s)"
    assert call(seeded, "anon", {}, read, plan["plan_id"], key)["workspace_id"] is None
    with seeded.connect() as connection:
        connection.execute(
            "update queue.visits set opened_at = '2020-01-01', expires_at = '2020-01-02'"
        )
    with pytest.raises(psycopg.Error, match="no such plan"):
        call(seeded, "anon", {}, read, plan["plan_id"], key)
