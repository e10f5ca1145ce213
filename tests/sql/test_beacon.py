"""Beacon's rules in SQL: who may do what, what never changes, which rows go together."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.databases import Database
from tests.support.engine import BOB, EVE
from tests.support.functions import as_user, open_to, rights
from tests.support.project import ACME, ADA

TABLES = ["beacon_jobs", "beacon_outbox", "beacon_executions", "beacon_receipts"]
VIEWS = ["beacon_job_states", "beacon_execution_states"]
MEMBERS = {"beacon_submit", "beacon_cancel", "beacon_redrive", "beacon_keys"}
WORKER = {
    "beacon_cancel_stragglers", "beacon_claim_outbox", "beacon_close", "beacon_finish",
    "beacon_health", "beacon_issue", "beacon_note_execution", "beacon_publish",
    "beacon_reconcile", "beacon_report_providers", "beacon_start", "beacon_start_execution",
    "beacon_take_abandoned",
}  # fmt: skip


def spec(name: str = "s", **fields: Any) -> dict[str, Any]:
    return {
        "jobspec_id": name,
        "version": "1",
        "benchmark": {"name": "b"},
        "constraints": {"regions": ["eu", "us"], "min_regions": 1},
        "questions": ["Why?"],
        **fields,
    }


def submit(database: Database, body: dict[str, Any], user: str = ADA) -> dict[str, Any]:
    made: dict[str, Any] = as_user(
        database, user, "select public.beacon_submit(%s, %s)", Jsonb(body), ACME
    )
    return made


def as_owner(database: Database, statement: str, *args: Any) -> Any:
    with database.connect() as connection:
        cursor = connection.execute(statement.encode(), args)
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


def test_each_function_is_open_to_its_callers_alone(seeded: Database) -> None:
    """By name, for every role that the Data API knows."""
    for role, names in (
        ("authenticated", MEMBERS), ("job_worker", WORKER), ("anon", {"beacon_keys"}),
    ):  # fmt: skip
        assert open_to(seeded, role, "public", "beacon_") == sorted(names), role


@pytest.mark.parametrize("table", TABLES)
def test_members_read_their_own_and_write_nothing(seeded: Database, table: str) -> None:
    """The functions are the only way in; others' rows are not there."""
    submit(seeded, spec())
    count = f"select count(*)::int from public.{table}"

    assert as_user(seeded, BOB, count) == as_user(seeded, ADA, count)
    assert as_user(seeded, EVE, count) == 0
    assert as_user(seeded, ADA, count) == {"beacon_executions": 2, "beacon_receipts": 0}.get(
        table, 1
    )
    for role, held in (("authenticated", ["select"]), ("job_worker", []), ("anon", [])):
        assert rights(seeded, role, f"public.{table}") == held


@pytest.mark.parametrize("view", VIEWS)
def test_views_obey_row_level_security(seeded: Database, view: str) -> None:
    """They run as their reader."""
    submit(seeded, spec())
    count = f"select count(*)::int from public.{view}"

    assert as_user(seeded, ADA, count) > 0
    assert as_user(seeded, EVE, count) == 0


def test_a_stranger_submits_cancels_and_redrives_nothing_of_others(seeded: Database) -> None:
    """Each is a missing one to them."""
    made = submit(seeded, spec())
    for statement, args in (
        ("select public.beacon_submit(%s, %s)", (Jsonb(spec("t")), ACME)),
        ("select public.beacon_cancel(%s)", (made["id"],)),
        ("select public.beacon_redrive(%s)", (ACME,)),
    ):
        with pytest.raises(psycopg.Error) as refused:
            as_user(seeded, EVE, statement, *args)
        assert refused.value.sqlstate == "PT404"


def test_the_job_its_message_and_its_executions_are_one_transaction(seeded: Database) -> None:
    """A submission that is rolled back leaves nothing behind."""
    with seeded.as_role("authenticated", {"sub": ADA}) as connection:
        connection.autocommit = False
        connection.execute("select public.beacon_submit(%s, %s)", (Jsonb(spec()), ACME))
        connection.rollback()

    for table in ("beacon_jobs", "beacon_outbox", "beacon_executions"):
        assert as_owner(seeded, f"select count(*)::int from public.{table}") == 0


def test_a_workspace_takes_everything_of_its_own_with_it(seeded: Database) -> None:
    """Also the rows that point at each other."""
    submit(seeded, spec())
    as_owner(seeded, "delete from public.workspaces where id = %s", ACME)

    for table in TABLES:
        assert as_owner(seeded, f"select count(*)::int from public.{table}") == 0


def test_a_receipt_is_never_changed_nor_deleted(seeded: Database) -> None:
    """Not by the owner of the tables either; retention alone may, from the oldest on."""
    first, second = (submit(seeded, spec(name))["id"] for name in ("one", "two"))
    # two jobs whose receipts interleave: the first one's go together, or none of them
    for number, job in enumerate([first, first, second, second], 1):
        as_owner(seeded, 
            "insert into public.beacon_receipts (id, workspace_id, number, job_id, execution_id,"
            " receipt, digest, previous, key_id, issued_at)"
            " select %s, %s, %s, %s, (select id from public.beacon_executions where job_id = %s"
            "   order by id offset %s limit 1), '{}', %s, %s, 'k', now() - interval '1 year'",
            uuid.uuid4(), ACME, number, job, job, (number - 1) % 2, f"sha256:{number}",
            f"sha256:{number - 1}" if number > 1 else None,
        )  # fmt: skip
    for statement in (
        "update public.beacon_receipts set key_id = 'other'",
        "delete from public.beacon_receipts",
        "truncate public.beacon_receipts",
    ):
        with pytest.raises(psycopg.Error, match="never changed"):
            as_owner(seeded, statement)

    pruned = as_owner(seeded, "select public.beacon_prune(%s, now())", ACME)
    assert pruned == {"receipts": 2, "jobs": 0}
    assert as_owner(seeded, "select array_agg(number)::int[] from public.beacon_receipts") == [3, 4]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"constraints": {"regions": ["a"], "min_regions": 2}}, "min_regions must be at most"),
        ({"constraints": {"regions": ["a", "a"], "min_regions": 1}}, "each region once"),
        ({"models": ["m", {"id": "m"}]}, "each model once"),
        ({"questions": ["a", {"id": "q1", "question": "b", "category": "c"}]}, "different ids"),
        ({"models": [f"m{n}" for n in range(20)],
          "constraints": {"regions": [f"r{n}" for n in range(11)], "min_regions": 1}},
         "at most 200"),
        ({"questions": [1]}, "must be string"),
        ({"metadata": {"x": "y" * 300_000}}, "at most 262144 bytes"),
    ],
)  # fmt: skip
def test_plain_sql_obeys_the_same_rules(
    seeded: Database, change: dict[str, Any], problem: str
) -> None:
    """Whoever calls the function, and by whatever client."""
    with pytest.raises(psycopg.Error, match=problem):
        submit(seeded, spec(**change))


def test_the_outbox_is_read_by_its_index(seeded: Database) -> None:
    """An idle look costs the same beside a million messages that were published."""
    with seeded.connect() as connection:
        connection.execute("set enable_seqscan = off")
        plan = connection.execute(
            "explain select id from public.beacon_outbox where status = 'pending'"
            " and next_attempt_at <= now() order by next_attempt_at, id limit 50"
        ).fetchall()

    assert "beacon_outbox_due" in str(plan)
