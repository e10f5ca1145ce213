"""The plans app's rules in SQL: who reaches what, numbers without gaps, and reports stored once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from minutehand.local.postgres import Postgres
from tests.support.databases import Database
from tests.support.engine import ACME, ADA, EVE, Engine
from tests.support.functions import (
    as_user,
    as_worker,
    call,
    database_of_an_app,
    lease,
    open_to,
    rights,
    unkempt,
    until_waiting,
    users_of,
)

TABLES = ["plans", "plan_stages", "plan_events"]
CALLERS = {
    "plan_start", "plan_read", "plan_list", "plan_events_after", "plan_cancel", "plan_delete",
    "plan_restart", "plan_fork",
}  # fmt: skip
WORKER = {"plan_load", "plan_report"}
OPERATOR = {"plan_set_guest_workspace"}
PLAN: dict[str, Any] = {"prompt": "Plant a hedge", "speed_vs_detail": "fast_but_skip_details"}
DONE = {"name": "understand", "position": 1, "status": "completed", "attempts": 1, "result": {}}


@pytest.fixture(scope="module")
def seeded(postgres: Postgres) -> Iterator[Database]:
    """A seeded database that knows the app's job type; tests look at plans of their own."""
    with database_of_an_app(postgres, "plan") as database:
        yield database


def start(database: Database, key: str | None = None, **changes: Any) -> dict[str, Any]:
    """Ada creates a plan."""
    made: dict[str, Any] = as_user(
        database, ADA, "select public.plan_start(%s, %s, null, %s)", ACME,
        Jsonb({**PLAN, **changes}), key,
    )  # fmt: skip
    return made


