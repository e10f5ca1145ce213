"""Floods of calls by one person or one guest.

Tests count how many calls run at a time and what a rejected call costs. Each call waits for the
test while it occupies a connection, so that no result depends on timing.
"""

import json
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest

from infra.bench.scratch import PUBLISHABLE_KEY, user_token
from tests.contract.observed import refused
from tests.contract.test_prices import CALLS, FUNCTIONS, PAIRS, ROWS, WRITTEN, put, world
from tests.support.engine import ACME, ADA, BOB, EVE, GLOBEX, Engine, Json, piece, refusal
from tests.support.patience import until
from tests.support.renewed import Renewed

OF_ACME = {"p_workspace_id": ACME}
JOB: Json = {"p_job_id": "PENDING"}
REPLACED = {"key": "replaced", "on_conflict": "replace"}
#: Calls that change rows, in addition to those of CALLS.
CHANGES: dict[str, tuple[str, Json]] = {
    "one idempotency key": (
        "enqueue_job",
        {**CALLS["enqueue_job"], "p_options": {"idempotency_key": "k"}},
    ),
    "one unique key": (
        "enqueue_job",
        {**CALLS["enqueue_job"], "p_options": {"unique": {"key": "k"}}},
    ),
    **{
        name: (
            "enqueue_jobs",
            {**OF_ACME, "p_jobs": [{"job_type": "work", "idempotency_key": "k"}] * count},
        )
        for name, count in {"a bulk of one key": 1, "a bulk": 11}.items()
    },
    "a locked job": ("enqueue_job", {**CALLS["enqueue_job"], "p_options": {"unique": REPLACED}}),
    "locked jobs": (
        "enqueue_jobs",
        {**OF_ACME, "p_jobs": [{"job_type": "work", "unique": REPLACED}]},
    ),
    "one plan": ("plan_start", {**CALLS["plan_start"], "p_idempotency_key": "k"}),
}
BUCKET = "insert into queue.buckets (name, tokens, refilled_at) values (%s, 0, queue.clock())"
#: The details of a rejection that clients repeat.
LIMIT = '{"limit": "calls_at_once", "retry_after_seconds": 1}'
LEFT = f"select tokens from queue.buckets where name = 'u:{ADA}/enqueues'"
#: Calls that read many rows, of a workspace and in all.
OF_WORKSPACE = "count_jobs dead_letters explain_queue queue_stats queue_series list_job_types"
READS: dict[str, tuple[str, Json]] = {
    **{name: (name, OF_ACME) for name in OF_WORKSPACE.split()},
    **{name: (name, JOB) for name in ("job_attempts", "job_steps", "job_trace")},
    "list_jobs": ("list_jobs", {}),
    "chat_said": ("chat_said", {"p_session_id": "CHAT"}),
    "next_runs": ("next_runs", {**OF_ACME, "p_schedule": {"cron": "@daily"}}),
    "event_feed": ("event_feed", {**OF_ACME, "p_cursor": "1:1:"}),
    "session_feed": ("session_feed", {"p_session_id": "many"}),
    "output of many jobs": ("session_output", {"p_session_id": "many"}),
    "much output": ("job_output", {"p_job_id": "WORDY"}),
    "many pieces": ("job_output", {"p_job_id": "PIECES"}),
}
#: Plain SQL statements, in addition to those of ROWS.
STATEMENTS = {
    **ROWS,
    "all jobs": "update public.jobs set status = 'cancelled' where status = 'pending'",
    "no jobs": "update public.jobs set status = 'cancelled' where false",
    "bulks of other keys": (
        "select public.enqueue_jobs('{ACME}', jsonb_agg(jsonb_build_object('job_type', 'work',"
        " 'idempotency_key', gen_random_uuid()))) from generate_series(1, 11)"
    ),
    "accounts DELETE": "delete from public.accounts",
    "workspace_members DELETE": "delete from public.workspace_members where user_id = '{BOB}'",
}


@dataclass(frozen=True)
class Flood:
    """A call that a person or a guest makes on many connections at a time."""

    path: str
    act: Callable[[Engine], Any]
    user: str | None = ADA
    body: Json | None = None


