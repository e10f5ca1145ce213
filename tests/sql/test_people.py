"""Export and erasure of a person's data, checked in every column of all tables."""

import json
import uuid

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.contract.test_promise_07_tenants import TABLES as ALL_COLUMNS, fill as add_row
from tests.support.databases import Database
from tests.support.engine import ACME, ADA, BOB, Engine, Json, refusal

#: A person's name with characters that JSON, LIKE patterns and texts write in different ways.
MARK = 'Zö"e_50%'

#: Columns that contain no words of a person: ids of rows, and names that code and operators choose.
IMPERSONAL = {
    *("id", "workspace_id", "job_id", "plan_id", "training_id", "account_id"),
    *(
        "queue_job_id",
        "share_id",
        "parent_id",
        "replay_of",
        "tick_id",
        "follower_id",
        "last_workspace_id",
    ),
    *("last_job_id", "after_id", "answers", "job_type", "queue", "status", "kind", "type", "role"),
    *(
        "log_level",
        "outcome",
        "traceparent",
        "chosen",
        "replay_from",
        "freed_when",
        "cron",
        "timezone",
        "missed",
    ),
    *("source", "model", "provider", "region", "engine", "language", "work_type"),
    *("speed_vs_detail", "event_types", "job_types", "queues", "checksum", "request_hash"),
    *("edited_at", "reached", "kid", "x", "sealed"),
    *("attempts.origin", "guest_sessions.session_id", "step", "stream", "pauses.name"),
    # These columns belong to rows that exist only while their job is live.
    *("gated.key", "leases.key", "notes.key", "leases.pulse", "workers.abandoned", "workers.slots"),
    *("job_types.commit", "job_types.description", "job_types.payload_schema"),
    *("job_types.refusal", "settings.name", "settings.value", "tasks.name"),
    *("feed.leased_data", "refusals.task", "suspects.company"),
    *("stats.counts", "stats.queue_times", "stats.run_times", "withdrawn_schedules.name"),
    *("workers.worker_id", "workers.version", "workers.summary", "workers.evidence"),
    *("plan_stages.name", "trainings.sound"),
    *("async_messages.session_id", "workspace_settings.apollo_api_key_last4"),
}
TABLES = """
select format('%I.%I', c.relnamespace::regnamespace, c.relname) from pg_class as c
where c.relkind in ('r', 'p')
  and c.relnamespace::regnamespace::text in
    ('public', 'queue', 'beacon', 'chat', 'enrichment', 'plan', 'training')
order by 1
"""
COLUMNS = """
select c.relname, a.attname from pg_class as c
join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.oid = %s::regclass and a.atttypid = any ('{uuid, uuid[], text, text[], jsonb}'::regtype[])
  and not exists (select from queue.personal_columns() as p
    where p.relation = c.oid and p.name = quote_ident(a.attname))
"""


def test_each_column_says_whether_it_names_or_quotes_a_person(engine: Engine) -> None:
    tables = engine.rows(TABLES)
    assert {"public.jobs", "queue.feed", "public.plans", "enrichment.calls"} <= set(tables)
    unknown = [
        f"{table}.{column}"
        for each in tables
        for table, column in engine.rows(COLUMNS, each)
        if not IMPERSONAL & {column, f"{table}.{column}"}
    ]
    # An unknown column needs a comment `Person: …`, which the head of 18_people.sql describes, or
    # an entry in IMPERSONAL.
    assert unknown == []
    kinds = set(engine.rows("select distinct kind from queue.personal_columns()"))
    assert kinds == {
        *("owner", "key", "tags", "mention", "jobs", "words", "words to clear"),
        *("words of the job", "secret", "file"),
    }


def call(engine: Engine, function: str, user: str, *words: str) -> Json:
    """Call `erase_person` or `export_person`, and return the result."""
    return dict(engine.one(f"select public.{function}(%s, %s)", user, list(words)))