def events(database: Database, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All events of a plan, as Ada reads them."""
    statement = "select public.plan_events_after(%s, 0, 1000, true)"
    found: list[dict[str, Any]] = as_user(database, ADA, statement, plan["plan_id"])["events"]
    return found


def test_grants_are_by_name(seeded: Database) -> None:
    """Guests reach what asks for the plan's id, the worker its own; nobody writes a table."""
    for role, allowed in {
        "anon": CALLERS,
        "authenticated": CALLERS,
        "job_worker": WORKER,
        "service_role": CALLERS | WORKER | OPERATOR,
    }.items():
        assert open_to(seeded, role, "public", "plan_") == sorted(allowed), role
        reads = ["select"] if role in {"authenticated", "service_role"} else []
        for table in TABLES:
            assert rights(seeded, role, f"public.{table}") == reads, (role, table)
    inner = ["cancel", "delete", "fork", "list", "read", "restart", "start"]
    assert open_to(seeded, "anon", "plans") == inner


def test_a_key_too_long_for_its_index_is_refused(seeded: Database) -> None:
    """Guests reach the function without the API, which checks it too."""
    for key in ("", "k" * 256):
        with pytest.raises(psycopg.Error) as refused:
            start(seeded, key)
        assert (refused.value.sqlstate, refused.value.diag.message_detail) == (
            "PT400",
            "idempotency_key",
        )


def test_the_apps_own_schema_is_commented_and_closed(seeded: Database) -> None:
    """As the catalogue's test asks of public and queue."""
    assert (unkempt(seeded, "plans"), users_of(seeded, "plans")) == ([], [])


def test_rows_are_for_members(seeded: Database) -> None:
    """Row level security on every table, the events of a deleted plan included."""
    plan = start(seeded)
    for table in TABLES:
        column = "id" if table == "plans" else "plan_id"
        statement = f"select count(*) from public.{table} where {column} = %s"
        assert as_user(seeded, EVE, statement, plan["plan_id"]) == 0, table
    count = "select count(*) from public.plan_events where plan_id = %s"
    assert as_user(seeded, ADA, count, plan["plan_id"]) == 1
    as_user(seeded, ADA, "select public.plan_delete(%s)", plan["plan_id"])
    assert as_user(seeded, ADA, count, plan["plan_id"]) == 0


def test_a_repeated_report_is_stored_once(seeded: Database) -> None:
    """An answer that was lost on its way makes the worker send the same mark again."""
    plan = start(seeded)
    held = lease(seeded, plan["job_id"], "plan")
    as_worker(seeded, "plan_load", held)
    news = {
        **held, "mark": "1", "stages": [DONE], "percentage": 10,
        "events": [{"type": "stage_completed", "data": {"stage": "understand"}}],
    }  # fmt: skip

    outcomes = [as_worker(seeded, "plan_report", news)["outcome"] for _ in range(2)]

    told = events(seeded, plan)
    assert outcomes == ["stored", "stored"]
    assert [event["type"] for event in told] == ["plan_created", "stage_completed"]
    assert [event["seq"] for event in told] == [1, 2]


def test_a_correction_takes_whole_figures(seeded: Database) -> None:
    """5 EUR is no part of 15 EUR, a line may break in it, and nothing in it is a pattern."""
    plan = start(seeded, prompt="A lamp costs 15 EUR, a shade (white) 5\nEUR.")
    words = [("5 EUR", r"6 \1 EUR"), ("a shade (white)", "a bulb"), ("15 EUR", "")]
    corrections = [{"text": text, "means": means} for text, means in words]
    fork = "select public.plan_fork(%s, 'understand', '{}', %s)"
    made = as_user(seeded, ADA, fork, plan["plan_id"], Jsonb(corrections))

    read = as_user(seeded, ADA, "select public.plan_read(%s)", made["plan_id"])
    assert read["prompt"] == r"A lamp costs , a bulb 6 \1 EUR."
    with pytest.raises(psycopg.Error, match="corrections must be"):
        as_user(seeded, ADA, fork, plan["plan_id"], Jsonb([{"text": "7 EUR", "means": "8"}]))


def test_a_completed_stage_is_never_written_again(seeded: Database) -> None:
    """Whatever a later report says of it."""
    plan = start(seeded)
    held = lease(seeded, plan["job_id"], "plan")
    as_worker(seeded, "plan_report", {**held, "mark": "1", "stages": [DONE]})
    changed = {**DONE, "status": "failed", "result": None, "code": "x", "reason": "y"}
    as_worker(seeded, "plan_report", {**held, "mark": "2", "stages": [changed]})

    [stage] = as_user(seeded, ADA, "select public.plan_read(%s)", plan["plan_id"])["stages"]
    assert (stage["status"], stage["attempts"]) == ("completed", 1)


def test_a_zombie_and_a_deleted_plan_store_nothing(seeded: Database) -> None:
    """Without the current fencing token it is a lost lease; without the plan, gone."""
    plan = start(seeded)
    held = lease(seeded, plan["job_id"], "plan")

    with pytest.raises(psycopg.Error, match="lease on the job is lost"):
        as_worker(seeded, "plan_report", {**held, "fence": held["fence"] - 1, "mark": "1"})
    as_user(seeded, ADA, "select public.plan_delete(%s)", plan["plan_id"])
    assert as_worker(seeded, "plan_report", {**held, "mark": "1"}) == {"outcome": "gone"}
    assert as_worker(seeded, "plan_load", held) == {"plan": None}


def test_a_deleted_plan_leaves_no_words_of_its_log(seeded: Database) -> None:
    """Its numbers are for open streams; new readers find nothing at once."""
    plan = start(seeded)
    held = lease(seeded, plan["job_id"], "plan")
    log = [{"type": "log", "data": {"level": "info", "message": "Hedge"}}]
    as_worker(seeded, "plan_report", {**held, "mark": "1", "events": log})
    as_user(seeded, ADA, "select public.plan_delete(%s)", plan["plan_id"])

    told = events(seeded, plan)
    assert [event["type"] for event in told] == ["plan_created", "log", "plan_deleted"]
    assert told[1]["data"] == {"level": "info"}
    with pytest.raises(psycopg.Error, match="Plan not found"):
        as_user(seeded, ADA, "select public.plan_events_after(%s)", plan["plan_id"])


def test_a_plan_ends_with_its_job(seeded: Database) -> None:
    """Cancelled by the jobs' own routes, it is cancelled, once and with an event."""
    plan = start(seeded)
    as_user(seeded, ADA, "select public.cancel_job(%s)", plan["job_id"])

    state = as_user(seeded, ADA, "select public.plan_read(%s)", plan["plan_id"])
    assert state["status"] == "cancelled"
    assert [event["type"] for event in events(seeded, plan)] == ["plan_created", "plan_cancelled"]


def test_a_plan_that_ends_while_it_is_being_cancelled_stays_as_it_ended(seeded: Database) -> None:
    """The cancel waits for the report under way, and then sees what that made of the plan."""
    plan = start(seeded)
    held = lease(seeded, plan["job_id"], "plan")
    cancel = "select public.plan_cancel(%s)"

    with seeded.connect(autocommit=False) as reporting, ThreadPoolExecutor(1) as pool:
        reporting.execute("select 1 from public.jobs where id = %s for update", (held["job_id"],))
        cancelled = pool.submit(as_user, seeded, ADA, cancel, plan["plan_id"])
        until_waiting(seeded)
        reporting.execute(
            "update public.plans set status = 'completed', finished_at = queue.clock()"
            " where id = %s",
            (plan["plan_id"],),
        )
        reporting.commit()
        with pytest.raises(psycopg.Error, match="has ended") as refused:
            cancelled.result()

    assert refused.value.sqlstate == "PT409"
    assert as_user(seeded, ADA, "select public.plan_read(%s)", plan["plan_id"])["status"] == (
        "completed"
    )


def test_guests_are_refused_where_they_are_off(postgres: Postgres) -> None:
    """And leave no workspace behind."""
    with database_of_an_app(postgres, "plan") as database:
        with database.connect() as connection:
            connection.execute(
                "update queue.settings set value = 'false' where name = 'allow_anonymous'"
            )
        start_as_guest = "select public.plan_start(null, %s)"
        with pytest.raises(psycopg.Error, match="without an account are off"):
            call(database, "anon", {"role": "anon"}, start_as_guest, Jsonb(PLAN))
        with database.connect() as connection:
            row = connection.execute(
                "select count(*) from public.workspaces where name = 'Guests'' plans'"
            ).fetchone()
    assert row == (0,)


def test_an_operator_chooses_the_workspace_of_guests_plans(seeded: Database) -> None:
    """One that exists; a guest's plan then belongs to it."""
    service = ("service_role", {"role": "service_role"})
    choose = "select public.plan_set_guest_workspace(%s)"
    with pytest.raises(psycopg.Error, match="no such workspace"):
        call(seeded, *service, choose, "99999999-9999-4999-8999-999999999999")
    call(seeded, *service, choose, ACME)

    statement = "select public.plan_start(null, %s)"
    plan = call(seeded, "anon", {"role": "anon"}, statement, Jsonb(PLAN))

    assert as_user(seeded, ADA, "select public.plan_read(%s)", plan["plan_id"])["id"]
    call(seeded, *service, choose, None)


def test_a_days_plans_of_guests_are_bounded(postgres: Postgres) -> None:
    """Beyond the setting it is a 429, deleted plans counted."""
    with database_of_an_app(postgres, "plan") as database:
        with database.connect() as connection:
            Engine(database, connection).stop_clock()  # no day ends here
            connection.execute(
                "update queue.settings set value = case name when 'allow_anonymous' then 'true'"
                " else '1' end::jsonb where name in ('allow_anonymous', 'plan_guest_plans_per_day')"
            )
        anon = ("anon", {"role": "anon"}, "select public.plan_start(null, %s)", Jsonb(PLAN))
        made = call(database, *anon)
        call(database, "anon", {"role": "anon"}, "select public.plan_delete(%s)", made["plan_id"])
        with pytest.raises(psycopg.Error, match="without an account"):
            call(database, *anon)