def floods(engine: Engine, shop: dict[str, str]) -> dict[str, Flood]:
    """Return a flood of each function that people may call and each table they may write."""
    changes = {name: (name, CALLS[name]) for name in engine.rows(FUNCTIONS, "authenticated")}
    # the first call of plan_start creates the guests' workspace
    guests = {*engine.rows(FUNCTIONS, "anon")} - {"follow_topic", "plan_start"}
    calls = [
        *((flood, ADA, *made) for flood, made in {**changes, **CHANGES, **READS}.items()),
        *((f"a guest's {name}", None, name, CALLS[name]) for name in guests),
    ]
    found = {}
    for flood, user, name, values in calls:
        body = put(values, shop, "x")
        found[flood] = Flood(f"/rpc/{name}", partial(call, name=name, values=body), user, body)
    for flood, statement in STATEMENTS.items():
        text = statement.format(**shop, TEXT="x", MANY=2)
        [table, *_] = re.findall(r"public\.(\w+)", text)
        path = f"/rpc/{table}" if text.startswith("select") else f"/{table}"
        found[flood] = Flood(path, partial(Engine.run, statement=text))
    return found


@pytest.fixture
def shop(engine: Engine) -> dict[str, str]:
    """Ids of one row of each kind, and two jobs with much output.

    Guests are allowed without a limit by address.
    """
    engine.allow_guests()
    engine.enqueue_many(201, session_id="many")
    visit = engine.rpc("open_guest_session", **OF_ACME)["session_id"]
    wordy, pieces, *_ = engine.lease(300)
    engine.say(wordy, piece("x" * 10_001))
    engine.say(pieces, *[piece("x", start) for start in range(200)])
    ids = world(engine, ADA)
    engine.run(BUCKET, f"q:{ACME}")  # the number of live jobs, which calls count seldom
    return {**ids, "VISIT": visit, "WORDY": wordy["job"]["id"], "PIECES": pieces["job"]["id"]}


def connect(stack: ExitStack, engine: Engine, user: str | None) -> Engine:
    """Open a session of a person or a guest. A call that waits for five seconds is cancelled."""
    session = stack.enter_context(engine.member(user) if user else engine.as_role("anon"))
    session.run("set statement_timeout = '5s'")
    return session


def open_transaction(stack: ExitStack, session: Engine, path: str = "") -> Engine:
    """Begin a transaction as the Data API does for a request path, or as a project's code."""
    session.run("begin")
    session.run("select set_config('request.path', %s, true)", path)
    stack.callback(session.run, "rollback")
    return session


def call(who: Engine, name: str, values: Json) -> None:
    who.rpc(name, **values)


def owed(engine: Engine) -> bool:
    """Return whether a caller has used tokens of a rate limit, also in a rollback."""
    now = "date_part('epoch', queue.clock()) * 1e6"
    return bool(engine.rows(f"select from {PAIRS} where pg_sequence_last_value(refilled) > {now}"))