def found(engine: Engine, *words: str) -> list[str]:
    """Return the tables that contain one of these words, in plain or in JSON form."""
    forms = [*words, *(json.dumps(word, ensure_ascii=False)[1:-1] for word in words)]
    query = """
        select 1 from {} as t, unnest(%s::text[]) as w (word)
        where strpos(t::text, w.word) > 0 or strpos(to_jsonb(t)::text, w.word) > 0 limit 1"""
    return [each for each in engine.rows(TABLES) if engine.rows(query.format(each), forms)]


def empty(engine: Engine) -> list[tuple[str, str, str]]:
    """Return the columns for a person's words that do not contain MARK, with their types."""
    form = "%" + MARK.replace('"', "%") + "%"  # JSON escapes the quotation mark
    columns = engine.rows(
        "select format('%s.%s', relnamespace::regnamespace, relname), name, type"
        " from queue.personal_columns() join pg_class as c on c.oid = relation"
        " where kind like 'words%%' or kind = 'tags' order by 1, 2"
    )
    return [
        (table, column, kind)
        for table, column, kind in columns
        if not engine.rows(f"select 1 from {table} where {column}::text like %s limit 1", form)
    ]


def fill(person: Engine, engine: Engine, text: str) -> None:
    """As a person and as a worker, write a text into every field that accepts text."""
    engine.publish_deliveries()
    options: Json = {"tags": [text], "session_id": text, "concurrency_key": text}
    keys: Json = {"idempotency_key": text, "unique": {"key": text}}
    note = {"note": text}
    person.enqueue(note, **options, **keys)
    lease = engine.lease_one()
    news: Json = {
        "progress": {"percentage": 5, "stage": text, "message": text},
        "logs": [{"level": "info", "message": text, "metadata": note}],
        "steps": [{"name": text, "result": note}],
    }
    assert engine.report(lease, **news) == "ok"
    error = {"message": text, "data": note}
    engine.settle(lease, "retry", error=error, traceback=note, retry_after_seconds=0)
    engine.advance(1)
    engine.settle(engine.lease_one(), "completed", result=note)
    person.enqueue(note, **options)
    engine.suspend(engine.lease_one(), text, kind="event", event=f"{text} 2", default=note)
    person.enqueue(note, **options)
    engine.settle(engine.lease_one(), "failed", error=error)
    person.enqueue(note, delay_seconds=86_400)
    person.rpc("emit_event", p_workspace_id=ACME, p_name=text, p_payload=note)
    person.put_schedule(name=text, cron="0 5 1 1 *", payload=note)
    person.put_webhook(description=text)
    person.pause("workspace_type", "work", workspace_id=ACME, reason=text)


APPS = """
insert into plans (workspace_id, prompt, speed_vs_detail, job_id, idempotency_key,
  created_by)
values (%(acme)s, %(text)s, 'fast_but_skip_details', gen_random_uuid(), %(text)s, %(user)s);
insert into plan_stages (plan_id, name, workspace_id, result)
select id, 'outline', workspace_id, jsonb_build_object('said', %(text)s::text)
from plans where prompt = %(text)s;
insert into async_session_state (session_id, workspace_id, title, created_by)
values (%(text)s, %(acme)s, %(text)s, %(user)s);
insert into async_messages (session_id, workspace_id, job_id, type, content, client_id)
values (%(text)s, %(acme)s, gen_random_uuid(), 'message', %(text)s, %(text)s);
insert into trainings (workspace_id, title, object_key, created_by)
values (%(acme)s, %(text)s, 'workspaces/' || %(acme)s::uuid || '/' || %(text)s::text, %(user)s);
insert into training_chunks (training_id, number, workspace_id, segments, engine, offline)
select id, 1, workspace_id, jsonb_build_array(%(text)s::text), 'e', true
from trainings where title = %(text)s;
insert into beacon_jobs (id, workspace_id, jobspec_id, version, spec, created_by)
values (%(id)s, %(acme)s, %(text)s, '1', to_jsonb(%(text)s::text), %(user)s);
insert into beacon_outbox (job_id, workspace_id, message)
values (%(id)s, %(acme)s, to_jsonb(%(text)s::text));
insert into beacon_executions (workspace_id, job_id, jobspec_id, region, error)
values (%(acme)s, %(id)s, %(text)s, 'eu', %(text)s);
"""
OF_CONTACTS = """
insert into enrichment.calls (job_id, fence, workspace_id, answered_at, credits, answer)
values (%(id)s, 1, %(acme)s, now(), 1, to_jsonb(%(text)s::text));
insert into accounts (workspace_id, name, city, metadata)
values (%(acme)s, %(text)s, null, '{}'),
  (%(acme)s, 'Kept', %(text)s, jsonb_build_object('by', %(text)s::text))
"""
#: A query of everything that a member may read of a workspace.
ANSWERS = """
select public.list_jobs(), public.event_feed({acme}, '1:1:', 1000), public.list_schedules({acme}),
  public.list_webhooks({acme}), public.dead_letters({acme}), public.explain_queue({acme}),
  public.list_workspaces(), (select jsonb_agg(to_jsonb(m)) from workspace_members as m),
  (select jsonb_agg(to_jsonb(l)) from job_logs as l),
  (select jsonb_agg(to_jsonb(e)) from job_events as e)
"""


