"""Beacon's rules in SQL: who may do what, what never changes, which rows go together."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.databases import Database
from tests.support.project import ACME, ADA

EVE = "aaaaaaaa-0000-4000-8000-000000000003"
BOB = "aaaaaaaa-0000-4000-8000-000000000002"
TABLES = ["beacon_jobs", "beacon_outbox", "beacon_executions", "beacon_receipts"]
VIEWS = ["beacon_job_states", "beacon_execution_states"]
MEMBERS = {"beacon_submit", "beacon_cancel", "beacon_redrive", "beacon_keys"}
WORKER = {
    "beacon_add_key", "beacon_cancel_stragglers", "beacon_claim_outbox", "beacon_finish",
    "beacon_health", "beacon_issue", "beacon_keys", "beacon_note_execution", "beacon_publish",
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


@dataclass
class Harness:
    """The app's functions, as members and as the worker, over one database."""

    database: Database

    def as_member(self, statement: str, *args: Any, user: str = ADA) -> Any:
        with self.database.as_role("authenticated", {"sub": user}) as connection:
            return value(connection, statement, args)

    def as_worker(self, statement: str, *args: Any) -> Any:
        with self.database.as_role("job_worker", {}) as connection:
            return value(connection, statement, args)

    def as_owner(self, statement: str, *args: Any) -> Any:
        with self.database.connect() as connection:
            return value(connection, statement, args)

    def submit(self, body: dict[str, Any], *, user: str = ADA) -> dict[str, Any]:
        made: dict[str, Any] = self.as_member(
            "select public.beacon_submit(%s, %s)", Jsonb(body), ACME, user=user
        )
        return made


def value(connection: psycopg.Connection[Any], statement: str, args: Any) -> Any:
    cursor = connection.execute(statement.encode(), args)
    row = cursor.fetchone() if cursor.description else None
    return None if row is None else row[0]


@pytest.fixture
def harness(seeded: Database) -> Harness:
    return Harness(seeded)


def test_each_function_is_open_to_its_callers_alone(harness: Harness) -> None:
    """By name, for every role that the Data API knows."""
    granted = """
      select coalesce(array_agg(proname::text order by proname), '{}') from pg_catalog.pg_proc
      where pronamespace = 'public'::regnamespace and proname like 'beacon\\_%%'
        and has_function_privilege(%s, oid, 'execute')
    """
    assert set(harness.as_owner(granted, "authenticated")) == MEMBERS
    assert set(harness.as_owner(granted, "job_worker")) == WORKER
    assert set(harness.as_owner(granted, "anon")) == {"beacon_keys"}


@pytest.mark.parametrize("table", TABLES)
def test_members_read_their_own_and_write_nothing(harness: Harness, table: str) -> None:
    """The functions are the only way in; others' rows are not there."""
    harness.submit(spec())
    count = f"select count(*)::int from public.{table}"

    assert harness.as_member(count) == harness.as_member(count, user=BOB)
    assert harness.as_member(count, user=EVE) == 0
    assert harness.as_member(count) == {"beacon_executions": 2, "beacon_receipts": 0}.get(table, 1)
    for statement in (f"delete from public.{table}", f"update public.{table} set id = id"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            harness.as_member(statement)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            harness.as_worker(statement)
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        harness.database.as_role("anon") as it,
    ):
        it.execute(count.encode())


@pytest.mark.parametrize("view", VIEWS)
def test_views_obey_row_level_security(harness: Harness, view: str) -> None:
    """They run as their reader."""
    harness.submit(spec())
    count = f"select count(*)::int from public.{view}"

    assert harness.as_member(count) > 0
    assert harness.as_member(count, user=EVE) == 0


def test_a_stranger_submits_cancels_and_redrives_nothing_of_others(harness: Harness) -> None:
    """Each is a missing one to them."""
    made = harness.submit(spec())
    for statement, args in (
        ("select public.beacon_submit(%s, %s)", (Jsonb(spec("t")), ACME)),
        ("select public.beacon_cancel(%s)", (made["id"],)),
        ("select public.beacon_redrive(%s)", (ACME,)),
    ):
        with pytest.raises(psycopg.Error) as refused:
            harness.as_member(statement, *args, user=EVE)
        assert refused.value.sqlstate == "PT404"


def test_the_job_its_message_and_its_executions_are_one_transaction(harness: Harness) -> None:
    """A submission that is rolled back leaves nothing behind."""
    with harness.database.as_role("authenticated", {"sub": ADA}) as connection:
        connection.autocommit = False
        connection.execute("select public.beacon_submit(%s, %s)", (Jsonb(spec()), ACME))
        connection.rollback()

    for table in ("beacon_jobs", "beacon_outbox", "beacon_executions"):
        assert harness.as_owner(f"select count(*)::int from public.{table}") == 0


def test_a_workspace_takes_everything_of_its_own_with_it(harness: Harness) -> None:
    """Also the rows that point at each other."""
    harness.submit(spec())
    harness.as_owner("delete from public.workspaces where id = %s", ACME)

    for table in TABLES:
        assert harness.as_owner(f"select count(*)::int from public.{table}") == 0


def test_a_receipt_is_never_changed_nor_deleted(harness: Harness) -> None:
    """Not by the owner of the tables either; retention alone may, from the oldest on."""
    made = harness.submit(spec())
    executions = (
        "select array_agg(id order by id) from public.beacon_executions"
        f" where job_id = '{made['id']}'"
    )
    digests = ["sha256:" + str(place) * 64 for place in (1, 2)]
    for place, execution in enumerate(harness.as_owner(executions)):
        harness.as_owner(
            "insert into public.beacon_receipts (id, workspace_id, number, job_id, execution_id,"
            " receipt, digest, previous, key_id, issued_at)"
            " values (%s, %s, %s, %s, %s, '{}', %s, %s, 'k', now() - interval '1 year')",
            uuid.uuid4(), ACME, place + 1, made["id"], execution, digests[place],
            digests[0] if place else None,
        )  # fmt: skip
    for statement in (
        "update public.beacon_receipts set key_id = 'other'",
        "delete from public.beacon_receipts",
        "truncate public.beacon_receipts",
    ):
        with pytest.raises(psycopg.Error, match="never changed"):
            harness.as_owner(statement)

    pruned = harness.as_owner("select public.beacon_prune(%s, now())", ACME)
    assert pruned == {"receipts": 1, "jobs": 0}
    assert harness.as_owner("select array_agg(number)::int[] from public.beacon_receipts") == [2]


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
    harness: Harness, change: dict[str, Any], problem: str
) -> None:
    """Whoever calls the function, and by whatever client."""
    with pytest.raises(psycopg.Error, match=problem):
        harness.submit(spec(**change))


def test_the_outbox_is_read_by_its_index(harness: Harness) -> None:
    """An idle look costs the same beside a million messages that were published."""
    with harness.database.connect() as connection:
        connection.execute("set enable_seqscan = off")
        plan = connection.execute(
            "explain select id from public.beacon_outbox where status = 'pending'"
            " and next_attempt_at <= now() order by next_attempt_at, id limit 50"
        ).fetchall()

    assert "beacon_outbox_due" in str(plan)
