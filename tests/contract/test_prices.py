"""Every call with which a user stores data takes tokens from the user's rate limit."""

import random
import string
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.contract.observed import ask
from tests.support.engine import ACME, ADA, BOB, ERROR, SEALED, Engine, Json

#: The text that a caller stores. It cannot be compressed, so its stored size is known.
TEXT = "".join(random.Random(1).choices(string.ascii_letters, k=160_000))
SIZES = (len(TEXT), 8000, 2560, 200)
FUNCTIONS = """
select p.proname from pg_proc as p
where p.provolatile = 'v' and p.pronamespace = 'public'::regnamespace
  and p.proname !~ '_output$' -- reads with a price
  and has_function_privilege(%s, p.oid, 'execute')
"""
WRITTEN = """
select coalesce(sum(n_tup_ins + n_tup_upd), 0)::integer from pg_stat_xact_all_tables
where schemaname !~ '^(pg_|information_schema|realtime)'
  and relname <> 'buckets'
"""
#: The tables into which the transaction has written.
TABLES = """
select relid::regclass::text from pg_stat_xact_all_tables
where n_tup_ins + n_tup_upd > 0 and schemaname !~ '^(pg_|auth|realtime|storage)'
"""
#: The sequences that store, for each rate limit, the time at which its tokens are full again.
PAIRS = (
    "(select ('queue.refilled_' || n)::regclass as refilled from generate_series(0, 15) as n) as p"
)
OF = {"p_workspace_id": ACME}
NOTE = {"text": "TEXT"}
SPEC = {"jobspec_id": "s", "version": "1", "benchmark": {"name": "TEXT"}, "questions": ["?"]}
SPEC |= {"constraints": {"regions": ["r"], "min_regions": 1}}
PLAN = {"prompt": "TEXT", "speed_vs_detail": "fast_but_skip_details"}
FILE = f"workspaces/{ACME}/{ADA}/{uuid.UUID(int=9)}/v.mp4"
#: Arguments of each function that a user may call. TEXT marks the text to store. Other words in
#: capitals are ids of rows that `world` creates.
CALLS: dict[str, Json] = {
    "enqueue_job": {**OF, "p_job_type": "work", "p_payload": NOTE},
    "enqueue_jobs": {**OF, "p_jobs": [{"job_type": "work", "payload": NOTE}]},
    "cancel_job": {"p_job_id": "PENDING"},
    "cancel_jobs": {**OF, "p_filter": {"job_type": "work"}},
    "retry_job": {"p_job_id": "FAILED", "p_payload": NOTE},
    "retry_jobs": {**OF, "p_filter": {"job_type": "work"}},
    "replay_job": {"p_job_id": "FAILED", "p_request": {"payload": NOTE}},
    "answer_job": {"p_job_id": "ASKING", "p_answer": {"answer": "TEXT"}},
    "emit_event": {**OF, "p_name": "e", "p_payload": NOTE},
    "pause_jobs": {"p_request": {"kind": "workspace", "name": ACME, "reason": "TEXT"}},
    "put_schedule": {
        **OF,
        "p_schedule": {"name": "s", "cron": "@daily", "job_type": "work", "payload": NOTE},
    },
    "put_webhook": {
        **OF,
        "p_webhook": {"url": "https://x.example", "description": "TEXT", "sealed_secret": SEALED},
    },
    "test_webhook": {**OF, "p_webhook_id": "HOOK"},
    "open_guest_session": {**OF, "p_options": {"user_id": BOB}},
    "set_workspace_limits": {**OF, "p_limits": {"own_max_running": 3}},
    "chat_request": {"p_session_id": "s" * 40, "p_request": {"text": "TEXT", "client_id": "c"}},
    "chat_respond": {"p_session_id": "CHAT", "p_message_id": "MESSAGE", "p_content": "TEXT"},
    "chat_cancel": {"p_session_id": "CHAT", "p_work_id": None},
    "chat_messages": {"p_session_id": "CHAT"},
    "plan_start": {**OF, "p_plan": PLAN},
    "plan_cancel": {"p_plan_id": "PLAN"},
    "plan_retry": {"p_plan_id": "ENDED"},
    "plan_redo": {"p_plan_id": "ENDED", "p_stage": "outline"},
    "plan_edit": {"p_plan_id": "ENDED", "p_stage": "risks", "p_text": "TEXT"},
    "plan_edit_task": {"p_plan_id": "ENDED", "p_change": {"task": "A", "days": 1, "after": []}},
    "plan_share": {"p_plan_id": "PLAN", "p_is_shared": True},
    "plan_delete": {"p_plan_id": "PLAN"},
    "training_start": {**OF, "p_title": "TEXT", "p_object_key": FILE},
    "training_cancel": {"p_training_id": "TRAINING"},
    "training_retry": {"p_training_id": "TRIED"},
    "training_delete": {"p_training_id": "TRAINING"},
    "training_edit_step": {
        "p_training_id": "TRAINING",
        "p_step": 1,
        "p_title": "t",
        "p_detail": "TEXT",
    },
    "training_share": {"p_training_id": "TRAINING", "p_is_shared": True},
    "beacon_submit": {**OF, "p_spec": SPEC},
    "beacon_cancel": {"p_id": "SPEC"},
    "beacon_share": {"p_id": "SPEC", "p_is_shared": True},
    "beacon_redrive": {**OF},
    "put_workspace_settings": {**OF, "p_changes": {"sealed_key": "TEXT"}},
    "enrich_account": {"p_account_id": "ACCOUNT"},
    "enrich_contact": {"p_contact_id": "CONTACT"},
    "delete_schedule": {**OF, "p_name": "gone"},
    "delete_webhook": {**OF, "p_webhook_id": "HOOK"},
    "explain_job": {"p_job_id": "PENDING"},
    "follow_topic": {"p_topic": "TOPIC", "p_follower_id": ACME},
    "open_stream": {},
}
NAMES = {"ACME": ACME, "ADA": ADA, "BOB": BOB, "TOPIC": f"workspace:{ACME}"}
#: Functions for guests that take no tokens, because a call changes only the rows of one id.
UNPAID = {"chat_cancel", "chat_messages", "plan_cancel", "plan_delete", "plan_share"}
#: For each right to write a table through the Data API, an SQL statement that uses the right.
ROWS = {
    "public.jobs INSERT": (
        "insert into public.jobs (workspace_id, user_id, job_type, payload, status)"
        " select '{ACME}', '{ADA}', 'work', jsonb_build_object('text', '{TEXT}'::text), 'pending'"
        " from generate_series(1, {MANY})"
    ),
    "public.jobs UPDATE": "update public.jobs set status = 'cancelled' where id = '{PENDING}'",
    "public.workspace_members INSERT": (
        "insert into public.workspace_members (workspace_id, user_id)"
        " select '{ACME}', gen_random_uuid() from generate_series(1, {MANY})"
    ),
    "public.workspace_members UPDATE": (
        "update public.workspace_members set role = 'manager' where user_id = '{BOB}'"
    ),
    "public.workspace_settings INSERT": (
        "insert into public.workspace_settings (workspace_id) values ('{ACME}')"
    ),
    "public.workspace_settings UPDATE": (
        "insert into public.workspace_settings (workspace_id) values ('{ACME}');"
        "update public.workspace_settings set apollo_auto_enrich = true"
    ),
}
for _table in ("public.accounts", "public.contacts"):
    ROWS[f"{_table} INSERT"] = (
        f"insert into {_table} (workspace_id, name)"
        " select '{ACME}', '{TEXT}' from generate_series(1, {MANY})"
    )
    ROWS[f"{_table} UPDATE"] = f"update {_table} set name = '{{TEXT}}'"
