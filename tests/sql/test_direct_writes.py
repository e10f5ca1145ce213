# ruff: noqa: E501 - queries and requests stay on one line
"""Plain SQL and the Data API's tables: what members may do there, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal
from tests.support.functions import until_waiting

INSERT = "insert into public.jobs (workspace_id, job_type, payload, status) values (%s, %s, '{}', 'pending')"


def test_a_privileged_insert_is_a_valid_enqueue(engine: Engine) -> None:
    """The contract's one-liner, several rows at a time too."""
    engine.stop_clock()
    engine.run(
        "insert into public.jobs (workspace_id, job_type, queue, scheduled_for) "
        "select %s, 'work', 'q' || n, case when n > 2 then queue.clock() + greatest(0, n - 3) * interval '1 hour' end from generate_series(1, 5) n",
        ACME,
    )

    assert len(engine.lease(call=2)) == 3
    assert engine.one("select count(*) from queue.deferred") == 2


def test_a_member_inserts_as_themselves(engine: Engine) -> None:
    """Whatever user_id they claim."""
    with engine.member(ADA) as ada:
        ada.run(
            "insert into public.jobs (workspace_id, user_id, job_type, payload, priority) values (%s, %s, 'work', '{}', 7)",
            ACME, BOB,
        )  # fmt: skip

    job = engine.lease_one()["job"]
    assert (job["user_id"], job["priority"], job["max_attempts"]) == (ADA, 7, 5)


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("sent", [TRACE, "'-", f"x{TRACE}", f"{TRACE}x"])
def test_every_new_job_keeps_the_trace_of_its_request(engine: Engine, sent: str) -> None:
    """Also of an app's own function, which passes nothing on; a malformed one is dropped."""
    headers = json.dumps({"x-minutehand-trace": sent})
    engine.run("select set_config('request.headers', %s, false)", headers)

    engine.run(INSERT, ACME, "work")
    engine.enqueue()
    engine.enqueue(traceparent="own")
    engine.enqueue_many(1)

    kept = sorted(row or "" for row in engine.rows("select traceparent from public.jobs"))
    assert kept == sorted([TRACE if sent == TRACE else ""] * 3 + ["own"])


ANOTHERS_PAST = {
    **dict.fromkeys(("attempts", "fence", "generation", "snoozes", "lost_attempts", "last_seq"), 3),
    **dict.fromkeys(("queue_ms", "run_ms", "held_ms", "cost_usd"), 3),
    **{name: {"percentage": 90} for name in ("result", "progress", "error_data")},
    **dict.fromkeys(("replay_from", "error_message", "error_fingerprint", "unique_key"), "x"),
    **dict.fromkeys(
        ("created_at", "updated_at", "started_at", "finished_at", "completed_at"), "2020-01-01"
    ),
    **dict.fromkeys(("next_retry_at", "cancel_requested_at"), "2020-01-01"),
    "replay_of": ACME,
    "outcome": "failed",
}


def test_a_job_that_a_service_inserts_has_no_past(engine: Engine) -> None:
    """It may name any column, as one that copies a row does; the engine's begin as they always do."""
    engine.stop_clock()
    names = ", ".join(ANOTHERS_PAST)
    insert = f"insert into public.jobs (workspace_id, job_type, {names}) select %s, 'work', {names} from jsonb_populate_record(null::public.jobs, %s) returning id::text"
    forged = engine.job(engine.one(insert, ACME, Jsonb(ANOTHERS_PAST)))

    own = engine.job(engine.enqueue())
    assert {name: forged[name] for name in ANOTHERS_PAST} == {
        name: own[name] for name in ANOTHERS_PAST
    }


