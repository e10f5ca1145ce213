"""Limits for callers: call rates, concurrent worker runs, stored bytes, and settings."""

import itertools
import random
import string
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.contract.observed import refused
from tests.support.engine import ACME, ADA, GLOBEX, Engine, Json

OF_ACME = {"p_workspace_id": ACME}


def test_a_bulk_cancel_names_what_it_cancels(engine: Engine) -> None:
    """A bulk cancel whose filter is empty or null is rejected.

    It would otherwise cancel every job of the workspace.
    """
    for none in ({}, {"job_type": None}):
        assert refused(engine.rpc, "cancel_jobs", **OF_ACME, p_filter=none)[0] == "PT422"


def test_guests_are_limited_by_the_address_that_they_come_from(engine: Engine) -> None:
    """A guest's calls are limited by the guest's network address, which the proxy adds last.

    Addresses that the guest adds to the header do not change the limit.
    """
    engine.stop_clock()
    engine.run("insert into queue.settings (name, value) values ('visits_per_minute', '2')")

    def visit(header: str) -> None:
        engine.run("select set_config('request.headers', %s, false)", header)
        engine.run("select queue.admit_guest('visits', %s)", ACME)

    one, two = '{"x-forwarded-for": "1.1.1.1, 2001:db8::1"}', '{"cf-connecting-ip": "203.0.113.7"}'
    engine.set(allow_anonymous=False)
    assert refused(visit, one)[1] == "unauthorized"
    engine.set(allow_anonymous=True)
    visit(one)
    visit(one.replace("1.1.1.1", "9.9.9.9"))
    assert refused(visit, one.replace("::1", "::2"))[1] == "rate_limited"
    visit(two)
    engine.advance(30)
    visit(one)


def test_no_text_of_a_caller_meets_a_lock_of_another_kind(engine: Engine) -> None:
    """Each kind of advisory lock has its own key, also if a caller's text names another kind."""
    ours = "from pg_proc where pronamespace::regnamespace::text !~ '^(pg_|auth|realtime)'"
    words = "(regexp_matches(prosrc, 'try_lock\\(\\s*(?:format\\(\\s*)?''(\\w+)', 'g'))[1]"
    kinds = {*engine.rows(f"select {words} {ours}"), "both", "workspace"}
    with engine.undone():
        for kind in kinds:  # the text also names other kinds of locks
            assert engine.one("select queue.try_lock(%s)", f"{kind} turns maintenance")
        held = "select classid::bigint from pg_locks where locktype = 'advisory' and pid = %s"
        locks = engine.rows(held, engine.connection.info.backend_pid)
    assert kinds > {"turns", "maintenance", "gate", "call", "bucket", "key", "waits"}
    assert len(set(locks)) == len(kinds)
    assert min(locks) >= 2**31


def test_runs_of_workers_are_bounded_and_a_killed_one_ends(engine: Engine) -> None:
    """At most two worker runs are active, and another run is rejected until one ends.

    A killed run counts until its `run_seconds` are over.
    """
    calls = itertools.count(1)
    engine.maintain()

    def lease(run_id: str, **more: Any) -> Any:
        more |= {"most": 2, "run_seconds": 60, "limit": 1, "worker_id": run_id}
        request = {"tick_id": run_id, "call": next(calls), "free_slots": 0, **more}
        return engine.rpc("lease_jobs", p_request=request)["run"]

    def end(run_id: str) -> Any:
        return engine.finish(tick_id=run_id)

    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    assert lease(first) == {"free": 1}
    assert lease(first) is None, "the run is already active"
    assert lease(second) == {"free": 0}
    assert lease(third) == {"free": None}
    assert end(first) == {"ended": True, "refused": True}
    assert end(first) == {"ended": True, "refused": False}
    assert lease(third) == {"free": 0}
    assert lease(first) == {"free": None}
    with engine.open_transaction() as other:
        request = {"tick_id": third, "call": 99, "worker_id": third, "ends": {"stay_ms": 0}}
        response = other.rpc("lease_jobs", p_request=request)["run"]
        assert response == {"ended": True, "refused": True}
        # The other session's end of a run is not committed yet, so a new run waits for it.
        beginning = engine.blocked(lease, first)
    assert beginning.result(60) == {"free": 0}
    engine.enqueue(delay_seconds=5)
    assert lease(first, ends={"stay_ms": 5000}) is None, "the run waits for the delayed job"
    assert lease(third) == {"free": None}
    engine.advance(61)
    assert lease(third) == {"free": 1}


NO_VALUES: dict[str, list[Any]] = {
    **{"unknown": [1], "payload_max_bytes": [0, "big"], "schedules_max": [1.5]},
    **{"allow_anonymous": [1], "guest_key": ["x"], "worker_keys_revoked": [{}]},
    "retention_days": [
        {"failed": 1},
        *({"completed": n, "failed": 1, "cancelled": 1} for n in (-1, 0.5)),
    ],
}