RIGHTS = """
select distinct format('%I.%I %s', table_schema, table_name, privilege_type)
from information_schema.column_privileges
where grantee in ('authenticated', 'anon') and privilege_type in ('INSERT', 'UPDATE')
  and table_schema !~ '^(auth|realtime|storage|supabase_functions|kept|extensions|graphql)'
"""
#: Rows of the example apps, as the apps' users and workers create them.
APPS = """
insert into public.async_session_state (session_id, workspace_id, title, created_by)
values ('%(CHAT)s', '%(ACME)s', 't', %(OWNER)s);
insert into public.async_messages (id, session_id, workspace_id, job_id, type, content, question)
values ('%(MESSAGE)s', '%(CHAT)s', '%(ACME)s', '%(ASKING)s', 'question', '?', '{}');
insert into public.async_messages (session_id, workspace_id, job_id, type, content, work_type)
values ('%(CHAT)s', '%(ACME)s', '%(PENDING)s', 'message', 'x', 'research');
insert into public.plans (id, workspace_id, prompt, speed_vs_detail, job_id, created_by)
values ('%(PLAN)s', '%(ACME)s', 'p', 'fast_but_skip_details', '%(PENDING)s', %(OWNER)s),
  ('%(ENDED)s', '%(ACME)s', 'p', 'fast_but_skip_details', '%(FAILED)s', %(OWNER)s);
insert into public.plan_stages (plan_id, name, workspace_id, result)
values ('%(ENDED)s', 'risks', '%(ACME)s', '{"text": "r"}'),
  ('%(ENDED)s', 'work_breakdown', '%(ACME)s', '{"tasks": [{"id": "A", "title": "a", "days": 1}]}'),
  ('%(ENDED)s', 'dependencies', '%(ACME)s', '{"order": []}');
insert into public.trainings (id, workspace_id, title, object_key, procedure)
values
  (
    '%(TRAINING)s', '%(ACME)s', 't', 'workspaces/%(ACME)s/1',
    '{"procedure": {"steps": [{"title": "s"}]}}'
  ),
  ('%(TRIED)s', '%(ACME)s', 't', 'workspaces/%(ACME)s/2', null);
insert into public.training_jobs (training_id, job_type, job_id, workspace_id)
values ('%(TRAINING)s', 'transcription', '%(PENDING)s', '%(ACME)s'),
  ('%(TRIED)s', 'transcription', '%(FAILED)s', '%(ACME)s');
insert into public.beacon_jobs (id, workspace_id, jobspec_id, version, spec)
values ('%(SPEC)s', '%(ACME)s', 'a', '1', '{}');
insert into public.beacon_outbox (job_id, workspace_id, message, status)
values ('%(SPEC)s', '%(ACME)s', '{}', 'dead');
insert into public.accounts (id, workspace_id, name) values ('%(ACCOUNT)s', '%(ACME)s', 'a');
insert into public.contacts (id, workspace_id, name) values ('%(CONTACT)s', '%(ACME)s', 'c');
"""


