# ruff: noqa: E501 - queries and statements stay on one line
"""What one person's calls cost others: each function reads little, or its callers take turns.

Every function granted to `authenticated` is called, found in the catalogue, over a workspace that
is full of everything: a new one must be given arguments here on the day that it is written.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from minutehand.local.postgres import Postgres
from tests.sql.test_lease_budgets import FILL, settle_down
from tests.support.databases import SCHEMAS
from tests.support.engine import ACME, ADA, Engine
from tests.support.functions import database_of_an_app

#: Blocks that a read may touch without a turn: a few hundred rows, by an index each.
MOST = 4_000
#: Feeds of watchers take no turn, so that no list of one's own holds up what is live; a page of 500
#: events bounds them. See `test_a_page_of_a_feed_costs_its_events`.
FEEDS = {"event_feed", "session_feed", "guest_session_feed", "guest_session_events", "plan_events_after"}  # fmt: skip
MOST_OF_A_FEED = 13_000
#: Reads by a key that nothing here has: one row.
UNREACHED = {"chat_outcome", "training_procedure"}
ROWS = 1_000

#: Statements that make one row of each app, with the words that functions know it by.
MADE = {
    "session": ("""select public.chat_request('guest_' || repeat('a', 64), jsonb_build_object('workspace_id', %(workspace)s) || '{"text": "Hello", "client_id": null, "documents": [], "mode": "reply", "ask": true, "ask_seconds": 60, "seed": 0}') || jsonb_build_object('session_id', 'guest_' || repeat('a', 64))""", "session_id"),
    "plan": ("""select public.plan_start(%(workspace)s, '{"prompt": "Plant a hedge", "speed_vs_detail": "fast_but_skip_details"}')""", "plan_id"),
    "training": (
        "select public.training_transcribe(%(workspace)s, gen_random_uuid(), 'Lamp', 'https://example.com/a.mp3')",
        "training_id",
    ),
    "guest": ("select public.open_guest_session(%(workspace)s)", "session_id"),
    "beacon": ("""select public.beacon_submit('{"jobspec_id": "s", "version": "1", "benchmark": {"name": "b"}, "constraints": {"regions": ["eu", "us"], "min_regions": 1}, "questions": ["Why?"]}', %(workspace)s)""", "id"),
}  # fmt: skip
#: The largest honest arguments, by the names of parameters; `function.parameter` goes before.
ARGUMENTS: dict[str, str] = {
    "p_workspace_id": "%(workspace)s", "p_job_id": "%(job)s", "p_job_type": "'work'", "p_minutes": "11520",
    "p_limit": "100000", "p_filter": "'{}'", "p_cursor": "null", "p_before": "null", "p_after": "0",
    "p_action": "'pause'", "p_outcome": "null", "p_plan_id": "%(plan)s", "p_training_id": "%(training)s",
    "p_session_id": "'s'", "p_ids": "array[%(user)s]::uuid[]", "p_internal": "true", "p_results": "true",
    "p_token": "'none'", "p_message_id": "gen_random_uuid()", "p_work_id": "null", "p_search": "null",
    "p_name": "'n'", "p_version": "null", "p_is_open": "false", "p_offset": "10000", "p_count": "1000",
    "p_by": "'run_ms'", "p_descending": "true", "p_job_ids": "array(select id from public.jobs limit 1000)",
    "p_schedule": """'{"cron": "*/5 * 29 2 *", "timezone": "Europe/Berlin"}'""",
    "p_payload": "'{}'", "p_options": "'{}'", "p_answer": "'1'", "p_email": "'bob@acme.test'", "p_role": "'member'",
    "p_member": "'bob@acme.test'", "p_topic": "'workspace:' || %(workspace)s", "p_follower_id": "gen_random_uuid()",
    "p_batch_id": "gen_random_uuid()", "p_callback": "null", "p_webhook_id": "gen_random_uuid()",
    "p_idempotency_key": "null", "p_title": "'t'", "p_content": "'c'", "p_priority": "100", "p_return": "'ids'",
    "p_object_key": "'k'", "p_size_bytes": "10", "p_checksum": "null", "p_audio_url": "'https://example.com/a.mp3'",
    "p_base_version": "1", "p_procedure": "'{}'", "p_stage": "'s'", "p_keep": "'{}'", "p_corrections": "'[]'", "p_without_model": "false", "p_ttl_seconds": "60",
    "p_all": "false", "p_id": "%(beacon)s", "p_account_id": "gen_random_uuid()", "p_contact_id": "gen_random_uuid()",
    "p_import": "'{}'", "p_changes": "'{}'", "p_limits": "'{}'", "p_webhook": "'{}'",
    "p_message": """'{"content": "hello"}'""", "p_plan": """'{"prompt": "p", "speed_vs_detail": "fast_but_skip_details"}'""",
    "p_request": "'{}'", "p_spec": "'{}'", "p_selection": """'{"limit": 1000}'""",
    "p_jobs": "(select jsonb_agg('{\"job_type\": \"work\"}'::jsonb) from generate_series(1, 1000))",
    "chat_said.p_session_id": "%(session)s", "chat_status.p_session_id": "%(session)s", "chat_said.p_before": "null", "plan_list.p_session_id": "null", "plan_list.p_after": "null",
    "job_artefacts.p_key": "null", "job_artefacts.p_name": "null",
    "training_list.p_after": "null", "job_steps.p_after": "null",
    "guest_session_events.p_session_id": "%(guest)s", "guest_session_events.p_job_id": "%(child)s",
    "guest_session_feed.p_session_id": "%(guest)s", "guest_session_jobs.p_session_id": "%(guest)s",
    "explain_job.p_job_id": "%(ready)s", "list_jobs.p_filter": """'{"search": "nothing"}'""", "sort_jobs.p_filter": """'{"search": "nothing"}'""",
    "search_logs.p_filter": """'{"search": "nothing"}'""", 
    "event_feed.p_cursor": "'1:1:'", "session_feed.p_cursor": "'1:1:'", "guest_session_feed.p_cursor": "'1:1:'",
}  # fmt: skip
GRANTED = """
select p.proname, coalesce(p.proargnames[:p.pronargs], '{}'), p.proargtypes::regtype[]::text[], p.provolatile = 's'
from pg_catalog.pg_proc as p where p.pronamespace = %s::regnamespace
  and has_function_privilege('authenticated', p.oid, 'execute') order by 1