@pytest.mark.parametrize(
    ("user", "statement", "values", "state", "hint"),
    [
        (EVE, INSERT, (ACME, "work"), "PT404", "workspace_not_found"),
        (EVE, INSERT, ("00000000-0000-4000-8000-00000000dead", "work"), "PT404", "workspace_not_found"),
        (ADA, INSERT, (ACME, "nobody"), "PT422", "unknown_job_type"),
        (ADA, INSERT, (ACME, "strict"), "PT422", "payload_invalid"),
        (ADA, "insert into public.jobs (workspace_id, job_type, status) values (%s, 'work', 'completed')", (ACME,), "PT400", "invalid_argument"),
        (ADA, "insert into public.jobs (workspace_id, job_type, fence) values (%s, 'work', 9)", (ACME,), "42501", None),
        (ADA, "insert into public.jobs (workspace_id, job_type, result) values (%s, 'work', '1')", (ACME,), "42501", None),
        (ADA, "insert into public.jobs (workspace_id, job_type, priority) values (%s, 'work', 5000)", (ACME,), "PT400", "invalid_argument"),
        (ADA, "delete from public.jobs where workspace_id = %s", (ACME,), "42501", None),
        (ADA, "insert into public.job_events (job_id, seq, workspace_id, type) values (gen_random_uuid(), 1, %s, 'x')", (ACME,), "42501", None),
        (ADA, "select 1 from queue.leases where workspace_id = %s", (ACME,), "42501", None),
    ],
)  # fmt: skip
def test_what_a_member_may_not_insert_is_refused(
    engine: Engine, user: str, statement: str, values: tuple[Any, ...], state: str, hint: str | None
) -> None:
    """Column grants, schemas and membership bound them; a stranger's workspace looks missing."""
    engine.register("strict", payload_schema={"type": "object", "required": ["x"]})

    with engine.member(user) as person, pytest.raises(psycopg.Error) as refused:
        person.run(statement, *values)

    assert refusal(refused.value)[:2] == (state, hint)
    assert engine.one("select count(*) from public.jobs") == 0


@pytest.mark.parametrize(
    ("column", "value", "state", "field"),
    [
        ("concurrency_key", "k" * 9000, "PT400", "concurrency_key"),
        ("queue", "q" * 9000, "PT400", "queue"),
        ("session_id", "s" * 9000, "PT400", "session_id"),
        ("scheduled_for", "infinity", "PT400", "scheduled_for"),
        ("deadline_at", "20000-01-01T00:00:00Z", "PT400", "deadline_at"),
        ("payload", '{"x": %s}' % ("[" * 250 + "]" * 250), "PT422", "payload"),
        ("payload", '{"x": 1e5000}', "PT422", "payload"),
        ("payload", '{"x": [1e131000, 1e131000, 1e131000]}', "PT413", "payload"),
    ],
)  # fmt: skip
def test_what_would_spoil_an_answer_for_others_is_refused(
    engine: Engine, column: str, value: str, state: str, field: str
) -> None:
    """Too long for an index row, too late for a calendar, too deep or too large for a reader."""
    with engine.member(ADA) as ada:
        with pytest.raises(psycopg.Error) as inserted:
            ada.run(
                f"insert into public.jobs (workspace_id, job_type, {column}) values (%s, 'work', %s)",
                ACME,
                value,
            )
        name = "p_payload" if column == "payload" else "p_options"
        enqueue = (
            f"select public.enqueue_job(p_workspace_id => %s, p_job_type => 'work', {name} => {{}})"
        )
        given = "%s::jsonb" if column == "payload" else f"jsonb_build_object('{column}', %s::text)"
        with pytest.raises(psycopg.Error) as enqueued:
            ada.run(enqueue.format(given), ACME, value)

    assert refusal(inserted.value)[::2] == refusal(enqueued.value)[::2] == (state, field)
    assert engine.one("select count(*) from public.jobs") == 0