def world(engine: Engine, owner: str | None) -> dict[str, str]:
    """Create jobs in three states and rows of the example apps.

    Return their ids by the capitalized words that `CALLS` contains.
    """
    engine.stop_clock()
    engine.publish_deliveries()
    types = "chat_message plan transcription mux_upload enrich_account enrich_contact"
    for each in types.split():
        engine.register(each)
    engine.run("delete from public.workspace_settings")
    engine.put_schedule(name="gone")
    made = {"HOOK": engine.put_webhook()["id"]}
    for name, outcome in (("FAILED", "failed"), ("ASKING", "waiting")):
        made[name] = engine.enqueue()
        engine.settle(engine.lease_one(job_types=["work"]), outcome, error=ERROR, wait=ask())
    made["PENDING"] = engine.enqueue(delay_seconds=900)
    names = "CHAT MESSAGE PLAN ENDED TRAINING TRIED SPEC ACCOUNT CONTACT"
    made |= {name: str(uuid.uuid4()) for name in names.split()}
    named = {**made, "ACME": ACME, "OWNER": f"'{owner}'" if owner else "null"}
    engine.run(APPS % named)
    return {**made, "MESSAGE": f"msg_{made['MESSAGE']}", **NAMES}


def put(value: Any, ids: dict[str, str], text: str) -> Any:
    """Replace each capitalized word in the arguments by its id, and TEXT by the given text."""
    match value:
        case dict():
            return {key: put(each, ids, text) for key, each in value.items()}
        case list():
            return [put(each, ids, text) for each in value]
        case "TEXT":
            return text
        case str():
            return ids.get(value, value)
    return value