WORK = {"job_type": "work"}
DEEP = f'{{"p_workspace_id": "{ACME}", "p_name": "e", "p_payload": {"[" * 2000}{"]" * 2000}}}'
PATTERN = "match.(a|a)*$"
Request = tuple[str | None, str, str, Any]
#: Further requests of a person or a guest: the user, the method, the path and the body.
REQUESTS: dict[str, Request] = {
    "jobs UPDATE": (ADA, "PATCH", "/jobs?status=eq.pending", {"status": "cancelled"}),
    "UPDATE by a pattern": (ADA, "PATCH", f"/jobs?job_type={PATTERN}", {"status": "cancelled"}),
    "jobs INSERT": (ADA, "POST", "/jobs", [{"workspace_id": ACME, **WORK}] * 90),
    "accounts DELETE": (ADA, "DELETE", "/accounts?name=eq.a", None),
    "members UPDATE": (ADA, "PATCH", f"/workspace_members?user_id=eq.{BOB}", {"role": "member"}),
    "a function of the project": (ADA, "POST", "/rpc/add", {}),
    "jobs SELECT": (ADA, "GET", f"/jobs?payload->>text={PATTERN}", None),
    "an embedded list": (ADA, "GET", "/workspaces?select=*,workspace_members(*)", None),
    "deep JSON": (ADA, "POST", "/rpc/emit_event", DEEP),
    **{
        name: (ADA, "POST", "/rpc/enqueue_jobs", {**OF_ACME, "p_jobs": jobs * 11})
        for name, jobs in {
            "children": [{**WORK, "parent_id": "PENDING"}],
            "unknown types": [{"job_type": "unknown"}],
        }.items()
    },
    "a guest's jobs": (None, "POST", "/rpc/guest_session_jobs", {"p_session_id": "VISIT"}),
    "a guest's messages": (None, "POST", "/rpc/chat_said", {"p_session_id": "CHAT"}),
}
#: Floods that a person sends at the same time.
TOGETHER = ("jobs UPDATE", "a bulk", "list_jobs", "jobs SELECT", "one idempotency key")
#: Requests of another tenant, and of another member of the flooded workspace.
NEIGHBOURS: list[Request] = [
    (EVE, "POST", "/rpc/list_jobs", {}),
    (EVE, "POST", "/rpc/enqueue_job", {"p_workspace_id": GLOBEX, "p_job_type": "work"}),
    (BOB, "POST", "/rpc/count_jobs", OF_ACME),
]
#: Calls that occupy a connection only while they run, or while one call waits for a key.
SHORT = {
    *("enqueue_job", "enqueue_jobs", "follow_topic", "open_stream", "plan_start"),
    *("enrich_account", "enrich_contact", "one idempotency key", "one unique key"),
    *("a bulk of one key", "a locked job", "locked jobs"),
}
#: Let each flooding call that has taken a slot or an app's record wait for the test. A new record
#: has an id that no other call uses.
HOLD = f"""
alter function queue.try_lock rename to try_lock_at_once;
create function queue.try_lock(p_name text, p_waits boolean = false, p_is_shared boolean = false)
returns boolean language sql as $$
select case when queue.try_lock_at_once(p_name, p_waits, p_is_shared) then
  p_name !~ '^(call (changes |running reads )?{ADA} |call guests |object )'
  or p_name ~ '^object .*/[-0-9a-f]{{36}}$'
  or pg_advisory_xact_lock_shared(4711) is not null
else false end
$$
"""
HELD = "select pid from pg_locks where locktype = 'advisory' and objid = 4711 and not granted"


def send(client: httpx.Client, user: str | None, method: str, path: str, body: Any) -> int:
    """Send a request to the Data API, and return the status of the response."""
    headers = {"apikey": PUBLISHABLE_KEY, "content-type": "application/json"}
    if user:
        headers["authorization"] = f"Bearer {user_token(user)}"
    content = body if isinstance(body, str) else json.dumps(body)
    return client.request(method, path, headers=headers, content=content).status_code