@pytest.mark.parametrize(
    "follow",
    [
        "insert into public.jobs (workspace_id, job_type) values (new.workspace_id, 'followed')",
        """perform queue.enqueue(new.workspace_id, null, '[{"job_type": "followed"}]', false)""",
        """perform queue.enqueue(new.workspace_id, null, '[{"job_type": "followed", "priority": 5}]', false)""",
    ],
    ids=["by insert", "by function", "by function with options"],
)
def test_inserts_within_inserts_and_undone_ones_are_distinguished(
    engine: Engine, follow: str
) -> None:
    """Neither a refused bulk, nor an undone savepoint, nor a trigger of one's own leaves jobs behind or out."""
    engine.run(
        f"""
        create function public.follow() returns trigger language plpgsql as $$
        begin
          {follow};
          return null;
        end $$;
        create trigger a_follow after insert on public.jobs for each row when (new.job_type = 'work') execute function public.follow();
        """
    )
    engine.register("followed")
    with engine.connection.transaction():
        engine.run("insert into public.jobs (workspace_id, job_type) values (%s, 'work')", ACME)
        with pytest.raises(psycopg.Error), engine.connection.transaction():
            engine.run(
                "insert into public.jobs (workspace_id, job_type) values (%s, 'work'), (%s, 'nobody_has_it')",
                ACME,
                ACME,
            )
        with suppress(psycopg.Rollback), engine.connection.transaction() as savepoint:
            engine.enqueue()
            engine.run("insert into public.jobs (workspace_id, job_type) values (%s, 'work')", ACME)
            raise psycopg.Rollback(savepoint)
        engine.run(
            "insert into public.jobs (workspace_id, job_type) values (%s, 'work'), (%s, 'work')"
            " on conflict do nothing",
            ACME,
            GLOBEX,
        )

    kinds = [lease["job"]["job_type"] for lease in engine.lease(20)]

    assert Counter(kinds) == {"work": 3, "followed": 3}
    engine.enqueue_many(3, priority=7)  # a bulk with options
    assert len(engine.lease(20)) == 6
    assert engine.one("select count(*) from public.job_events where type = 'job.created'") == 12


@pytest.mark.parametrize("workspace", [ACME, GLOBEX])
def test_the_engines_own_mark_opens_nothing_to_a_person(engine: Engine, workspace: str) -> None:
    """A session that may run plain SQL may set any setting."""
    with engine.member(ADA) as ada:
        ada.run("select set_config('queue.checked', '0', false)")
        with pytest.raises(psycopg.Error) as refused:
            ada.run(INSERT, workspace, "work")

    assert refused.value.sqlstate == "42501"
    assert engine.one("select count(*) from public.jobs") == 0


def test_a_plain_insert_carries_the_present_version(engine: Engine) -> None:
    """Else the worker would raise a payload that is new already."""
    engine.register("work", schema_version=3)
    engine.run("insert into public.jobs (workspace_id, job_type) values (%s, 'work')", ACME)

    assert engine.lease_one()["job"]["schema_version"] == 3


def test_a_plain_insert_takes_what_it_omits_from_the_type(engine: Engine) -> None:
    """A type that must not run twice is inserted for one attempt; what is given is kept."""
    engine.register("charge", queue="money", max_attempts=1)
    engine.run(
        "insert into public.jobs (workspace_id, job_type, queue, max_attempts, priority)"
        " values (%s, 'charge', 'default', 3, 1), (%s, 'charge', default, default, 2)",
        ACME,
        ACME,
    )
    engine.enqueue(job_type="charge", priority=3)

    jobs = [lease["job"] for lease in engine.lease()]
    assert [(job["queue"], job["max_attempts"]) for job in jobs] == [
        ("default", 3),
        ("money", 1),
        ("money", 1),
    ]


def test_a_half_cursor_is_refused_in_one_way(engine: Engine) -> None:
    """Lists continue from the same kind of place."""
    calls: dict[str, dict[str, Any]] = {
        "list_jobs": {"p_filter": {"workspace_id": ACME}},
    }
    for call, given in calls.items():
        with pytest.raises(psycopg.Error, match="cursor must be the next of an answer") as refused:
            engine.rpc(call, **given, p_cursor={"id": ACME})
        assert refusal(refused.value) == ("PT400", "invalid_argument", "cursor"), call