def test_what_is_no_value_of_a_setting_is_refused(engine: Engine) -> None:
    """An unknown setting, or an invalid value of a setting, is rejected."""
    for name, values in NO_VALUES.items():
        for value in values:
            response = refused(engine.rpc, "set_settings", p_settings={name: value})
            assert response[1] == "invalid_argument", name


def test_what_falls_due_within_a_minute_is_notified_and_grows_old(engine: Engine) -> None:
    """An enqueue notifies workers of a job that is due within a minute.

    Workers poll only once a minute. `queue_health` returns the age of the oldest due job.
    """
    with engine.database.connect() as listening:
        listening.execute("listen minutehand_wakeup")
        for delay, notified, seconds in ((3600, 0, 0.2), (30, 1, 60)):
            engine.enqueue(delay_seconds=delay)
            assert len(list(listening.notifies(timeout=seconds, stop_after=1))) == notified
    engine.advance(1100)
    health = engine.rpc("queue_health")
    assert (health["oldest_due_seconds"] > 1000, health["last_tick_seconds"]) == (True, None)


def test_bytes_of_live_jobs_are_bounded_by_every_way_in(engine: Engine, ada: Engine) -> None:
    """A user's live jobs may store a limited number of bytes.

    Each way to enqueue rejects more, by a sum that is at most ten seconds old.
    """
    engine.stop_clock()
    engine.set(user_pending_bytes_max=100_000)
    ended, *_ = (engine.enqueue() for _ in range(2))
    cancelled = engine.cancel(ended)["id"]
    large = {"text": "".join(random.Random(7).choices(string.ascii_letters, k=80_000))}
    replaced: Json = {"unique": {"key": "k", "on_conflict": "replace"}}
    row = (
        "insert into jobs (workspace_id, user_id, job_type, payload, status)"
        " values (%s, %s, 'work', %s, 'pending')"
    )
    ways: list[Callable[[Engine], Any]] = [
        lambda ada: ada.enqueue(large),
        lambda ada: ada.rpc(
            "enqueue_jobs", p_workspace_id=ACME, p_jobs=[{"job_type": "work", "payload": large}]
        ),
        lambda ada: ada.run(row, ACME, ADA, Jsonb(large)),
        lambda ada: ada.enqueue(large, **replaced),
        lambda ada: ada.rpc("retry_job", p_job_id=cancelled, p_payload=large),
        lambda ada: ada.rpc("replay_job", p_job_id=first, p_request={}),
    ]
    full = ("PT429", "quota_exceeded", "user_pending_bytes_max")
    ada.enqueue({}, **replaced)
    first = ada.enqueue(large)
    ada.enqueue(large)  # the sum is not computed again for ten seconds
    engine.advance(11)
    assert [refused(way, ada) for way in ways] == [full] * len(ways)
    ada.enqueue({"text": "small"})
    for job in engine.rows("select id from jobs where finished_at is null"):
        engine.cancel(str(job))
    engine.advance(11)
    ada.enqueue(large)


#: For each table: a statement that inserts many rows, and the maintenance task that reads the
#: table.
CROWDS = {
    "signals": (
        "insert into queue.signals (kind, workspace_id, job_id)"
        " select 'check', workspace_id, id from jobs order by id",
        "do_waits(queue.clock(), '-infinity')",
    ),
    "waits": (
        "with gone as (delete from queue.ready returning job_id), held as (update jobs"
        " set status = 'waiting', last_seq = last_seq + 1 where id in (select job_id from gone)"
        " returning *) insert into queue.waits"
        " (job_id, workspace_id, created_at, kind, step, timeout_at)"
        " select id, workspace_id, created_at, 'sleep', 's', created_at from held",
        "do_waits(queue.clock(), '-infinity')",
    ),
    "late_topics": (
        "insert into queue.late_topics (topic, workspace_id, since)"
        " select 'job:' || id, workspace_id, created_at from jobs",
        "do_announcements(queue.clock(), '-infinity')",
    ),
    "unpublished": (
        'select register_job_types(\'[{"job_type": "later"}]\')',
        "do_promotion(queue.clock(), '-infinity')",
    ),
    "leases": (
        "update queue.leases set expires_at = leased_at",
        "do_reclaim(queue.clock(), '-infinity')",
    ),
}


@pytest.mark.parametrize("table", CROWDS)
def test_another_tenants_crowd_holds_up_no_one(engine: Engine, table: str) -> None:
    """When one workspace fills a table, a maintenance call also handles another workspace's row."""
    crowd, task = CROWDS[table]
    job_type = "later" if table == "unpublished" else "work"
    engine.enqueue_many(1200, workspace=ACME, job_type=job_type)
    engine.enqueue(workspace=GLOBEX, job_type=job_type)
    for _ in range(3 if table == "leases" else 0):
        engine.lease(500)
    with engine.undone():
        engine.run(crowd)

        engine.run(f"select queue.{task}")

        rows = f"queue.{table} where workspace_id = %s"
        assert engine.count(rows, GLOBEX) == 0
        assert engine.count(rows, ACME) > 0