"""
#: Every table that names a workspace gets so many copies of each of its rows, with new keys.
MULTIPLY = """
do $$
declare
  v_table record;
begin
  set local session_replication_role = replica;
  for v_table in
    select c.oid::regclass as name, (select array_agg(a.attname) from pg_index i join pg_attribute a
        on a.attrelid = c.oid and a.attnum = any (i.indkey) where i.indrelid = c.oid and i.indisunique
          and a.atttypid in ('uuid'::regtype, 'text'::regtype) and a.attname <> 'workspace_id') as keys
    from pg_class c where c.relkind = 'r' and c.relpersistence = 'p' and c.relname not in ('jobs', 'job_events', 'workspace_members')
      and c.relnamespace::regnamespace::text not in ('auth', 'realtime', 'pg_catalog')
      and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'workspace_id')
  loop
    begin
      execute format('insert into %1$s overriding system value select r.* from (select to_jsonb(t) as row from %1$s as t limit 3) as s
        cross join generate_series(1, %2$s) as n cross join lateral jsonb_populate_record(null::%1$s, s.row || coalesce((
          select jsonb_object_agg(k, case when s.row ->> k ~ ''^[0-9a-f]{8}-'' then to_jsonb(gen_random_uuid()) else to_jsonb(k || n) end)
          from unnest(%3$L::text[]) as k where s.row ->> k is not null), ''{}'')) as r on conflict do nothing',
        v_table.name, {rows}, v_table.keys);
    exception when others then
      raise notice 'not multiplied: % (%)', v_table.name, sqlerrm;
    end;
  end loop;