def test_no_payload_is_an_empty_one_in_every_way(engine: Engine) -> None:
    """JSON's null is what a client sends that has nothing to say."""
    engine.rpc(
        "enqueue_jobs",
        p_workspace_id=ACME,
        p_jobs=[{"job_type": "work", "payload": None}, {"job_type": "work"}],
    )
    engine.rpc("enqueue_job", p_workspace_id=ACME, p_job_type="work", p_payload=None)

    assert [lease["job"]["payload"] for lease in engine.lease()] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("scheduled_for = '9999-01-01 00:00:01+00'", "scheduled_for"),
        ("scheduled_for = '1969-12-31 23:59:59+00'", "scheduled_for"),
        ("priority = 1001", "priority"),
        ("priority = -1", "priority"),
    ],
)
def test_an_update_obeys_the_bounds_of_an_enqueue(engine: Engine, change: str, field: str) -> None:
    """A job put off for ever, or before all others, would have come by another way."""
    job = engine.enqueue()

    with engine.member(ADA) as ada, pytest.raises(psycopg.Error) as refused:
        ada.run(f"update public.jobs set {change} where id = %s", job)

    assert refusal(refused.value) == ("PT400", "invalid_argument", field)
    assert len(engine.lease()) == 1


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("[" * 101 + "]" * 101, None),
        ("[" * 102 + "]" * 102, "nested"),
        ('{"a":' * 102 + "1" + "}" * 102, "nested"),
        ("[1.7e308, -1.7e308, 1e-320]", None),
        ('["%s"]' % ("9" * 400), None),
        ("[-1e309]", "double"),
        ('["%s"]' % ("x" * 996), None),
        ('["%s"]' % ("x" * 997), "exceeds 1000 bytes"),
        ("[1e999]", "exceeds 1000 bytes"),
        ('["%s"]' % ("é" * 500), "exceeds 1000 bytes"),
    ],
)
def test_stored_json_can_be_read_by_every_client(
    engine: Engine, value: str, problem: str | None
) -> None:
    """Depth, range and size as text; digits inside a string are no number."""
    found = engine.one("select (queue.json_problem(%s::jsonb, 'x', 1000))[3]", value)

    assert found is None if problem is None else problem in found


@pytest.mark.parametrize("call", ["answer_job", "emit_event"])
def test_answers_and_named_events_are_bounded_too(engine: Engine, call: str) -> None:
    """Their values travel in the leases of the jobs that waited."""
    job = engine.enqueue()
    engine.settle(engine.lease_one(), "waiting", wait={"kind": "ask", "name": "q", "question": "?"})
    deep: Any = 1
    for _ in range(150):
        deep = [deep]

    for user, value, state in (
        (ADA, deep, "PT422"),
        (ADA, "x" * 262_144, "PT413"),
        (EVE, deep, "PT404"),
    ):
        values: dict[str, Any] = (
            {"p_job_id": job, "p_answer": {"answer": value}}
            if call == "answer_job"
            else {"p_workspace_id": ACME, "p_name": "n", "p_payload": {"x": value}}
        )
        with engine.member(user) as person, pytest.raises(psycopg.Error) as refused:
            person.rpc(call, **values)
        assert refusal(refused.value)[0] == state
    assert engine.status(job) == "waiting"


def test_an_unknown_version_is_refused(engine: Engine) -> None:
    """Else any number would pass by the schema."""
    engine.register(
        "strict", payload_schema={"type": "object", "required": ["x"]}, schema_version=2
    )

    with pytest.raises(psycopg.Error) as refused:
        engine.enqueue({}, job_type="strict", schema_version=99)

    assert refusal(refused.value) == ("PT422", "payload_invalid", "schema_version")
    with pytest.raises(psycopg.Error, match=r"payload\.x is required"):
        engine.enqueue({}, job_type="strict", schema_version=2)
    older: dict[str, Any] = {"job_type": "strict", "schema_version": 1}
    for job_id in (engine.enqueue({}, **older), *engine.enqueue_many(1, **older)):
        assert engine.job(job_id)["schema_version"] == 1


