# ruff: noqa: E501 - queries and requests stay on one line
"""Every row a tenant can make is bounded, told by its limits and refused by the limit's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, refusal
from tests.support.functions import until_waiting

SEALED = "mh1.a2V5.d3JhcHBlZA==.Ym9keQ=="

MADE: dict[str, Callable[[Engine, int], object]] = {
    "max_schedules": lambda e, n: e.rpc("put_schedule", p_workspace_id=ACME, p_schedule={"name": f"s{n}", "cron": "0 0 1 1 *", "job_type": "work"}),
    "max_webhooks": lambda e, n: e.rpc("put_webhook", p_workspace_id=ACME, p_webhook={"url": f"https://e.com/{n}", "sealed_secret": SEALED}),
    "max_pauses": lambda e, n: e.rpc("pause_jobs", p_request={"kind": "workspace_type", "name": f"t{n}", "workspace_id": ACME}),
    "max_events": lambda e, n: e.rpc("emit_event", p_workspace_id=ACME, p_name=f"e{n}"),
    "max_sessions": lambda e, n: e.enqueue(session_id=f"s{n}"),
    "max_guest_sessions": lambda e, n: e.rpc("open_guest_session", p_workspace_id=ACME, p_options={"user_id": EVE}),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_rows_stop_at_their_quota(engine: Engine, name: str) -> None:
    """For people; the service may make what it must, but no more than is listed."""
    most = engine.rpc("workspace_limits", p_workspace_id=ACME)["quotas"][name]["used"] + 3
    engine.run("update queue.settings set value = to_jsonb(%s::int) where name = %s", most, name)
    for number in range(4):
        engine.register(f"t{number}")
    engine.register("work")
    with engine.member(ADA) as ada:
        for number in range(3):
            MADE[name](ada, number)
        with pytest.raises(psycopg.Error) as refused:
            MADE[name](ada, 3)
        assert refusal(refused.value) == ("PT429", "quota_exceeded", name)
        told = ada.rpc("workspace_limits", p_workspace_id=ACME)["quotas"][name]

    assert told == {"max": most, "used": most}
    if name not in {"max_schedules", "max_webhooks"}:
        MADE[name](engine, 3)
        return
    with pytest.raises(psycopg.Error) as of_service:
        MADE[name](engine, 3)
    assert refusal(of_service.value) == ("PT429", "quota_exceeded", name)


def test_what_a_workspace_may_have_is_said_to_it(engine: Engine) -> None:
    """As the engine is installed; apps add their own."""
    quotas = engine.rpc("workspace_limits", p_workspace_id=ACME)["quotas"]
    most = {
        "schedules": 1000, "webhooks": 50, "pauses": 500, "events": 100_000, "sessions": 100_000,
        "guest_sessions": 10_000, "artefacts": 10_000,
    }  # fmt: skip

    assert {name: quotas[f"max_{name}"]["max"] for name in most} == most


def test_every_table_of_tenants_rows_has_a_quota(engine: Engine) -> None:
    """A new table with a workspace is either bounded, or named here with what bounds it."""
    bounded_otherwise = {
        # one per job, and jobs are bounded by max_pending, their rate and retention
        "job_events", "histories", "ready", "deferred", "leases", "waits", "ended", "attempts", "unique_jobs", "job_keys", "job_tags",
        "steps", "running_steps", "gathered",
        "openings", "partitions", "turns", "signals", "last_deliveries",
        # one per workspace, or per workspace and type
        "tenant_limits", "live_counts", "row_counts", "forgotten", "shares", "stat_deltas", "stat_minutes",
        # published by workers; of schedules, which are bounded
        "declared_schedules", "schedule_minutes",
        # what people did, kept for a time
        "stat_hours",
        # one per limited scope that leases from
        "caps", "buckets",
        # one per topic and statement whose messages were held back, until the announcement a second later
        "held_topics",
    }  # fmt: skip
    tables = engine.rows(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'workspace_id'"
        " where c.relnamespace = 'queue'::regnamespace and c.relkind = 'r' and not exists (select 1 from pg_trigger t"
        "  where t.tgrelid = c.oid and t.tgname = 'quota_is_held')"
    )

    engine_tables = {t for t in tables if not t.startswith(("chat_", "plan_", "beacon_", "training_"))}  # fmt: skip
    assert engine_tables <= bounded_otherwise


def test_a_large_quota_is_counted_every_ten_seconds(engine: Engine) -> None:
    """A row costs what it always costs, and the overshoot is what ten seconds can make."""
    engine.stop_clock()
    engine.run("update queue.settings set value = '2001' where name = 'max_events'")
    other = "insert into queue.row_counts values (%s, 'max_pauses', 9999, queue.clock())"
    engine.run(other, ACME)
    many = (
        "insert into queue.named_events (workspace_id, name, payload)"
        " select %s, n, '{}' from generate_series(1, 2001) as n"
    )
    with engine.member(ADA) as ada:
        for name in ("first", "within the ten seconds"):
            ada.rpc("emit_event", p_workspace_id=ACME, p_name=name)
            engine.run(many if name == "first" else "select %s", ACME)
        engine.advance(11)
        with pytest.raises(psycopg.Error) as refused:
            ada.rpc("emit_event", p_workspace_id=ACME, p_name="more")

    assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_events")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"name": "no_such_type"}, ("PT404", "unknown_job_type", "no_such_type")),
        ({"name": "work", "reason": "x" * 501}, ("PT400", "invalid_argument", "reason")),
    ],
)
def test_a_pause_is_small_and_of_something(
    engine: Engine, request_: dict[str, str], answer: tuple[str, str, str]
) -> None:
    """A reason of 100 kB, thousands of times, is a way to store files."""
    pause = {"kind": "workspace_type", "workspace_id": ACME}
    with engine.member(ADA) as ada:
        ada.rpc("pause_jobs", p_request={**pause, "name": "work", "reason": "x" * 500})
        with pytest.raises(psycopg.Error) as refused:
            ada.rpc("pause_jobs", p_request={**pause, **request_})

    assert refusal(refused.value) == answer


def limited(engine: Engine, per_second: int, burst: int) -> None:
    """Let a person enqueue so many."""
    engine.run(
        "update queue.settings set value = to_jsonb(%s::int) where name = 'user_enqueues_per_second'",
        per_second,
    )
    engine.run(
        "update queue.settings set value = to_jsonb(%s::int) where name = 'user_enqueues_burst'",
        burst,
    )


WAYS: dict[str, Callable[[Engine], object]] = {
    "one": lambda e: e.enqueue(),
    "one with options": lambda e: e.enqueue(priority=5),
    "bulk": lambda e: e.rpc("enqueue_jobs", p_workspace_id=ACME, p_jobs=[{"job_type": "work"}]),
    "insert": lambda e: e.run("insert into public.jobs (workspace_id, job_type, status) values (%s, 'work', 'pending')", ACME),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_person_enqueues_no_faster_than_their_limit(engine: Engine, way: str) -> None:
    """By every way in, and over all their workspaces; the refusal says when to come back."""
    engine.stop_clock()
    limited(engine, per_second=1, burst=4)
    with engine.member(ADA) as ada:
        ada.enqueue_many(4)
        for made in (4, 5):
            with pytest.raises(psycopg.Error) as refused:
                WAYS[way](ada)
            state, word, detail = refusal(refused.value)
            assert (state, word) == ("PT429", "rate_limited")
            assert detail is not None
            assert json.loads(detail) == {
                "limit": "enqueues",
                "per_second": 1,
                "burst": 4,
                "retry_after_seconds": 1,
            }
            assert engine.one("select count(*) from public.jobs") == made
            engine.advance(1)
            WAYS[way](ada)
    with engine.member(EVE) as eve:
        eve.enqueue(workspace=GLOBEX)
    engine.enqueue_many(50)


@pytest.mark.parametrize("way", WAYS)
def test_quotas_bind_members_in_every_way(engine: Engine, way: str) -> None:
    """The last job that is allowed is made, the next refused; the service is not bound."""
    engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits={"max_pending": 5})
    with engine.member(ADA) as ada:
        ada.enqueue_many(4)
        with pytest.raises(psycopg.Error) as refused:
            ada.enqueue_many(2)
        assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_pending")
        WAYS[way](ada)
        with pytest.raises(psycopg.Error) as refused:
            WAYS[way](ada)
        assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_pending")
    engine.enqueue_many(10)
    WAYS[way](engine)

    assert engine.one("select count(*) from public.jobs") == 16


def test_a_repeat_gets_its_job_whatever_the_quota(engine: Engine) -> None:
    """A retry after a lost answer makes nothing new, so there is nothing to refuse."""
    with engine.member(ADA) as ada:
        by_key = ada.enqueue(idempotency_key="k")
        held = ada.enqueue(unique={"key": "u"})
        engine.run(
            "insert into queue.tenant_limits (workspace_id, max_pending) values (%s, 2)", ACME
        )
        engine.enqueue()

        assert ada.enqueue(idempotency_key="k") == by_key
        assert ada.enqueue(unique={"key": "u"}) == held
        with pytest.raises(psycopg.Error) as refused:
            ada.enqueue(priority=7)
        assert refusal(refused.value)[:2] == ("PT429", "quota_exceeded")


def test_a_small_quota_is_exact_under_races(engine: Engine) -> None:
    """Enqueues into a limited workspace see those before them; others wait for nobody."""
    for workspace, most in ((ACME, 2), (GLOBEX, 3000)):
        limits = {"max_pending": most}
        engine.rpc("set_workspace_limits", p_workspace_id=workspace, p_limits=limits)

    with engine.member(ADA) as first, engine.member(BOB) as second, engine.member(EVE) as other:
        with first.connection.transaction():
            first.enqueue_many(2)
            for session in (second, other):
                session.run("set lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                second.enqueue()
            with other.connection.transaction():
                other.enqueue(workspace=GLOBEX)
                with engine.member(EVE) as beside:
                    beside.enqueue(workspace=GLOBEX)
            engine.enqueue()  # a service
        with pytest.raises(psycopg.Error) as refused:
            second.enqueue()

    assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_pending")


def test_a_large_quotas_count_may_be_ten_seconds_old_and_no_older(engine: Engine) -> None:
    """A count that is believed for longer keeps a workspace shut after its jobs have ended."""
    engine.stop_clock()
    limits = {"max_pending": 3000}
    engine.rpc("set_workspace_limits", p_workspace_id=ACME, p_limits=limits)
    count = (
        "insert into queue.live_counts values (%s, 5000, queue.clock() - %s * interval '1 second')"
        " on conflict (workspace_id)"
        " do update set live = excluded.live, counted_at = excluded.counted_at"
    )

    with engine.member(ADA) as ada:
        engine.run(count, ACME, 1)
        with pytest.raises(psycopg.Error) as refused:
            ada.enqueue()
        engine.run(count, ACME, 11)
        ada.enqueue()

    assert refusal(refused.value) == ("PT429", "quota_exceeded", "max_pending")
    kept = "select live from queue.live_counts where counted_at = queue.clock()"
    assert engine.rows(kept) == [1]


def test_a_repeated_key_costs_nothing(engine: Engine) -> None:
    """Whoever asks again for the same job must get it."""
    limited(engine, per_second=1, burst=1)
    with engine.member(ADA) as ada:
        first = ada.enqueue(idempotency_key="k")

        assert {ada.enqueue(idempotency_key="k") for _ in range(5)} == {first}


def test_streams_are_opened_no_faster_than_their_limit(engine: Engine) -> None:
    """Each holds an invocation for twenty seconds."""
    engine.stop_clock()
    for name, value in (("burst", "2"), ("per_second", "0.25")):
        engine.run(
            "update queue.settings set value = %s::jsonb where name = 'user_stream_opens_' || %s",
            *(value, name),
        )
    with engine.member(ADA) as ada:
        ada.rpc("open_stream")
        ada.rpc("open_stream")
        with pytest.raises(psycopg.Error) as refused:
            ada.rpc("open_stream")
        ada.enqueue()  # has a rate of its own
    state, word, detail = refusal(refused.value)
    assert (state, word) == ("PT429", "rate_limited")
    assert json.loads(detail or "")["retry_after_seconds"] == 4


def written(engine: Engine) -> int:
    """Rows that sessions have inserted, rolled back or not."""
    engine.run("select pg_stat_force_next_flush()")
    return int(engine.one("select sum(n_tup_ins) from pg_stat_user_tables"))


def test_what_a_limit_refuses_is_not_made_first(engine: Engine) -> None:
    """Whoever goes on after a refusal costs next to nothing: no row is written and rolled back."""
    engine.stop_clock()
    limited(engine, per_second=1, burst=100)
    bulk: dict[str, object] = {"p_workspace_id": ACME, "p_jobs": [{"job_type": "work"}] * 101}
    keyed = {"p_workspace_id": ACME, "p_jobs": [{"job_type": "work", "concurrency_key": "k"}] * 101}
    with engine.member(ADA) as ada:
        ada.enqueue_many(100)
        engine.run("select pg_stat_force_next_flush()")  # what this session wrote is counted by now
        ways: list[Callable[[Engine], object]] = [
            lambda e: e.rpc("enqueue_jobs", **bulk),
            lambda e: e.rpc("enqueue_jobs", **keyed),
            *WAYS.values(),
        ]
        for way in ways:
            before = written(ada)
            with pytest.raises(psycopg.Error) as refused:
                way(ada)
            assert refusal(refused.value)[:2] == ("PT429", "rate_limited")
            assert written(ada) == before


def test_a_person_has_one_large_call_at_a_time(engine: Engine) -> None:
    """Those that wait are few and give up; nobody else waits for them."""
    engine.run("update queue.settings set value = '2' where name = 'user_calls_at_once'")
    give_up_after = "alter function queue.take_turn set lock_timeout = '{}'"
    engine.run(give_up_after.format("60s"))  # not before all that follows has been looked at

    def listed(who: Engine, workspace: str = ACME) -> object:
        return who.rpc("list_jobs", p_filter={"workspace_id": workspace})

    with engine.member(ADA) as first, engine.member(ADA) as second, engine.member(ADA) as third:
        first.run("begin")
        listed(first)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(listed, second)
            until_waiting(engine.database)
            for call in (
                lambda: listed(third),
                lambda: third.enqueue_many(101),
                lambda: third.rpc("queue_stats", p_workspace_id=ACME),
            ):
                with pytest.raises(psycopg.Error) as refused:
                    call()
                state, word, detail = refusal(refused.value)
                assert (state, word) == ("PT429", "rate_limited")
                assert json.loads(detail or "") == {
                    "limit": "calls_at_once",
                    "most": 2,
                    "retry_after_seconds": 1,
                }
            third.enqueue()
            with engine.member(EVE) as eve:
                listed(eve, GLOBEX)
            listed(engine)
            first.run("commit")
            assert waiting.result()

        engine.run(give_up_after.format("100ms"))
        first.run("begin")
        listed(first)
        with pytest.raises(psycopg.Error) as refused:
            listed(second)
        assert refusal(refused.value)[:2] == ("PT429", "rate_limited")
        first.run("rollback")
        assert listed(second)


def test_idle_buckets_are_forgotten(engine: Engine) -> None:
    """A row per person who ever called would be one more table that only grows."""
    with engine.member(ADA) as ada:
        ada.enqueue()
    assert engine.one("select count(*) from queue.caller_buckets") == 1

    engine.advance(3700)
    engine.maintain()

    assert engine.one("select count(*) from queue.caller_buckets") == 0