end $$
"""


def with_words(statement: str, words: dict[str, str]) -> bytes:
    """The statement with its words as literals of no type."""
    return (statement % {name: f"'{value}'" for name, value in words.items()}).encode()


def full(engine: Engine) -> dict[str, str]:
    """Fill the workspace; return the words of its rows."""
    words = {"workspace": ACME, "user": ADA}
    with engine.member(ADA) as ada:
        for name, (statement, key) in MADE.items():
            answer = ada.connection.execute(with_words(statement, words)).fetchone()
            assert answer is not None
            words[name] = answer[0][key]
    words["job"] = engine.enqueue(job_type="parent", session_id="s")
    words["child"] = engine.enqueue(session_id=words["guest"])
    leases = engine.lease(1, job_types=["parent"])
    engine.spawn(leases[0], "c", [{"job_type": "work", "payload": {}}] * 400)
    for _ in range(3):
        engine.report(
            leases[0],
            logs=[{"log_level": "info", "message": "x" * 200}] * 100,
            progress={"percentage": 1},
        )
    engine.settle(
        leases[0],
        "retry",
        error={"type": "E", "message": "no"},
        steps=[{"name": "s", "result": {"value": 1}}],
    )
    engine.run(
        FILL.format(workspace=f"'{ACME}'", job_type="'work'", key="'k' || n % 50", count=10_000)
    )
    engine.run("set session_replication_role = replica")
    engine.run(
        "update public.jobs set status = 'failed', outcome = 'failed', finished_at = now(), error_message = 'no', error_fingerprint = 'f' where concurrency_key like 'k%%' and id in (select id from public.jobs where concurrency_key like 'k%%' limit 9000)"
    )
    engine.run(
        "delete from queue.ready r using public.jobs j where j.id = r.job_id and j.outcome = 'failed'"
    )
    engine.run(
        "insert into queue.ended select workspace_id, outcome, created_at, id, job_type, finished_at from public.jobs where outcome = 'failed'"
    )
    engine.run(
        "insert into public.job_logs (job_id, workspace_id, attempt, log_level, message) select %s, %s, 1, 'info', 'line ' || n from generate_series(1, 5000) as n",
        *(words["job"], ACME),
    )
    engine.run(
        "insert into queue.attempts select (jsonb_populate_record(a, jsonb_build_object('fence', 1 + n))).* from queue.attempts as a, generate_series(1, 999) as n where a.job_id = %s",
        words["job"],
    )
    engine.run("update public.jobs set fence = 1000 where id = %s", words["job"])
    engine.run("set session_replication_role = origin")
    engine.run(MULTIPLY.replace("{rows}", str(ROWS)))
    settle_down(engine)
    words["ready"] = str(
        engine.one("select job_id from queue.ready order by ready_at desc limit 1")
    )
    return words


@pytest.fixture(scope="module")
def filled(postgres: Postgres) -> Iterator[tuple[Engine, dict[str, str]]]:
    """A workspace with thousands of rows in every table, and its words."""
    with (
        database_of_an_app(
            postgres, "plan", "transcription", "beacon_job", "chat_reply"
        ) as database,
        database.connect() as connection,
    ):
        engine = Engine(database, connection)
        engine.register("work")
        engine.register("parent")
        yield engine, full(engine)


#: Nothing was written, which rates and quotas bound, and no turn is held.
IS_FREE = """
select pg_current_xact_id_if_assigned() is null and not exists (select from pg_catalog.pg_locks
  where locktype = 'advisory' and pid = pg_backend_pid()
    and classid::bigint << 32 | objid::bigint = hashtextextended('minutehand turn of ' || %s, 0))
"""


def measured(
    ada: Engine, words: dict[str, str], function: tuple[str, list[str], list[str], bool]
) -> tuple[int, bool, str | None]:
    """Blocks of a call, whether it is a read without a turn, and why it was refused."""
    name, parameters, types, _ = function
    texts = [ARGUMENTS.get(f"{name}.{each}", ARGUMENTS.get(each, "")) for each in parameters]
    assert all(texts), f"ARGUMENTS has none for {name}({', '.join(parameters)})"
    arguments = ", ".join(f"({text})::{kind}" for text, kind in zip(texts, types, strict=True))
    call = f"explain (analyze, buffers, format json) select {SCHEMAS.clients}.{name}({arguments})"
    found = []
    for _ in range(2):  # the first call of a session reads the catalogue
        try:
            with ada.connection.transaction(force_rollback=True):
                row = ada.connection.execute(with_words(call, words)).fetchone()
                assert row is not None
                plan = row[0][0]["Plan"]
                found.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
                is_free = ada.one(IS_FREE, ADA)
        except psycopg.Error as error:
            if not str(error.sqlstate).startswith("PT4"):
                raise
            return 0, False, f"{error.diag.message_primary} ({error.diag.message_hint})"
    return min(found), is_free, None


def test_every_function_of_a_person_reads_little_or_takes_a_turn(
    filled: tuple[Engine, dict[str, str]],
) -> None:
    """Twenty-four at once of any of them must not make another tenant wait."""
    engine, words = filled
    dear, unanswered = {}, {}
    functions = engine.rows(GRANTED, SCHEMAS.clients)
    with engine.member(ADA) as ada:
        for function in functions:
            blocks, is_free, refused = measured(ada, words, function)
            if refused is not None and function[3] and function[0] not in UNREACHED:
                unanswered[function[0]] = refused
            if is_free and blocks > (MOST_OF_A_FEED if function[0] in FEEDS else MOST):
                dear[function[0]] = blocks

    assert (dear, unanswered) == ({}, {})
    assert len(functions) > 90