def test_a_trigger_of_ones_own_may_set_what_the_caller_did_not(engine: Engine) -> None:
    """By whichever function, what the row says in the end is where it stands."""
    engine.run(
        """
        create function public.adapt() returns trigger language plpgsql as $$
        begin
          new.priority := 10 * (new.payload ->> 'n')::integer;
          new.concurrency_key := case when new.priority > 10 then 'k' || new.priority end;
          new.scheduled_for := case when new.priority > 20 then now() + interval '1 hour' end;
          return new;
        end $$;
        create trigger z_adapt before insert on public.jobs for each row execute function public.adapt();
        """
    )
    jobs = [{"job_type": "work", "payload": {"n": n}} for n in (1, 2, 3)]
    engine.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=jobs)
    engine.run(
        "insert into public.jobs (workspace_id, job_type, payload)"
        " select %s, 'work', jsonb_build_object('n', n) from generate_series(1, 3) n",
        ACME,
    )

    assert [lease["job"]["priority"] for lease in engine.lease(10)] == [10, 10, 20, 20]
    assert engine.one("select count(*) from queue.deferred") == 2


def test_a_member_cancels_by_update_in_every_state(engine: Engine) -> None:
    """The same effects as cancel_job."""
    pending, deferred = engine.enqueue(priority=900), engine.enqueue(delay_seconds=60)
    running, asking, failing = (engine.enqueue(priority=priority) for priority in (1, 2, 3))
    lease, other, third = engine.lease(3)
    engine.settle(third, "retry")
    engine.settle(other, "waiting", wait={"kind": "ask", "name": "q", "question": "?"})

    with engine.member(ADA) as ada:
        ada.run("update public.jobs set status = 'cancelled' where finished_at is null")
        ada.run("update public.jobs set status = 'cancelled' where id = %s", running)

    ended = (pending, deferred, asking, failing)
    assert [engine.status(job) for job in ended] == ["cancelled"] * 4
    assert engine.job(failing)["next_retry_at"] is None
    assert engine.status(running) == "processing"
    assert engine.report(lease) == "cancel"
    assert engine.events(running).count("job.cancel_requested") == 1
    engine.settle(lease, "cancelled")
    assert engine.lease() == []


def test_cancel_by_update_reaches_the_children_and_the_dependants(engine: Engine) -> None:
    """The tree rule does not depend on the function."""
    parent = engine.enqueue()
    [child] = engine.spawn(engine.lease_one(), "s", [{"job_type": "work"}])

    with engine.member(ADA) as ada:
        ada.run("update public.jobs set status = 'cancelled' where id = %s", parent)
    engine.lease_call(0)
    engine.lease_call(0)

    assert engine.status(child) == "cancelled"


def test_a_member_reschedules_and_reprioritises_while_pending(engine: Engine) -> None:
    """The job changes its place in the queue at once."""
    first, second = engine.enqueue(), engine.enqueue()
    with engine.member(ADA) as ada:
        ada.run("update public.jobs set priority = 1 where id = %s", second)
        assert engine.lease(1)[0]["job"]["id"] == second
        ada.run(
            "update public.jobs set scheduled_for = queue_time + interval '1 hour' from (select now() as queue_time) t where id = %s",
            first,
        )
        assert engine.lease(1) == []
        ada.run("update public.jobs set scheduled_for = null where id = %s", first)

    assert engine.lease(1)[0]["job"]["id"] == first


def test_no_one_enqueues_in_anothers_name(engine: Engine) -> None:
    """The option is the service's; the quota and the history are the caller's."""
    with engine.member(ADA) as ada:
        ada.enqueue(user_id=BOB)
        ada.enqueue(user_id=BOB, unique={"key": "k"})
        ada.enqueue_many(1, user_id=BOB)

    assert engine.rows("select user_id::text from public.jobs") == [ADA] * 3