def price(
    engine: Engine, role: str, sub: str | None, act: Callable[[Engine], None]
) -> tuple[int, float, int]:
    """Make a call and roll it back.

    Return the number of rows written, the tokens taken, and how many letters of TEXT one row
    stored.
    """
    bucket, burst = ("u:%enqueues", "10000") if sub else ("g:%", "60")
    left = f"select coalesce(min(tokens), {burst}) from queue.buckets where name like %s"
    with engine.as_role(role, sub=sub) as who, who.connection.transaction(force_rollback=True):
        act(who)
        who.run("reset role")
        written = who.one(WRITTEN)
        cost = float(burst) - who.one(left, bucket)
        held = 0
        for table in who.rows(TABLES):
            holds = f"select 1 from {table} as t where strpos(t::text, %s) > 0 limit 1"
            sizes = (size for size in SIZES if size > held)
            held = next((n for n in sizes if who.rows(holds, TEXT[:n])), held)
    return written, cost, held


def longest(
    engine: Engine, name: str, role: str, sub: str | None, call: Callable[..., None]
) -> tuple[int, float, int]:
    """Return the price of a call that stores the longest text it accepts."""
    result = ""
    for size in SIZES:
        try:
            return price(engine, role, sub, partial(call, text=TEXT[:size]))
        except psycopg.Error as error:
            result = str(error)
    raise AssertionError(f"{name} is refused: {result}")


@pytest.mark.parametrize("who", ["a person", "a guest"])
def test_what_is_stored_is_paid_for(engine: Engine, who: str) -> None:
    """A call that writes takes at least one token from the caller's rate limit.

    A signed-in person's call takes one more token for each 16 kB of text.
    """
    role, sub = ("authenticated", ADA) if who == "a person" else ("anon", None)
    engine.allow_guests(60)
    functions = set(engine.rows(FUNCTIONS, role))
    assert functions == set(CALLS) if sub else functions < set(CALLS)
    ids = world(engine, sub)
    unpaid = {}
    for name in functions if sub else functions - {"follow_topic"}:

        def call(person: Engine, text: str) -> None:
            person.rpc(name, **put(CALLS[name], ids, text))  # noqa: B023

        written, cost, held = longest(engine, name, role, sub, call)
        if cost < bool(written) + (held // 16384 if sub else 0):
            unpaid[name] = held
    assert unpaid == ({} if sub else dict.fromkeys(UNPAID, 0))


@pytest.mark.parametrize("many", [1, 250])
def test_what_policies_let_people_write_is_paid_for(engine: Engine, many: int) -> None:
    """Each row that a person writes through the Data API takes at least one token.

    Each 16 kB of text takes one more token.
    """
    assert set(engine.rows(RIGHTS)) == set(ROWS)
    ids = world(engine, ADA)
    unpaid = {}
    for name, statement in ROWS.items():

        def call(person: Engine, text: str) -> None:
            values = {**ids, "TEXT": text[: 640_000 // many], "MANY": many}
            person.run(statement.format(**values))  # noqa: B023

        written, cost, held = longest(engine, name, "authenticated", ADA, call)
        least = many if "MANY" in statement else 1
        if not written or cost < least + least * held // 16384:
            unpaid[name] = (written, cost, held)
    assert unpaid == {}