def put_into_apps(engine: Engine, statements: str) -> None:
    """Execute statements in one transaction, with the values that they name."""
    values = {"acme": ACME, "text": MARK, "user": ADA, "id": str(uuid.uuid4())}
    psycopg.ClientCursor(engine.connection).execute(statements, values)


def mark_all(engine: Engine) -> None:
    """Write MARK into every text column, in at least one row of each table."""
    put_into_apps(engine, APPS)
    put_into_apps(engine, OF_CONTACTS)
    columns = {table: needed for table, _, needed in engine.rows(ALL_COLUMNS)}
    checks = "select conname from pg_constraint where contype = 'c' and conrelid = %s::regclass"
    for table, column, kind in empty(engine):
        if not engine.rows(f"select from {table} limit 1"):
            add_row(engine, table, columns[table])
            if "job_id" in columns[table]:
                engine.run(f"update {table} set job_id = (select id from jobs limit 1)")
        for check in engine.rows(checks, table):
            engine.run(f'alter table {table} drop constraint "{check}"')
        value = {"text": MARK, "text[]": [MARK]}.get(kind, Jsonb([MARK]))
        engine.run("set session_replication_role = replica")
        some = f"where ctid = (select ctid from {table} order by ctid desc limit 1)"
        engine.run(f"update {table} set {column} = %s {some}", value)
        engine.run("reset session_replication_role")


def answers(engine: Engine, user: str) -> str:
    """Return everything that a member may read, as one text."""
    with engine.member(user) as member:
        return str(member.rows(ANSWERS.format(acme=f"'{ACME}'")))


def test_what_a_person_made_is_gone_after_one_call(
    engine: Engine, bob: Engine, ada: Engine
) -> None:
    """After `erase_person`, no table contains the person's id or words.

    The result lists the files that the command must delete.
    """
    kept = bob.enqueue({"note": "Bob's"}, delay_seconds=86_400)
    fill(ada, engine, MARK)
    put_into_apps(engine, APPS)
    about = engine.enqueue({"to": MARK}, tags=[f"user:{ADA}"])
    assert len(found(engine, MARK, ADA)) >= 22

    engine.maintain()  # maintenance reads the emitted event
    done = call(engine, "erase_person", ADA)

    assert found(engine, MARK, ADA) == []
    answer = answers(engine, BOB)
    assert MARK not in answer
    assert ADA not in answer
    assert "job.failed" in answer
    assert engine.status(kept) == "pending"
    assert engine.rows("select from jobs where id = %s", about) == []
    assert (done["deleted"]["public.jobs"], done["cleared"]["queue.pauses"]) == (5, 1)
    assert done["files"] == [f"workspaces/{ACME}/{MARK}"]
    assert engine.one("select paused_by is null and reason is null from queue.pauses")
    assert call(engine, "erase_person", ADA) == {"deleted": {}, "cleared": {}}