@pytest.mark.parametrize("way", ["update", "replace"])
def test_a_new_time_goes_before_that_of_a_retry(engine: Engine, way: str) -> None:
    """Its row would say one time, and the job would run at another."""
    unique = {"key": "k", "on_conflict": "replace"}
    job_id = engine.enqueue(unique=unique)
    engine.settle(engine.lease_one(), "retry")

    if way == "replace":
        engine.enqueue(unique=unique, delay_seconds=3600)
    else:
        with engine.member(ADA) as ada:
            later = "update public.jobs set scheduled_for = now() + interval '1 hour' where id = %s"
            ada.run(later, job_id)

    engine.advance(600)
    assert engine.lease() == []
    engine.advance(3001)
    assert engine.lease_one()["job"]["id"] == job_id


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("update public.jobs set status = 'completed'", "PT409"),
        ("update public.jobs set status = 'failed'", "PT409"),
        ("update public.jobs set priority = 3", "PT409"),
        ("update public.jobs set status = 'cancelled', priority = 3", "PT400"),
        ("update public.jobs set status = 'cancelled', scheduled_for = now()", "PT400"),
        ("update public.jobs set attempts = 0", "42501"),
        ("update public.jobs set workspace_id = workspace_id", "42501"),
        ("update public.jobs set payload = '{}'", "42501"),
    ],
)
@pytest.mark.parametrize("role", ["authenticated", "service_role"])
def test_what_no_one_may_update_is_refused(
    engine: Engine, statement: str, state: str, role: str
) -> None:
    """The engine alone moves a job through its life; here the job is running."""
    engine.enqueue()
    engine.lease_one()

    with engine.member(ADA, role) as person, pytest.raises(psycopg.Error) as refused:
        person.run(statement)

    assert refused.value.sqlstate == state


def test_another_tenants_rows_do_not_exist(engine: Engine) -> None:
    """Reads are empty, updates touch nothing, functions answer as for a missing job."""
    job_id = engine.enqueue()
    engine.settle(engine.lease_one(), logs=[{"level": "info", "message": "secret"}])
    missing = "00000000-0000-4000-8000-00000000dead"

    with engine.member(EVE) as eve:
        for table in ("jobs", "job_events", "job_logs", "workspace_members"):
            assert (
                eve.one(f"select count(*) from public.{table} where workspace_id = %s", ACME) == 0
            )
        assert (
            eve.one(
                "with u as (update public.jobs set priority = 1 returning 1) select count(*) from u"
            )
            == 0
        )
        for function in (
            "get_job",
            "cancel_job",
            "retry_job",
            "job_attempts",
            "job_steps",
            "explain_job",
        ):
            said = []
            for one in (job_id, missing):
                with pytest.raises(psycopg.Error) as refused:
                    eve.rpc(function, p_job_id=one)
                said.append(
                    (
                        refused.value.sqlstate,
                        refused.value.diag.message_primary,
                        refused.value.diag.message_hint,
                    )
                )
            assert said[0] == said[1]
            assert said[0][0] == "PT404"
        for call in (
            ("enqueue_job", {"p_job_type": "work"}), ("enqueue_jobs", {"p_jobs": [{"job_type": "work"}]}),
            ("cancel_jobs", {"p_filter": {"tag": "x"}}), ("emit_event", {"p_name": "x"}), ("queue_stats", {}),
        ):  # fmt: skip
            for workspace in (ACME, missing):
                with pytest.raises(psycopg.Error) as refused:
                    eve.rpc(call[0], p_workspace_id=workspace, **call[1])
                assert refusal(refused.value) == ("PT404", "workspace_not_found", workspace), call[
                    0
                ]