def test_a_flood_occupies_at_most_two_connections(
    engine: Engine, renewed: Renewed, shop: dict[str, str]
) -> None:
    """A person sends one request on twelve connections at a time, of which at most two run.

    The others are rejected at once. Requests of five kinds together occupy six of ten connections,
    and a workspace's guests five. Meanwhile, other people's requests succeed.
    """
    flooded = CALLS.keys() | {name for name, _ in READS.values()} | SESSION_READS
    assert set(engine.rows(GRANTED)) == flooded | BOUNDED
    requests: dict[str, Request] = {
        name: (flood.user, "POST", flood.path, flood.body)
        for name, flood in floods(engine, shop).items()
        if flood.body is not None
    }
    for name, (*where, body) in REQUESTS.items():
        requests[name] = (*where, put(body, shop, ""))
    adds = ROWS["public.jobs INSERT"].format(ACME=ACME, ADA=ADA, TEXT="", MANY=100)
    definer = "create function public.add() returns void language sql security definer as"
    engine.run(f"{definer} $$ {adds} $$; notify pgrst, 'reload schema'")
    sent = {name: [request] * 12 for name, request in requests.items()}
    sent["all together"] = [requests[name] for name in TOGETHER] * 6
    occupied, statuses = {}, {}
    with (
        httpx.Client(base_url=f"{renewed.gateway.url}/rest/v1") as client,
        engine.another_session() as other,
        ThreadPoolExecutor(30) as threads,
    ):
        until(lambda: send(client, *requests["a function of the project"]) == 204)
        engine.run(HOLD)
        other.run("select pg_advisory_lock(4711)")
        for name, each in sent.items():
            if name.startswith("a guest's"):
                engine.run("update public.async_session_state set created_by = null")
                engine.run("update public.plans set created_by = null")
            calls = [threads.submit(send, client, *request) for request in each]
            until(lambda: len(other.rows(HELD)) + sum(map(Future.done, calls)) == len(calls))  # noqa: B023
            occupied[name] = len(other.rows(HELD))
            statuses[name] = {one.result() for one in calls if one.done()}
            assert {send(client, *request) // 100 for request in NEIGHBOURS} == {2}, name
            while pids := other.rows(HELD):  # roll back, so that the next flood finds the same rows
                other.rows("select pg_cancel_backend(pid) from unnest(%s) as pid", pids)
            wait(calls)
    more = {"all together": 6, "a guest's jobs": 5, "a guest's messages": 5}
    assert {name: count for name, count in occupied.items() if count > 2} == more
    assert {name for name, found in statuses.items() if found != {429}} == SHORT | {"all together"}
    assert max(max(found) for found in statuses.values()) == 429


#: Functions that read a bounded number of rows by a key, or write one row of the caller.
BOUNDED = {
    *("get_job", "guest_job", "own_workspace", "list_workspaces", "workspace_limits"),
    *("list_schedules", "list_webhooks", "get_workspace_settings", "get_sealed_apollo_key"),
    *("chat_outcome", "chat_page", "chat_status", "silence_finding"),
    *("plan_events", "plan_read", "plan_shared", "training_shared", "beacon_keys", "beacon_shared"),
}
#: Functions that count as one of the caller's concurrent reads if the session is large.
SESSION_READS = {"chat_events", "guest_session_jobs"}
GRANTED = """
select p.proname from pg_proc as p
where p.pronamespace = 'public'::regnamespace and not p.prorettype = 'trigger'::regtype
  and (has_function_privilege('authenticated', p.oid, 'execute')
    or has_function_privilege('anon', p.oid, 'execute'))
"""


def test_a_flood_takes_a_share(engine: Engine, ada: Engine) -> None:
    """Of sockets that no one reads, 20 are followers. An update cancels at most 1,000 jobs."""
    for _ in range(150):
        with suppress(psycopg.Error):
            ada.follow(f"workspace:{ACME}")
    assert engine.count("queue.followers") == 20
    engine.enqueue_many(1001)
    assert refused(ada.run, "update public.jobs set status = 'cancelled'")[1] == "invalid_argument"


def begin_read(stack: ExitStack, session: Engine, method: str = "GET", path: str = "/jobs") -> None:
    """Read a table as the Data API does, and keep the transaction open."""
    open_transaction(stack, session, path)
    session.run("select set_config('request.method', %s, true)", method)
    session.run("select from public.jobs")


def test_two_plain_reads_of_a_person_run_and_four_wait(engine: Engine) -> None:
    """A person may send six concurrent reads of a table through the Data API, of which two run.

    Reads by Realtime, which have no request method, are not limited.
    """
    engine.enqueue()
    with engine.open_transaction() as others, ExitStack() as stack:
        first, second, third, late = (connect(stack, engine, ADA) for _ in range(4))
        begin_read(stack, first, "HEAD")
        begin_read(stack, second, "POST", "/rpc/graphql")
        answer = engine.blocked(begin_read, stack, third)
        place = f"select queue.try_lock('call reads {ADA} ' || n)"
        others.run(f"{place} from generate_series(4, 6) as n")
        assert refused(begin_read, stack, late)[1] == "rate_limited"
        late.run("rollback")
        begin_read(stack, late, "")
        first.run("rollback")
        answer.result(60)


def test_a_flood_of_plain_reads_waits_seldom(engine: Engine) -> None:
    """A person's reads wait at most 100 times in ten seconds. Then one read runs at a time.

    A wait counts even if the statement timeout ends the read.
    """
    engine.enqueue()
    with ExitStack() as stack:
        first, second, late = (connect(stack, engine, ADA) for _ in range(3))
        begin_read(stack, first)
        begin_read(stack, second)

        def rejection() -> str | None:
            with ExitStack() as ends:
                return refused(begin_read, ends, late)[1]

        late.run("set statement_timeout = '20ms'")
        while rejection() != "rate_limited":
            pass
        second.run("rollback")
        assert rejection() == "rate_limited"
        engine.advance(10)
        begin_read(stack, late)


def test_a_plain_read_searches_the_callers_workspaces_only(engine: Engine, ada: Engine) -> None:
    """The policy of a table allows the use of an index."""
    engine.enqueue_many(9)
    ada.run("set enable_seqscan = off")
    plan = ada.rows("explain select from public.jobs where status = 'failed'")
    assert any("Index Cond: (workspace_id = ANY" in line for line in plan), plan


#: A project's own functions: one calls a function of the engine, and one only contains a similar
#: name.
OWN_FUNCTIONS = """
create function public.save() returns jsonb language sql
  begin atomic select public.cancel_job(gen_random_uuid()); end;
create function public.note() returns void language plpgsql as
  $$ begin perform queue.at from pg_class as queue where queue.relname = 'x'; end; $$;
"""


def test_rejected_work_is_paid_for(engine: Engine, ada: Engine, shop: dict[str, str]) -> None:
    """A call that is rolled back or too large costs its caller tokens of the rate limit.

    A call also leaves the lock timeout of a project's own transaction unchanged.
    """
    unpaid = {"explain_job", "chat_messages", "no jobs", *READS}
    unpaid -= {"output of many jobs", "much output", "many pieces"}
    every = floods(engine, shop)
    engine.run(OWN_FUNCTIONS)
    free, changed = set(), set()
    for name, flood in every.items():
        if flood.user is None or name in unpaid:
            continue
        assert not owed(engine)
        for path in ("", "/rpc/save", "/rpc/note", "/a_table_of_the_project"):
            with ExitStack() as stack:
                flood.act(open_transaction(stack, ada, path))
                if ada.one("show lock_timeout") != "0":
                    changed.add(name)
        if not owed(engine):
            free.add(name)
        engine.run(f"select setval(refilled, 1) from {PAIRS}")
    for name in (name for name in CALLS if "TEXT" in str(CALLS[name])):
        with suppress(psycopg.Error), ada.connection.transaction(force_rollback=True):
            call(ada, name, put(CALLS[name], shop, "x" * 300_000))
        if not owed(engine):
            free.add(f"a large {name}")
        engine.run(f"select setval(refilled, 1) from {PAIRS}")
    assert (free, changed) == (set(), set())


def test_a_call_without_tokens_is_rejected_before_it_writes(
    engine: Engine, shop: dict[str, str]
) -> None:
    """A caller whose rate limit is used up is rejected before the call writes a row."""
    every = floods(engine, shop)
    engine.stop_clock()
    engine.set(user_enqueues_burst=1, user_stream_opens_burst=1)
    for limit in ("enqueues", "stream_opens"):
        engine.run(BUCKET, f"u:{ADA}/{limit}")
    found = {}
    with ExitStack() as stack:
        session = connect(stack, engine, ADA)
        for name, flood in every.items():
            if flood.user and name not in {"explain_job", *READS}:
                with session.connection.transaction(force_rollback=True):
                    with pytest.raises(psycopg.Error) as error, session.connection.transaction():
                        flood.act(session)
                    session.run("reset role")
                    found[name] = refusal(error.value)[1], session.one(WRITTEN)
    assert {name: each for name, each in found.items() if each != ("rate_limited", 0)} == {}


def test_people_who_share_a_pair_of_sequences_pay_for_themselves(
    engine: Engine, ada: Engine
) -> None:
    """Two persons whose rate limits are stored in the same sequences each have all their tokens."""
    bucket = "hashtextextended(format('u:%%s/enqueues', id), 0) & 9223372036854775807"
    ids = f"select id::text, ({bucket}) / 2 %% 16 from (select %s::uuid as id union all"
    ids += " select gen_random_uuid() from generate_series(1, 999)) as i"
    pairs = dict(engine.rows(ids, ADA))
    twin = next(each for each in pairs if each != ADA and pairs[each] == pairs[ADA])
    engine.run("insert into public.workspace_members values (%s, %s)", ACME, twin)
    engine.stop_clock()
    engine.run(BUCKET, f"q:{ACME}")
    engine.set(user_enqueues_burst=40)

    def spend(person: Engine) -> int:
        for count in range(99):
            try:
                with person.connection.transaction(force_rollback=True):
                    person.enqueue()
            except psycopg.Error as error:
                return count if '"limit": "enqueues"' in str(refusal(error)) else -1
        return 99

    with engine.member(twin) as other:
        assert [spend(ada), spend(other), spend(ada)] == [40, 40, 0]


def test_a_late_price_leaves_the_next_owners_price(engine: Engine, ada: Engine) -> None:
    """Another person takes over the two sequences of a rate limit during a call.

    The late call does not overwrite the new owner's tokens.
    """
    engine.stop_clock()
    micros = "(date_part('epoch', queue.clock()) * 1e6)::bigint"
    bucket = f"hashtextextended('u:{ADA}/stream_opens', 0) & 9223372036854775807 | 1"
    ada.rpc("open_stream")
    engine.advance(3600)
    nth = engine.one(f"select nth from queue.find_pair({bucket}, {micros})")
    with engine.open_transaction("lock table queue.buckets") as other:
        call = engine.blocked(ada.rpc, "open_stream")
        price = f"select setval('queue.refilled_{nth}', {micros} + 9)"
        owed = other.one(f"{price} from setval('queue.priced_{nth}', 3)")
    call.result(60)
    assert engine.one(f"select last_value from queue.refilled_{nth}") == owed


def test_a_person_enqueues_often_in_one_transaction(engine: Engine, ada: Engine) -> None:
    """A person may enqueue 200 jobs in one transaction.

    A completed call no longer counts as a concurrent call.
    """
    engine.limit(max_pending=2000)
    with ada.connection.transaction():
        for _ in range(200):
            ada.enqueue()


def test_a_statement_for_many_workspaces_takes_a_bounded_number_of_locks(
    engine: Engine, ada: Engine
) -> None:
    """An INSERT of jobs for 250 workspaces is rejected, because each workspace needs a lock."""
    engine.set(user_pending_max=1000)
    tenants = engine.add_workspaces(250)
    joins = "insert into public.workspace_members (workspace_id, user_id)"
    engine.run(f"{joins} select unnest(%s::uuid[]), %s", tenants, ADA)
    many = "insert into public.jobs (workspace_id, job_type) select unnest(%s::uuid[]), 'work'"
    ada.run(many, tenants[:40])
    assert refused(ada.run, many, tenants)[:2] == ("PT429", "rate_limited")


@pytest.mark.parametrize(("rows", "cost"), [(0, 25), (1, 15)])
def test_a_statement_pays_for_its_time(engine: Engine, ada: Engine, rows: int, cost: int) -> None:
    """A statement of 0.25 s costs a person 25 tokens, even if no row matches.

    The possible wait for the lock of a row, 0.1 s, costs nothing.
    """
    engine.run("insert into public.accounts (workspace_id, name) values (%s, 'a')", ACME)
    ahead = "coalesce(nullif(current_setting('test.ahead', true), ''), '0')::interval"
    engine.run(
        "create or replace function queue.clock() returns timestamptz language sql as"
        f" $$ select timestamptz '2030-01-01' + {ahead} $$"
    )
    advance = "set_config('test.ahead', '250 ms', true) <> ''"
    condition = f"name = 'a' and ({advance})::integer = %s"
    ada.run(f"update public.accounts set name = 'b' where {condition}", rows)
    assert engine.one(LEFT) == 10_000 - cost + 12.5  # tokens that were refilled in 0.25 s


def test_a_search_costs_at_most_a_quarter_of_the_burst(engine: Engine, ada: Engine) -> None:
    """A search in 1,000 jobs costs a person at most a quarter of the rate limit's tokens."""
    engine.set(user_enqueues_burst=32)
    engine.enqueue_many(1000)
    ada.rpc("cancel_jobs", p_workspace_id=ACME, p_filter={"search": "none"})
    assert engine.one(LEFT) >= 32 - 8 - 1


@pytest.mark.parametrize(("burst", "cost"), [(10_000, 7), (4, 4)])
def test_a_cancel_pays_for_the_retries_that_can_be_paid(
    engine: Engine, ada: Engine, burst: int, cost: int
) -> None:
    """The bulk call itself costs one more token."""
    engine.stop_clock()
    engine.set(user_enqueues_burst=burst)
    engine.enqueue_many(3)
    filter_ = {"job_type": "work", "state": ["queued"]}
    ada.rpc("cancel_jobs", p_workspace_id=ACME, p_filter=filter_, p_retry=True)
    assert burst - engine.one(LEFT) == cost


def test_a_statement_pays_for_its_rows_alone(engine: Engine, ada: Engine) -> None:
    """A statement costs a person about one token of the rate limit for each row that it changes."""
    engine.stop_clock()
    add = "insert into public.accounts (workspace_id, name) select %s, 'a'"
    add += " from generate_series(1, %s)"
    upsert = "insert into public.workspace_settings (workspace_id) values (%s)"
    upsert += " on conflict (workspace_id) do update set apollo_auto_enrich = true"
    for statement, values, cost in (
        (add, (ACME, 3), 3),
        (add, (ACME, 250), 250),
        ("update public.accounts set name = 'b' where false", (), 0),
        ("delete from public.accounts", (), 253),
        (f"insert into public.jobs (workspace_id) select '{ACME}' where false", (), 0),
        (ROWS["public.jobs INSERT"].format(ACME=ACME, ADA=ADA, TEXT="", MANY=150), (), 150),
        ('select public.cancel_jobs(%s, \'{"search": "none"}\')', (ACME,), 8),
        ("update public.jobs set status = 'cancelled'", (), 150),
        (upsert, (ACME,), 1),
    ):
        before = engine.rows(LEFT) or [10_000]
        ada.run(statement, *values)
        paid = before[0] - engine.one(LEFT)
        assert cost <= paid <= 1.1 * cost, statement


def test_jobs_of_a_new_account_are_placed_once(engine: Engine, ada: Engine) -> None:
    """The triggers after a client's INSERT of jobs skip the jobs that a new account enqueues."""
    engine.register("enrich_account")
    engine.run("update public.workspace_settings set apollo_auto_enrich = true")
    add = "insert into public.accounts (workspace_id, name, domain) values (%s, 'a', 'a')"
    with ada.connection.transaction():
        ada.run(add, ACME)
        assert not ada.one("select current_setting('minutehand.plain', true)")
    assert len(engine.lease()) == 1


@pytest.mark.parametrize(
    ("most", "options", "hint"),
    [(2001, {}, "quota_exceeded"), (2002, {"priority": "x"}, "invalid_argument")],
)
def test_a_rejected_enqueue_pays_for_its_count_of_jobs(
    engine: Engine, ada: Engine, most: int, options: Json, hint: str
) -> None:
    """A rejected enqueue takes one token, and one more for each 400 jobs that it counts.

    Its count is not stored, so the next enqueue counts the jobs again.
    """
    engine.stop_clock()
    engine.limit(max_pending=most)
    engine.set(user_enqueues_burst=25, user_enqueues_per_second=1)
    engine.enqueue_many(2000)
    ada.enqueue()
    engine.advance(20)
    hints = [refused(ada.enqueue, **options)[1] for _ in range(5)]
    assert hints == [hint] * 4 + ["rate_limited"]
    engine.complete(engine.lease(1))
    engine.advance(7)
    ada.enqueue()


def test_two_enqueues_at_a_time_count_many_jobs(engine: Engine) -> None:
    """While two enqueues count 1,001 jobs, a third enqueue is rejected."""
    engine.enqueue_many(1001)
    with ExitStack() as stack:
        first, second, third = (
            open_transaction(stack, connect(stack, engine, user)) for user in (ADA, ADA, BOB)
        )
        first.enqueue()
        second.enqueue()
        assert refused(third.enqueue)[2] == LIMIT


def test_calls_of_one_moment_are_all_charged(engine: Engine, bob: Engine) -> None:
    """Concurrent calls of one person on ten connections are all counted for the rate limit.

    After the stated seconds the person may call again, and other persons are not limited.
    """
    engine.stop_clock()
    engine.set(user_enqueues_per_second=1, user_enqueues_burst=32)
    with ExitStack() as stack:
        calls = [stack.enter_context(engine.member(ADA)) for _ in range(10)]
        for _ in range(3):
            for ada in calls:
                ada.run("begin")
                ada.enqueue()
            for ada in calls:
                ada.run("commit")
        for _ in range(2):
            ada.enqueue()
        for way in (
            ada.enqueue,
            partial(ada.pause, "workspace"),
            partial(ada.run, "update public.accounts set name = 'x'"),
        ):
            state, hint, detail = refused(way)
            assert (state, hint) == ("PT429", "rate_limited")
            assert re.search('"limit": "enqueues".*"retry_after_seconds": [1-9]', str(detail))
            engine.advance(1)
            ada.enqueue()
    bob.enqueue()  # another person, and then the service, are not limited
    engine.enqueue_many(33)


#: The calls, for each caller, that change a job which another transaction has locked.
HOLDERS = {
    ADA: {"cancel_job", "cancel_jobs", "retry_job", "answer_job", "a locked job", "locked jobs"},
    None: {"chat_respond", "chat_cancel", "plan_retry", "plan_redo", "plan_cancel"},
}


@pytest.mark.parametrize("user", HOLDERS)
def test_a_call_waits_for_no_job(engine: Engine, user: str | None) -> None:
    """A person's call that meets a locked job is rejected with `job_busy` instead of waiting.

    A waiting call would occupy a connection that all callers share.
    """
    engine.set(allow_anonymous=True)
    ids = world(engine, user)
    engine.enqueue(unique=REPLACED, delay_seconds=60)
    said = {}
    with engine.open_transaction() as other, ExitStack() as stack:
        session = connect(stack, engine, user)
        other.run("select from public.jobs for update")
        if user is None:
            other.run("select from public.plans for update")
        for name, flood in floods(engine, ids).items():
            if flood.user == user and name not in (*STATEMENTS, *READS):
                try:
                    with ExitStack() as ends:
                        flood.act(open_transaction(ends, session, flood.path))
                except psycopg.Error as error:
                    said[name.removeprefix("a guest's ")] = refusal(error)
    # A call waits for a locked row of an example app for at most 100 ms.
    others = [name for name, (state, *_) in said.items() if str(state)[:2] not in {"PT", "55"}]
    assert others == []
    busy = ("PT429", "job_busy", '{"retry_after_seconds": 1}')
    assert {name for name, refused in said.items() if refused == busy} >= HOLDERS[user]


@pytest.mark.parametrize("taken", [{"idempotency_key": "k"}, {"unique": {"key": "k"}}])
def test_one_call_of_a_person_waits_for_a_key(engine: Engine, taken: Json) -> None:
    """While a person's enqueue with a key is open, one repeat waits and gets that job.

    Further repeats are rejected.
    """
    with ExitStack() as sessions:
        first, second, late = (sessions.enter_context(engine.member(ADA)) for _ in range(3))
        first.run("begin")
        made = first.enqueue(**taken)
        answer = engine.blocked(second.enqueue, **taken)

        said = refused(late.enqueue, **taken)
        late.enqueue(idempotency_key="another")

        assert said == ("PT429", "job_busy", '{"retry_after_seconds": 1}')
        first.run("commit")
        assert answer.result(60) == made
        assert late.enqueue(**taken) == made


def test_a_bulk_that_is_refused_was_not_made_before(engine: Engine, ada: Engine) -> None:
    """A bulk enqueue that exceeds the rate limit is rejected before it inserts rows.

    A repeated bulk with known idempotency keys still returns the existing jobs.
    """
    engine.stop_clock()
    engine.set(user_enqueues_burst=600)
    lines = "select pg_sequence_last_value(pg_get_serial_sequence('queue.feed', 'id'))"

    def bulk(*numbers: int) -> Any:
        jobs = [{"job_type": "work", "idempotency_key": str(n)} for n in numbers]
        return ada.rpc("enqueue_jobs", **OF_ACME, p_jobs=jobs, p_return="ids")

    made, published = bulk(*range(500)), engine.one(lines)

    assert refused(bulk, *range(500, 1000))[:2] == ("PT429", "rate_limited")
    assert engine.one(lines) == published
    assert bulk(*range(500))["ids"] == made["ids"]