def test_what_others_wrote_of_a_person_is_found_by_words(engine: Engine, ada: Engine) -> None:
    """`export_person` returns all rows that contain given words and changes nothing.

    `erase_person` then erases these rows' words.
    """
    fill(ada, engine, MARK)
    mark_all(engine)
    kept = ada.enqueue({"note": "Zoe"}, delay_seconds=86_400)
    assert set(call(engine, "export_person", BOB)["tables"]) == {"public.workspace_members"}
    quotes = engine.enqueue({"about": {"id": BOB}}, delay_seconds=86_400)
    held = set(found(engine, MARK, ADA))
    assert held >= {"public.accounts", "public.contacts", "public.workspaces", "enrichment.calls"}
    assert empty(engine) == []

    given = call(engine, "export_person", ADA, MARK)
    assert (given["user_id"], set(given["tables"]) >= held) == (ADA, True)
    assert MARK in str(given["tables"]["public.job_logs"])
    assert "sealed" not in str(given["tables"]["queue.webhooks"])
    assert set(found(engine, MARK, ADA)) == held
    call(engine, "erase_person", BOB, MARK.upper())

    assert found(engine, MARK) == []
    assert MARK not in answers(engine, ADA)
    assert engine.status(kept) == "pending"
    assert engine.rows("select from jobs where id = %s", quotes) == []
    account = "select city, metadata from accounts where name = 'Kept'"
    assert engine.one(account) == (None, {})
    assert engine.rows("select user_id::text from workspace_members where user_id = %s", ADA)


def test_what_a_deleted_job_said_is_not_in_the_feed(engine: Engine, ada: Engine) -> None:
    """When jobs are deleted with plain SQL, their texts disappear from the event feed too.

    A text stays if it also belongs to a job that is left.
    """
    word = "maria"
    kept, *gone = (engine.enqueue(session_id=word) for _ in range(3))
    leases = {lease["job"]["id"]: lease for lease in engine.lease()}
    for job in gone:
        engine.report(leases[job], progress={"percentage": 5, "message": word})
    error = {"type": "x", "message": word}
    for lease in leases.values():
        engine.settle(lease, "failed", error=error, retry=False)
    said = "select count(*) from queue.feed as f where f::text like %s"
    assert engine.one(said, f"%{word}%") > 3

    engine.run("delete from jobs where id = any (%s)", gone)

    assert engine.rows(f"{said} and not f.job_ids @> %s", f"%{word}%", [kept]) == [0]
    feed = ada.rpc("event_feed", p_workspace_id=ACME, p_cursor="1:1:")
    assert {each["job_id"] for each in feed["events"] if word in str(each)} <= {kept}


@pytest.mark.parametrize("words", [["ab"], ["  a  "], [None]])
def test_too_short_a_word_is_refused(engine: Engine, words: list[str | None]) -> None:
    for function in ("erase_person", "export_person"):
        with pytest.raises(psycopg.Error) as refused:
            engine.rows(f"select public.{function}(%s, %s)", ADA, words)
        assert refusal(refused.value) == ("PT400", "invalid_argument", "p_words")


def test_a_table_of_a_project_says_so_itself(database: Database) -> None:
    with database.connect() as connection:
        engine = Engine(database, connection)
        engine.run(
            "set role postgres; create table public.notes (owner uuid, said text, by_hand text);"
            " comment on column public.notes.owner is 'Person: owner';"
            " comment on column public.notes.said is 'Person: words to clear'; reset role;"
        )
        engine.run("insert into notes values (%s, 'a', 'b'), (%s, %s, 'c')", ADA, BOB, MARK)
        done = call(engine, "erase_person", ADA, MARK)
        assert done == {"deleted": {"public.notes": 1}, "cleared": {"public.notes": 1}}
        assert engine.rows("select said, by_hand from notes") == [(None, "c")]


def test_a_mistyped_job_type_is_in_no_statistics(engine: Engine, ada: Engine) -> None:
    word = "zoe.smith"
    ada.enqueue(job_type=word)
    engine.maintain()
    assert "queue.stats" in found(engine, word)
    call(engine, "erase_person", ADA, word)
    assert found(engine, word) == []