def test_a_member_sees_their_workspaces_jobs(engine: Engine) -> None:
    """Colleagues share; tenants do not."""
    job_id = engine.enqueue()
    engine.enqueue(workspace=GLOBEX)

    for user in (ADA, BOB):
        with engine.member(user) as person:
            assert [str(one) for one in person.rows("select id from public.jobs")] == [job_id]
            assert person.rpc("get_job", p_job_id=job_id)["id"] == job_id


def test_deleting_a_job_takes_everything_of_it_and_nothing_else(engine: Engine) -> None:
    """In every state, from among others of the same instant; a worker learns that it is not there."""
    engine.stop_clock()
    tables = engine.rows(
        "select c.oid::regclass::text from pg_class as c join pg_attribute as a on a.attrelid = c.oid"
        " where c.relkind = 'r' and a.attname = 'job_id' and c.relname not in ('signals')"
    )

    def make(n: int) -> tuple[list[str], dict[str, Any]]:
        given: dict[str, Any] = {
            "tags": ["t"],
            "deadline_at": "2199-01-01T00:00:00Z",
        }
        ids = [
            engine.enqueue(
                **given, idempotency_key=f"{n}{p}", unique={"key": f"{n}{p}"}, priority=p
            )
            for p in (1, 2, 3, 4, 900)
        ]
        completed, failed, asking, running = engine.lease(4)
        engine.settle(completed)
        engine.settle(failed, "failed")
        engine.settle(asking, "waiting", wait={"kind": "ask", "name": "q", "question": "?"})
        log = {"level": "info", "message": "x"}
        engine.report(running, steps=[{"name": "s", "result": 1}], step={"name": "t"}, logs=[log])
        engine.spawn(running, "c", [{"job_type": "work", "delay_seconds": 60}])
        return [*ids, engine.enqueue(delay_seconds=9)], running

    def counts() -> dict[str, int]:
        return {table: engine.one(f"select count(*) from {table}") for table in tables}

    make(1)
    before = counts()
    gone, lease = make(2)
    engine.run("delete from public.jobs where id = any (%s::uuid[]) or parent_id = any (%s::uuid[])", gone, gone)  # fmt: skip

    assert counts() == before
    assert engine.report(lease) == "lost"
    assert engine.settle(lease)["outcome"] == "not_found"


def test_deleting_a_workspace_takes_its_jobs(engine: Engine) -> None:
    """Nothing of it is leased afterwards, not even what was enqueued in that very moment."""
    engine.enqueue_many(5)
    with engine.beside() as slow:
        slow.run("begin")
        slow.enqueue()
        engine.run("delete from public.workspaces where id = %s", ACME)
        assert engine.one("select count(*) from public.jobs") == 0
        slow.run("commit")
    engine.advance(301)
    engine.lease_call(0)

    assert engine.one("select count(*) from public.jobs") == 0
    assert engine.lease() == []


def test_a_deleted_workspace_waits_for_those_who_write_of_its_running_jobs(engine: Engine) -> None:
    """They lock the job and then an application's rows, which a deletion would cascade to first."""
    engine.run(
        "create table public.notes (job_id uuid primary key, text text,"
        " workspace_id uuid references public.workspaces on delete cascade)"
    )
    first, second = engine.enqueue_many(2)
    engine.lease(2)
    engine.run("insert into public.notes values (%s, null, %s)", second, ACME)
    with engine.beside() as worker, engine.beside() as owner, ThreadPoolExecutor(1) as threads:
        worker.run("begin")
        worker.run("select from public.jobs where id = %s for update", min(first, second))
        gone = threads.submit(owner.run, "delete from public.workspaces where id = %s", ACME)
        until_waiting(engine.database)
        worker.run("select from public.jobs where id = %s for update", max(first, second))
        worker.run("update public.notes set text = 'done'")
        worker.run("commit")
        gone.result(60)

    assert engine.one("select count(*) from public.notes") == 0
    assert engine.one("select count(*) from queue.leases") == 0
