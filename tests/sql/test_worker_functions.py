# ruff: noqa: E501 - queries stay on one line
"""Every function granted to `job_worker`, found in the catalogue: keys that were revoked, leases that are not held."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.support.engine import ACME, Engine, refusal

#: Functions that need no lease, and why none can be asked for.
WITHOUT_LEASE = {
    "attach_extensions": "names nothing",
    "lease_jobs": "gives the leases",
    "run_maintenance": "names nothing",
    "register_job_types": "names types, in bounded steps",
    "begin_worker_run": "names a run by an id of its own",
    "end_worker_run": "names a run by an id of its own",
    "tick_finished": "names a run by an id of its own",
    "queue_health": "names nothing",
    "queue_stats": "refuses a workspace",
    "beacon_publish": "names nothing",
    "beacon_reconcile": "names nothing",
    "beacon_key": "keeps the key there is",
    "beacon_health": "names nothing",
    "guest_key": "names nothing",
    "enrichment_finish_call": "counts a call that a lease began; what was paid is paid",
    "enrichment_abandon_call": "forgets a call that a lease began",
    "training_host_event": "is called for a signed webhook; only lets a job ask sooner",
}  # fmt: skip
#: The refusal, and how functions say it that answer for each item or change nothing.
LEASE_LOST = re.compile("^lease_lost|'outcome': '(lost|stale)'|'known': False, 'enabled': False")
GRANTED = """
select p.oid::regproc::text, coalesce(p.proargnames[:p.pronargs], '{}'), p.proargtypes::regtype[]::text[]
from pg_catalog.pg_proc as p where p.proacl::text ~ '[{,]job_worker=' order by 1
"""


def call(
    worker: psycopg.Connection[Any], function: tuple[str, list[str], list[str]], **known: Any
) -> str:
    """Call a function with what is known by its parameters' names, null for the rest."""
    name, names, types = function
    places = sql.SQL(", ").join(sql.SQL(f"%s::{kind}") for kind in types)
    values = [known.get(each) for each in names]
    return str(
        worker.execute(
            sql.SQL("select to_json({}({}))").format(sql.SQL(name), places), values
        ).fetchone()
    )


@pytest.fixture
def worker(engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """A worker with a key of an hour ago."""
    with engine.database.as_role("job_worker", {"iat": time.time() - 3600}) as connection:
        yield connection


def revoke(engine: Engine) -> None:
    """Revoke every key issued until now."""
    engine.rpc("revoke_worker_keys", p_before=engine.one("select queue.clock()"))


def answered(engine: Engine, worker: psycopg.Connection[Any]) -> dict[str, str]:
    """Functions that do not refuse the worker's key as revoked, with what they said."""
    found = {}
    for function in engine.rows(GRANTED):
        try:
            found[function[0]] = call(worker, function)
        except psycopg.Error as error:
            if refusal(error) != ("PT401", "key_revoked", "SUPABASE_WORKER_KEY"):
                found[function[0]] = str(error)
    return found


def test_every_function_of_a_worker_refuses_a_revoked_key(
    engine: Engine, worker: psycopg.Connection[Any]
) -> None:
    """First, whatever its arguments are: also those of apps, and those that hold a lease."""
    revoke(engine)

    assert answered(engine, worker) == {}
    assert len(engine.rows(GRANTED)) > 40


def test_a_function_granted_later_is_guarded_by_the_next_worker(
    engine: Engine, worker: psycopg.Connection[Any]
) -> None:
    """An application's own migration knows nothing of keys."""
    engine.run("set role postgres; create schema shop; grant usage on schema shop to job_worker")
    engine.run(
        "create function shop.price(p_id integer default 7) returns integer language sql security definer as $$ select p_id $$;"
        " create function shop.sell(p_id integer) returns integer language plpgsql security definer as $$\n#variable_conflict use_column\ndeclare v integer := p_id / 0; begin return v; end $$;"
        " grant execute on function shop.price, shop.sell to job_worker;"
    )
    assert engine.one("select queue.extension_state()")["worker_guard"] == "not_attached"

    assert engine.rpc("attach_extensions")["worker_guard"] == "attached"
    assert worker.execute("select shop.price()").fetchone() == (7,)

    revoke(engine)
    assert answered(engine, worker) == {}


def test_every_function_that_names_a_job_needs_its_lease(
    engine: Engine, worker: psycopg.Connection[Any]
) -> None:
    """A stolen key that is still valid reaches what it leased, and nothing by an id it has read."""
    engine.enqueue()
    lease = engine.lease_one()
    named = {"job_id": lease["job"]["id"], "fence": lease["fence"] + 1}
    request = {**named, "items": [{**named, "outcome": "completed"}], "name": "n", "children": []}

    free: dict[str, str] = {}
    for function in engine.rows(GRANTED):
        try:
            said = call(
                worker, function, p_job_id=named["job_id"], p_fence=named["fence"], p_request=Jsonb(request),
                p_workspace_id=ACME, p_kind="account", p_types=Jsonb([]), p_reports=Jsonb([]),
            )  # fmt: skip
        except psycopg.Error as error:
            said = str(refusal(error)[1])
        if not LEASE_LOST.search(said):
            free[function[0].rpartition(".")[2]] = said

    assert set(free) == set(WITHOUT_LEASE), free
    assert free["queue_stats"] == "workspace_not_found"
    assert engine.status(named["job_id"]) == "processing"
